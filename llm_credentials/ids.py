"""Generates ids of calls and attempts. They guard nothing, so they need no entropy from the system."""

from __future__ import annotations

import os
import random
from typing import Final
from uuid import UUID, SafeUUID

_numbers = random.Random()  # noqa: S311 (no secret)
os.register_at_fork(after_in_child=_numbers.seed)
_VERSION_4: Final = 0x4 << 76 | 0x8 << 60
_FREE: Final = ~(0xF << 76 | 0xC << 60)
"""The bits that say neither version nor variant."""


def new_id() -> UUID:
    """A random UUID; never a secret."""
    made = object.__new__(UUID)
    # Its constructor looks for what it was given among six arguments, which takes as long as all the rest of this.
    object.__setattr__(made, "int", (_numbers.getrandbits(128) & _FREE) | _VERSION_4)
    object.__setattr__(made, "is_safe", SafeUUID.unknown)
    return made
