"""A client that answers what a test tells it to, over LLMClient's surface."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llm_credentials.providers import (
    LLMMessage,
    LLMResponse,
    LLMStreamChunk,
    TextPart,
    ToolCall,
    ToolDefinition,
    Usage,
)


@dataclass(frozen=True, kw_only=True)
class Receipted(LLMResponse):
    """A response with a receipt, as the router gives it."""

    receipt: Any = None


@dataclass
class Answer:
    """One answer: its pieces of text, then its tool calls; ``error`` breaks it off, ``hangs`` never ends it."""

    text: Sequence[str] = ()
    calls: Sequence[ToolCall] = ()
    usage: Usage = field(default_factory=lambda: Usage(input_tokens=10, output_tokens=5))
    error: Exception | None = None
    hangs: bool = False
    receipt: Any = None


class ScriptedClient:
    provider = "scripted"
    model = "scripted-1"

    def __init__(self, *answers: Answer | str) -> None:
        self.answers = [Answer(text=[answer]) if isinstance(answer, str) else answer for answer in answers]
        self.asked: list[tuple[LLMMessage, ...]] = []
        self.tools: list[Sequence[ToolDefinition] | None] = []
        self.schemas: list[Mapping[str, Any] | None] = []
        self.closed = 0
        """How many streams have ended, whichever way."""
        self.hanging = asyncio.Event()

    async def stream(
        self,
        messages: Sequence[LLMMessage],
        *,
        tools: Sequence[ToolDefinition] | None = None,
        response_schema: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[LLMStreamChunk, None]:
        answer = self.answers[len(self.asked)]
        self.asked.append(tuple(messages))
        self.tools.append(tools)
        self.schemas.append(response_schema)
        try:
            for piece in answer.text:
                yield LLMStreamChunk(type="delta", text=piece)
            for call in answer.calls:
                yield LLMStreamChunk(type="tool_call", tool_call=call)
            if answer.error is not None:
                raise answer.error
            if answer.hangs:
                self.hanging.set()
                await asyncio.Event().wait()
            yield LLMStreamChunk(type="done", response=self._response(answer))
        finally:
            self.closed += 1

    def _response(self, answer: Answer) -> LLMResponse:
        text = "".join(answer.text)
        parts = ((TextPart(text=text),) if text else ()) + tuple(answer.calls)
        return Receipted(
            message=LLMMessage.assistant(parts),
            finish_reason="tool_calls" if answer.calls else "stop",
            usage=answer.usage,
            provider=self.provider,
            model=self.model,
            receipt=answer.receipt,
        )


def call(name: str, call_id: str = "c1", /, **arguments: Any) -> ToolCall:
    return ToolCall(id=call_id, name=name, arguments=arguments)
