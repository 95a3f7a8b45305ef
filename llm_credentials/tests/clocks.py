"""Time that passes for one module alone: threads of the process that look at the clock meanwhile see the real one."""

from __future__ import annotations

import time
from types import ModuleType, SimpleNamespace

import pytest


def move_on(monkeypatch: pytest.MonkeyPatch, module: ModuleType, seconds: float) -> None:
    """For ``module``, which has ``import time``, it is so much later, and stays so."""
    later = time.monotonic() + seconds
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: later, time=time.time))
