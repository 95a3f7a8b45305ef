"""Ids of calls and attempts. They tell things apart and guard nothing, so each need not ask the system for entropy."""

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
"""The bits that say neither time nor version nor variant."""


def new_id() -> UUID:
    """A UUID that says when it was made (version 7), so that an index of them grows at its end; never a secret."""
    made = object.__new__(UUID)
    # Its constructor looks for what it was given among six arguments, which takes as long as all the rest of this.
    number = time.time_ns() // 1_000_000 << 80 | _VERSION_7 | _numbers.getrandbits(76) & _FREE
    object.__setattr__(made, "int", number)
    object.__setattr__(made, "is_safe", SafeUUID.unknown)
    return made
