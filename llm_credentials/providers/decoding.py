"""What turns the events of a streamed answer into chunks, whatever its wire. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeAlias

from llm_credentials.providers.messages import LLMResponse, LLMStreamChunk
from llm_credentials.providers.sse import Event


class StreamDecoder(Protocol):
    """Turns the server-sent events of one answer into chunks. No I/O."""

    ended: bool
    """Whether the wire's proper end was seen."""
    has_content: bool
    """Whether text, reasoning or a tool call has come: from here on a break is a StreamInterrupted."""

    def feed(self, event: str, data: bytes) -> Iterable[LLMStreamChunk]:
        """``event`` is the SSE event's name ("" if none). Raises LLMError for an error event or a malformed one."""

    def finish(self) -> Iterable[LLMStreamChunk]:
        """What is due after the last event: whole tool calls not yet given. Not the ``done`` chunk."""

    def response(self) -> LLMResponse:
        """What has come so far, as a response."""


Run: TypeAlias = Callable[[Sequence[Event], int], tuple[LLMStreamChunk | None, int]]
"""A decoder may have it as ``run(events, start)``: the text of the events from there on that say nothing else, in one
chunk, and how many they are; None and 0 where they are to be read one by one."""


def decoded(
    decoder: StreamDecoder, events: Sequence[Event], *, joined: bool
) -> tuple[list[LLMStreamChunk], Exception | None]:
    """What these events say, up to the first that is at fault, and its fault."""
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
