"""Processes beside a test's or a proof's own, on the same database and Valkey; each may be killed at any point.

They are forked from a process that never had a thread. A fork of the test process itself (``os.fork``) would inherit
every lock held by another thread at that moment, with no thread to release it, and would sometimes hang.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any, Final

from django.conf import settings

from project.tests import servers

LIMIT_S: Final = 120.0
"""Time limit for waiting for a process."""
_ADDRESSES: Final = ("DATABASES", "CACHES")
"""Settings changed in place, which therefore look like those of the module."""

_starter = multiprocessing.get_context("forkserver")
_starter.set_forkserver_preload(["project.tests.apart_first"])


def started(work: Callable[..., None], *args: Any) -> BaseProcess:
    """Start a process that runs ``work(*args)`` with this process's settings; function and arguments must be picklable.

    Patches of the test do not apply there.
    """
    process = _starter.Process(target=_begun, args=(_changed_settings(), work, args), daemon=True)
    process.start()
    return process


def ended(process: BaseProcess, limit_s: float = LIMIT_S) -> int:
    """Wait for its end and return the exit code, negative for a signal. Raises TimeoutError after killing it."""
    process.join(limit_s)
    if process.exitcode is None:
        kill(process)
        raise TimeoutError(f"a process beside the test was still running after {limit_s:.0f} s")
    return process.exitcode


def kill(process: BaseProcess) -> None:
    """With SIGKILL; returns when it is gone."""
    process.kill()
    process.join()


def _changed_settings() -> dict[str, Any]:
    of_the_run = vars(sys.modules["project.settings_test"])
    return {
        name: getattr(settings, name)
        for name, value in of_the_run.items()
        if name.isupper() and (name in _ADDRESSES or getattr(settings, name) is not value)
    }


def _begun(changed: dict[str, Any], work: Callable[..., None], args: tuple[Any, ...]) -> None:
    from django.db import connections

    from llm_credentials.wall import open_process_for
    from project.celery import app

    for name, value in changed.items():
        if name in _ADDRESSES:
            for alias, config in value.items():
                getattr(settings, name)[alias].update(config)
        else:
            setattr(settings, name, value)
    app.conf.update(broker_url=settings.CELERY_BROKER_URL)
    servers.wall(setattr)
    open_process_for("a test")
    try:
        work(*args)
    finally:
        connections.close_all()
