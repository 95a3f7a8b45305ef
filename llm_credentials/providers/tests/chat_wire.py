"""Answers and streams of the chat-completions wire, for tests."""

from __future__ import annotations

from typing import Any

from llm_credentials.providers import (
    LLMMessage,
    LLMResponse,
)
from llm_credentials.providers.tests.answering import Answer, answering, of_events, of_json

HELLO = [LLMMessage.user("Hello")]
DONE = b"data: [DONE]\n\n"
HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "m-2024"}


def chunk(finish: str | None = None, /, **delta: Any) -> dict[str, Any]:
    return {**HEAD, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def call_piece(**fields: Any) -> dict[str, Any]:
    function = {name: fields.pop(name) for name in ("name", "arguments") if name in fields}
    return {**fields, "function": function}


def streamed(*events: dict[str, Any], done: bool = True, **more: Any) -> Answer:
    answer = of_events(*events, **more)
    answer.pieces = [*answer.pieces, *([DONE] if done else [])]
    return answer


async def stream(answer: Answer, provider: str = "openai_compatible", **more: Any) -> tuple[list[Any], LLMResponse]:
    async with answering(answer) as server:
        chunks = [each async for each in server.client(provider).stream(HELLO, **more)]
    done = chunks.pop().response
    assert done is not None
    return chunks, done


async def complete(answer: Answer, provider: str = "openai_compatible", **more: Any) -> LLMResponse:
    async with answering(answer) as server:
        return await server.client(provider).complete(HELLO, **more)


def whole(finish: str | None = "stop", /, usage: Any = None, **message: Any) -> Answer:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    return of_json({"id": "chatcmpl-1", "model": "m-2024", "choices": [choice], "usage": usage}, x_request_id="req_1")
