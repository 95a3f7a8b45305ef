"""Python's collector of cyclic garbage in a process that serves: seldom, and past what stays for good.

By default it looks through young objects every 700 allocations, and through all that the imports of Django and the SDKs
have left each time that a quarter has been added: tens of milliseconds in which nobody is answered. Nearly everything
that a request makes goes by itself, without it.
"""

from __future__ import annotations

import gc
from typing import Final, Literal

YOUNG: Final = 20_000
"""Allocations without a release between two looks at what is new."""
_LATE_IMPORTS: Final = 2
"""SDKs are imported at their first use: so many times, what a full look leaves is set aside as well."""

_set_aside = 0


def settle() -> None:
    """What is there now stays for good and is not looked through again. For the end of a server's imports."""
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
