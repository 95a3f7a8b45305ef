"""Passes answers through unchanged to clients that speak the provider's own wire format.

Only the decisive bytes are parsed: whether the response is an answer, where a stream's content begins, how it ends and
its usage. The rest is passed through untouched.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from llm_credentials.providers.errors import BadProviderResponse, ConnectionFailed, LLMError
from llm_credentials.providers.messages import Call, LLMResponse, widened
from llm_credentials.providers.sse import MAX_EVENT_BYTES, EventParser
from llm_credentials.providers.transport import END_GRACE_S, Forwarded, load_json
from llm_credentials.providers.wire import encode_json

if TYPE_CHECKING:
    from llm_credentials.providers.client import LLMClient
    from llm_credentials.providers.decoding import StreamDecoder

CUT_SHORT = "The provider's answer ended before its end."
NO_EVENTS = "The provider's answer is no stream of events."
RECENT_BYTES = 4 * 1024
"""The tail of a stream that is kept to find its finish reason and usage: larger than the last events."""
END_NEAR_BYTES = 1024
"""The end is nearly always within this distance; if not, more is searched."""
ENOUGH = 3
"""Marks of the last event, the finish reason and the usage."""
END_WITHIN_BYTES = 4 * 1024
LAST_WITHIN_BYTES = 256
_SAID: Final = ("content", "reasoning_content", "reasoning", "text", "thinking", "partial_json", "arguments")
"""The fields in which the wire formats put generated text."""


@dataclass(frozen=True, kw_only=True)
class PassedAnswer(LLMResponse):
    data: bytes
    """The body as received."""

    @property
    def said(self) -> str:
        """The text of all its choices; ``message`` has only the first."""
        return "".join(_said_in(load_json(self.data)))


@dataclass(eq=False)
class Passed:
    """A piece of a stream, with what a router reads of an LLMStreamChunk. The last is ``done``. Treat it as immutable:
    it is not frozen because creating a frozen instance takes three times as long.
    """

    data: bytes = b""
    response: LLMResponse | None = None

    tool_call: ClassVar[None] = None
    is_only_counted: ClassVar[bool] = True

    @property
    def has_content(self) -> bool:
        """Nothing is passed on before the first content."""
        return self.response is None

    @property
    def type(self) -> Literal["delta", "done"]:
        return "delta" if self.response is None else "done"

    @cached_property
    def text(self) -> str:
        """Its text, as far as a single piece can be parsed; computed only on demand."""
        return "".join(_said(self.data))


async def passed_answer(
    client: LLMClient, body: Mapping[str, Any], *, path: str, model: str, headers: Mapping[str, str] | None = None
) -> PassedAnswer:
    """Send a request body of this client's own wire format. Raises LLMError."""
    data = encode_json(client.adapt(body, model=model, stream=False))
    forwarded = await client.forward(data, path=path, stream=False, headers=headers)
    with client.translated(answered=True):
        data = await _whole(client, forwarded)
        response = client.decode_safely(_call(model), load_json(data), forwarded.headers)
    return widened(response, PassedAnswer, data=data)


async def passed_stream(
    client: LLMClient, body: Mapping[str, Any], *, path: str, model: str, headers: Mapping[str, str] | None = None
) -> AsyncGenerator[Passed, None]:
    """The same, streamed; yields nothing before the first content.

    Raises LLMError before it, StreamInterrupted after it. ``aclose()`` closes the upstream connection.
    """
    asked = encode_json(client.adapt(body, model=model, stream=True))
    forwarded = await client.forward(asked, path=path, stream=True, headers=headers)
    try:
        with client.translated():
            if forwarded.status >= 400 or "json" in forwarded.headers.get("content-type", ""):
                load_json(await _whole(client, forwarded))
                raise BadProviderResponse(NO_EVENTS)
        decoder = client.decoder(_call(model), forwarded.headers)
        several = body.get("n") not in (None, 1)
        held: list[bytes] = []
        senseless = True
        with client.translated(decoder):
            reader = _Reader(decoder, client)
            try:
                async for data in forwarded.body:
                    reader.read(data)
                    held.append(data)
                    senseless = False
                    if _is_complete(decoder):
                        await _drained(forwarded)
                        break
                    if decoder.has_content or decoder.ended:
                        for piece in held:
                            yield Passed(piece)
                        held.clear()
                else:
                    reader.finish()
            except (TimeoutError, LLMError):
                if not _has_ended(decoder, several):
                    raise
            if not _has_ended(decoder, several):
                senseless = senseless or getattr(decoder, "empty", False)
                raise BadProviderResponse(NO_EVENTS) if senseless else ConnectionFailed(CUT_SHORT)
            # The end is sent with ``done``: when the client sees it, everything is recorded.
            done = Passed(b"".join(held), response=decoder.response())
        yield done
    finally:
        await forwarded.aclose()


