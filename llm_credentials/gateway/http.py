"""The minimum of HTTP for the gateway: bounded request bodies, responses, and client disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextlib import aclosing
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeAlias

import orjson

from llm_credentials.gateway.errors import Refused
from llm_credentials.limits import Usage

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MAX_BODY_BYTES = 32 * 1024 * 1024
"""Images are sent in the body."""
BOM = b"\xef\xbb\xbf"
"""Byte order mark: some editors and shells prepend it."""
WATCHED_FROM_S = 0.05
JSON = "application/json"
EVENTS = "text/event-stream; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Answer:
    """``body`` is complete or an iterator of pieces."""

    body: bytes | AsyncGenerator[bytes, None]
    status: int = 200
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


def told(
    *, provider: str, attempts: int, model: str | None = None, key_owner: str | None = None, cost_usd: Decimal | None
) -> dict[str, str]:
    """Headers that say who answered and who pays; unknown values are left out."""
    said = {
        "provider": provider,
        "model": model,
        "key-owner": key_owner,
        "attempts": str(attempts),
        "cost-usd": None if cost_usd is None else str(cost_usd),
    }
    return {f"x-keyswitch-{name}": value for name, value in said.items() if value is not None}


class Left(Exception):
    """The client has disconnected."""


@dataclass(slots=True)
class Request:
    scope: Scope
    receive: Receive
    headers: dict[bytes, bytes]
    data: dict[str, Any] = field(default_factory=dict)
    """The body, once read."""
    size_bytes: int = 0
    usage: Usage | None = None
    """How much of the rate limit is used, once counted."""

    @classmethod
    def of(cls, scope: Scope, receive: Receive) -> Request:
        return cls(scope, receive, dict(scope["headers"]))

    def header(self, name: bytes) -> str:
        return self.headers.get(name, b"").decode("latin-1")

    async def read(self) -> None:
        """Reads the body into ``data``. Raises Refused, Left."""
        body = await self._body()
        try:
            data = orjson.loads(body.removeprefix(BOM))
        except orjson.JSONDecodeError:
            raise Refused(400, "invalid_json", "The body is not valid JSON.") from None
        if not isinstance(data, dict):
            raise Refused(400, "invalid_json", "The body is a JSON object.")
        self.data, self.size_bytes = data, len(body)

    async def _body(self) -> bytes:
        if self.header(b"content-encoding") not in ("", "identity"):
            raise Refused(415, "unsupported_encoding", "Send the body uncompressed.")
        kind = self.header(b"content-type")
        if kind != JSON and kind.partition(";")[0].strip().lower() not in (JSON, ""):
            raise Refused(415, "unsupported_media_type", "Send the body as application/json.")
        length = self.header(b"content-length")
        if length.isdecimal() and (len(length) > 12 or int(length) > MAX_BODY_BYTES):
            raise _too_large()
        message = await self.receive()
        body: bytes = message.get("body", b"")
        pieces, size = [body], len(body)
        while message.get("more_body"):
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise Left
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            if size > MAX_BODY_BYTES:
                raise _too_large()
        if message["type"] == "http.disconnect":
            raise Left
        return b"".join(pieces) if len(pieces) > 1 else body


def _too_large() -> Refused:
    return Refused(413, "body_too_large", f"The body has more than {MAX_BODY_BYTES // (1024 * 1024)} MiB.")


async def until_left(receive: Receive, work: Awaitable[None]) -> None:
    """Do the work; if the client disconnects first, cancel it and wait for it to end.

    Watches for a disconnect only from ``WATCHED_FROM_S`` on: most work is done by then, and a watcher costs as much as
    a call.
    """
    me = asyncio.current_task()
    assert me is not None
    door = _Door(receive, me)
    timer = me.get_loop().call_later(WATCHED_FROM_S, door.watch)
    try:
        await work
    except asyncio.CancelledError:
        if not door.was_left:
            raise
        me.uncancel()
    finally:
        timer.cancel()
        door.close()


class _Door:
    """Cancels a task when its client disconnects."""

    __slots__ = ("_receive", "_task", "_watcher", "was_left")

    def __init__(self, receive: Receive, task: asyncio.Task[Any]) -> None:
        self.was_left = False
        self._receive = receive
        self._task: asyncio.Task[Any] | None = task
        self._watcher: asyncio.Future[None] | None = None

    def watch(self) -> None:
        self._watcher = asyncio.ensure_future(_gone(self._receive))
        self._watcher.add_done_callback(self._leave)

    def close(self) -> None:
        self._task = None
        if self._watcher is not None:
            self._watcher.cancel()

    def _leave(self, _: asyncio.Future[None]) -> None:
        if self._task is not None:
            self.was_left = True
            self._task.cancel()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def send_answer(send: Send, answer: Answer, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Raises nothing of its own; a streamed body is always closed."""
    whole = answer.body if isinstance(answer.body, bytes) else None
    named = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in answer.headers.items()]
    head = [(b"content-type", answer.content_type.encode()), (b"cache-control", b"no-store"), *headers, *named]
    if whole is not None:
        head.append((b"content-length", b"%d" % len(whole)))
    await send({"type": "http.response.start", "status": answer.status, "headers": head})
    if isinstance(answer.body, bytes):
        await send({"type": "http.response.body", "body": answer.body})
        return
    async with aclosing(answer.body) as pieces:
        async for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
