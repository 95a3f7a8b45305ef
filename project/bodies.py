"""Limits the size of request bodies while they arrive, before anything is stored."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

Message: TypeAlias = Mapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Any, Receive, Send], Awaitable[None]]

_TEXT = b'{"error": {"code": "body_too_large", "message": "What was sent is too large.", "where": null}}'


class LimitedBodies:
    """An ASGI application whose request bodies have at most ``max_bytes``; longer ones get 413."""

    def __init__(self, application: Application, max_bytes: int) -> None:
        self.application = application
        self.max_bytes = max_bytes

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.application(scope, receive, send)
        if _told(scope) > self.max_bytes:
            return await _refuse(send)
        received = 0
        begun = False

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            # Report a disconnect to the application, so that it ends without a response of its own.
            return {"type": "http.disconnect"} if received > self.max_bytes else message

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        await self.application(scope, counted, watched)
        if received > self.max_bytes and not begun:
            await _refuse(send)
        return None


def _told(scope: Any) -> int:
    """The Content-Length; 0 if it is missing or invalid."""
    text = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
    return int(text) if text.isdigit() and len(text) < 20 else 0


async def _refuse(send: Send) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(_TEXT)),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": _TEXT})
