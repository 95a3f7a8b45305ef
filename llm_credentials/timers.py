"""Delayed work in this process, in a thread of its own.

It is lost when the process ends, so use it only for work that something else does later anyway.
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
    """Call ``work`` after that time, with everybody's rows open for this purpose. Exceptions are logged."""

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
    """Cancel all pending work and wait for what is running."""
    for timer in list(_set):
        timer.cancel()
        if timer.ident != threading.get_ident():
            timer.join()
    _set.clear()
