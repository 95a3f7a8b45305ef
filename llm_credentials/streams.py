"""Server-sent events: their format, an unbuffered response, and database access between events."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, Final, ParamSpec, TypeVar

from asgiref.sync import sync_to_async
from django.db import connection
from django.http import StreamingHttpResponse

P = ParamSpec("P")
T = TypeVar("T")

HEARTBEAT_S: Final = 10.0
HEARTBEAT: Final = b": still here\n\n"
"""A comment that keeps proxies from closing an idle connection."""
RETRY: Final = b"retry: 2000\n\n"
"""How long a browser waits before it reconnects, in milliseconds."""


class EventStreamResponse(StreamingHttpResponse):
    """Closes its generator as soon as the client disconnects, and disables buffering."""

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(events, content_type="text/event-stream", headers=headers)
        self.events = events

    def __aiter__(self) -> AsyncIterator[bytes]:
        # The server closes what it iterates; the base class would wrap our generator.
        return self.events


def sse(event: str, data: dict[str, Any]) -> bytes:
    return f"event: {event}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


async def in_database(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call ``function`` on this task's database thread, then release the connection.

    A stream lasts minutes and needs the database for moments; keeping the connection would cost one per reader.
    """

    def work() -> T:
        try:
            return function(*args, **kwargs)
        finally:
            if not connection.in_atomic_block:
                connection.close()

    return await sync_to_async(work)()