async def _drained(forwarded: Forwarded) -> None:
    """After the last event, wait only briefly for the end of the body, so that the connection can be reused."""
    if not forwarded.at_end():
        async with asyncio.timeout(END_GRACE_S):
            await anext(forwarded.body, None)


def _is_complete(decoder: StreamDecoder) -> bool:
    """Whether the last event has arrived."""
    return getattr(decoder, "complete", False)


def _has_ended(decoder: StreamDecoder, several: bool) -> bool:
    """``several``: parallel choices, of which the end of one says nothing about the others."""
    return _is_complete(decoder) if several else decoder.ended


class _Reader:
    """Feeds the decoder every event up to the first content, and after that only the events that tell how it ended.

    Those are at the end; the rest is not parsed, so that a long answer costs no more than a short one.
    """

    def __init__(self, decoder: StreamDecoder, client: LLMClient) -> None:
        self._decoder = decoder
        self._telling, self._last = client.telling, client.last
        self._parser = EventParser()
        self._unread = b""
        self._recent: deque[bytes] = deque()
        self._recent_bytes = 0
        self._passing = False

    def read(self, data: bytes) -> None:
        """Raises LLMError."""
        if not self._passing:
            data = self._begin(data)
        if not data:
            return
        self._recent.append(data)
        self._recent_bytes += len(data)
        while self._recent_bytes - len(self._recent[0]) >= RECENT_BYTES:
            self._recent_bytes -= len(self._recent.popleft())
        if self._last in data[-LAST_WITHIN_BYTES:] or (len(data) < len(self._last) and self._last in self._joined()):
            self.finish()

    def _begin(self, data: bytes) -> bytes:
        """Decodes up to the first content; returns the bytes after it."""
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        if self._unread:
            data = self._unread + data
        at = 0
        while (end := data.find(b"\n\n", at)) >= 0:
            for event, content in self._parser.feed(data[at : end + 2]):
                for _ in self._decoder.feed(event, content):
                    pass
            at = end + 2
            if self._decoder.has_content:
                self._passing = True
                return data[at:]
        self._unread = data[at:]
        if len(self._unread) > MAX_EVENT_BYTES:
            raise BadProviderResponse("The provider sent an event without an end.")
        return b""

    def finish(self) -> None:
        """Decodes the events in the stream's tail that tell how it ended. Raises LLMError."""
        data = self._joined() if self._passing else self._unread
        self._recent.clear()
        self._recent_bytes, self._unread = 0, b""
        for line in self._telling_lines(data):
            if line[:5] == b"data:":
                for _ in self._decoder.feed("", line[5:].strip()):
                    pass

    def _telling_lines(self, data: bytes) -> list[bytes]:
        """The last line with each mark, in order of position."""
        places: dict[bytes, int] = {}
        for within in (END_NEAR_BYTES, END_WITHIN_BYTES, len(data)):
            tail = data[-within:]
            for mark in self._telling:
                # ``in`` searches forward, the quickest way to find that a mark is absent.
                if mark not in places and mark in tail:
                    places[mark] = len(data) - len(tail) + tail.rfind(mark)
            if len(places) >= ENOUGH or (within >= END_WITHIN_BYTES and places):
                break
        starts = sorted({data.rfind(b"\n", 0, at) + 1 for at in places.values()})
        return [data[start:].partition(b"\n")[0] for start in starts]

    def _joined(self) -> bytes:
        return b"".join(self._recent)


async def _whole(client: LLMClient, forwarded: Forwarded) -> bytes:
    """The body of a 200 response. Raises LLMError for any other status."""
    try:
        here = forwarded.at_hand()
        data = b"".join([piece async for piece in forwarded.body]) if here is None else here
    except LLMError:
        if forwarded.status < 400:
            raise
        data = b""  # the status says more than a truncated body
    finally:
        await forwarded.aclose()
    if forwarded.status >= 400:
        raise client.passed_error(forwarded.status, forwarded.headers, data)
    return data


@lru_cache(maxsize=256)
def _call(model: str) -> Call:
    return Call(model=model, messages=())


def _said(data: bytes) -> Iterator[str]:
    for line in data.splitlines():
        if line[:5] != b"data:":
            continue
        try:
            value = load_json(line[5:])
        except BadProviderResponse:
            continue
        yield from _said_in(value)


def _said_in(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name in _SAID and isinstance(inner, str):
                yield inner
            elif name in ("choices", "delta", "message", "tool_calls", "function", "content"):
                yield from _said_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _said_in(inner)
