"""Turns the events of a streamed answer into chunks, for any wire format. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeAlias

from llm_credentials.providers.messages import LLMResponse, LLMStreamChunk
from llm_credentials.providers.sse import Event


class StreamDecoder(Protocol):
    """Decodes the server-sent events of one answer. No I/O."""

    ended: bool
    """Whether the stream ended properly."""
    has_content: bool
    """Whether text, reasoning or a tool call has arrived: from then on a broken stream is a StreamInterrupted."""

    def feed(self, event: str, data: bytes) -> Iterable[LLMStreamChunk]:
        """``event`` is the SSE event's name ("" if none). Raises LLMError for an error event or a malformed one."""

    def finish(self) -> Iterable[LLMStreamChunk]:
        """Chunks due after the last event: complete tool calls not yet emitted. Not the ``done`` chunk."""

    def response(self) -> LLMResponse:
        """The partial answer."""


Run: TypeAlias = Callable[[Sequence[Event], int], tuple[LLMStreamChunk | None, int]]
"""An optional method ``run(events, start)`` of a decoder: joins the text of consecutive text-only events into one
chunk, and returns it with the number of events; (None, 0) if the events must be decoded one by one.
"""


def decoded(
    decoder: StreamDecoder, events: Sequence[Event], *, joined: bool
) -> tuple[list[LLMStreamChunk], Exception | None]:
    """The chunks of these events up to the first faulty one, and its error."""
    chunks: list[LLMStreamChunk] = []
    run: Run | None = getattr(decoder, "run", None) if joined else None
    at = 0
    try:
        while at < len(events):
            text, count = run(events, at) if run is not None else (None, 0)
            if text is None:
                chunks.extend(decoder.feed(*events[at]))
            else:
                chunks.append(text)
            at += count or 1
    except Exception as fault:
        return chunks, fault
    return chunks, None
