"""Retries transactions that the database refused, for background work: concurrent writers may keep SQLite locked."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from django.db import OperationalError, connection

T = TypeVar("T")

TRIES = 5
PAUSE_S = 0.5


def with_retries(work: Callable[[], T]) -> T:
    """The result of ``work``, which is one transaction and safe to repeat. Raises OperationalError after ``TRIES``."""
    for turn in range(1, TRIES):
        try:
            return work()
        except OperationalError:
            if connection.in_atomic_block:
                raise
            time.sleep(PAUSE_S * turn)
    return work()
