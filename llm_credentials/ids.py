"""Ids of calls and attempts. They tell things apart and guard nothing, so each need not ask the system for entropy."""

from __future__ import annotations

import os
import random
from uuid import UUID

_numbers = random.Random()  # noqa: S311 (no secret)
os.register_at_fork(after_in_child=_numbers.seed)


def new_id() -> UUID:
    """A random UUID; never a secret."""
    return UUID(int=_numbers.getrandbits(128), version=4)
