"""Answers and streams of the messages wire, for tests."""

from __future__ import annotations

from typing import Any

from llm_credentials.providers import (
    LLMMessage,
    LLMStreamChunk,
)
from llm_credentials.providers.tests.answering import (
    Answer,
    answering,
)

HELLO = [LLMMessage.user("Hello")]
MODEL = "claude-sonnet-4-5"
START = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5-20250929",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": 10,
            "cache_read_input_tokens": 5,
            "cache_creation_input_tokens": 2,
            "output_tokens": 1,
        },
    },
}
STOP = {"type": "message_stop"}


def begin(index: int, **block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def piece(index: int, kind: str, **value: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **value}}


def end(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def ending(reason: str, **usage: Any) -> dict[str, Any]:
    return {
        "type": "message_delta",
        "delta": {"stop_reason": reason, "stop_sequence": None},
        "usage": {"output_tokens": 40, **usage},
    }


EVERYTHING = (
    START,
    begin(0, type="thinking", thinking="", signature=""),
    {"type": "ping"},
    piece(0, "thinking_delta", thinking="Let me "),
    piece(0, "thinking_delta", thinking="see…"),
    piece(0, "signature_delta", signature="c2ln"),
    end(0),
    begin(1, type="text", text=""),
    piece(1, "text_delta", text="Grüße, "),
    piece(1, "text_delta", text="日本 🎉"),
    end(1),
    begin(2, type="tool_use", id="toolu_1", name="get_weather", input={}),
    piece(2, "input_json_delta", partial_json=""),
    piece(2, "input_json_delta", partial_json='{"city": "Zür'),
    piece(2, "input_json_delta", partial_json='ich"}'),
    end(2),
    begin(3, type="tool_use", id="toolu_2", name="get_time", input={}),
    end(3),
    ending("tool_use", output_tokens_details={"thinking_tokens": 12}),
    STOP,
)


def message(**changed: Any) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5-20250929",
        "content": [{"type": "text", "text": "Hello."}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 10, "output_tokens": 40},
        **changed,
    }


async def completed(answer: Answer, **more: Any) -> Any:
    async with answering(answer) as server:
        return await server.client("anthropic", model=MODEL).complete(HELLO, **more)


async def streamed(answer: Answer, **more: Any) -> list[LLMStreamChunk]:
    async with answering(answer) as server:
        return [chunk async for chunk in server.client("anthropic", model=MODEL).stream(HELLO, **more)]


def error(kind: str, text: str = "Something about sk-ant-api03-SECRET", code: str | None = None) -> dict[str, Any]:
    inner: dict[str, Any] = {"type": kind, "message": text}
    if code:
        inner["details"] = {"error_code": code}
    return {"type": "error", "error": inner, "request_id": "req_9"}
