"""Delayed work of this process, in a thread of its own.

A process that ends takes it along: only for what somebody else does later if nobody does it now.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog
from django.db import connections

from llm_credentials.wall import open_for

log = structlog.get_logger(__name__)

_set: set[threading.Timer] = set()


def after(seconds: float, purpose: str, work: Callable[[], object]) -> None:
    """Call ``work`` then, with everybody's rows open for this purpose. What it raises goes to the log."""

    def run() -> None:
        try:
            with open_for(purpose):
                work()
        except Exception as error:
            log.warning("timer_failed", purpose=purpose, error=type(error).__name__)
        finally:
            connections.close_all()
            _set.discard(timer)

    timer = threading.Timer(seconds, run)
    timer.daemon = True
    _set.add(timer)
    timer.start()


def forget() -> None:
    """Do nothing of it any more; what has begun is waited for."""
    for timer in list(_set):
        timer.cancel()
        if timer.ident != threading.get_ident():
            timer.join()
    _set.clear()
