"""Ids of calls and attempts. They identify and are not secret, so they need no system entropy."""

from __future__ import annotations

import os
import random
import time
from typing import Final
from uuid import UUID, SafeUUID

_numbers = random.Random()  # noqa: S311 (no secret)
os.register_at_fork(after_in_child=_numbers.seed)
_VERSION_7: Final = 0x7 << 76 | 0x8 << 60
_FREE: Final = 0xFFF << 64 | (1 << 62) - 1
"""The bits outside time, version and variant."""


def new_id() -> UUID:
    """A version 7 UUID: time-ordered, so that index inserts append; not a secret."""
    made = object.__new__(UUID)
    # Bypasses the constructor, whose argument checks take as long as the rest of this function.
    number = time.time_ns() // 1_000_000 << 80 | _VERSION_7 | _numbers.getrandbits(76) & _FREE
    object.__setattr__(made, "int", number)
    object.__setattr__(made, "is_safe", SafeUUID.unknown)
    return made
