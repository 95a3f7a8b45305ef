"""Lets a tool report its progress: ``say("Reading page 2 of 5")``. Django-free."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

from agents.texts import one_line

MAX_SAID_CHARS = 300

listener: ContextVar[Callable[[str], None] | None] = ContextVar("listener", default=None)
"""Set by the loop around each tool; also visible to threads started with ``asyncio.to_thread``."""


def say(text: str) -> None:
    """Show a line while the tool works, as a ``Progress`` event. Does nothing outside a tool."""
    heard = listener.get()
    line = one_line(text)[:MAX_SAID_CHARS]
    if heard is not None and line:
        heard(line)
