"""Tunes Python's cyclic garbage collector for server processes: it runs rarely, and skips long-lived objects.

By default it scans young objects every 700 allocations, and all objects left by the imports of Django and the SDKs each
time a quarter has been added: this blocks the process for tens of milliseconds. Nearly all objects of a request are
freed without it, by reference counting.
"""

from __future__ import annotations

import gc
from typing import Final, Literal

YOUNG: Final = 20_000
"""Net allocations between two collections of young objects."""
_LATE_IMPORTS: Final = 2
"""SDKs are imported on first use, so survivors of this many full collections are frozen as well."""

_set_aside = 0


def settle() -> None:
    """Freeze all current objects: they are never scanned again. Call it after a server's imports."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 10, 10)
    if _looked not in gc.callbacks:
        gc.callbacks.append(_looked)


def _looked(phase: Literal["start", "stop"], info: dict[str, int]) -> None:
    global _set_aside
    if phase == "stop" and info["generation"] == 2 and _set_aside < _LATE_IMPORTS:
        _set_aside += 1
        gc.freeze()
