"""Server-sent events: their format, a response that is not buffered, and database work between two events."""

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
"""A comment, so that nobody between takes the line for dead."""
RETRY: Final = b"retry: 2000\n\n"
"""How soon a browser asks again when the line was cut, in milliseconds."""


class EventStreamResponse(StreamingHttpResponse):
    """Closes its generator the moment that the client is gone, and is buffered by nobody."""

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(events, content_type="text/event-stream", headers=headers)
        self.events = events

    def __aiter__(self) -> AsyncIterator[bytes]:
        # The server closes what it iterates; the wrappers of the base class would stand between it and our generator.
        return self.events


def sse(event: str, data: dict[str, Any]) -> bytes:
    return f"event: {event}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


async def in_database(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call ``function`` on the thread that does this task's database work, and let go of the connection after.

    A stream takes minutes and needs the database for moments: a connection kept between them would be one per reader.
    """

    def work() -> T:
        try:
            return function(*args, **kwargs)
        finally:
            if not connection.in_atomic_block:
                connection.close()

    return await sync_to_async(work)()
