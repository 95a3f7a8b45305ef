"""Answers in the messages format, complete and as events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from llm_credentials.gateway.wires.answers import AnswerEvents
from llm_credentials.ids import new_id
from llm_credentials.providers import LLMResponse, ReasoningPart, TextPart, ToolCall, Usage
from llm_credentials.providers.messages import FinishReason, Part

STOP_REASONS: Mapping[FinishReason, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
    "other": "end_turn",
}


def answer_id() -> str:
    return f"msg_{new_id().hex}"


def write_answer(response: LLMResponse) -> bytes:
    content = [block for part in response.message.parts if (block := _written(part)) is not None]
    return orjson.dumps(
        {
            "id": answer_id(),
            "type": "message",
            "role": "assistant",
            "model": response.model,
            "content": content,
            "stop_reason": STOP_REASONS[response.finish_reason],
            "stop_sequence": None,
            "usage": write_usage(response.usage),
        }
    )


def write_usage(usage: Usage) -> dict[str, Any]:
    """This format counts cached tokens separately and cannot express an unknown number: that becomes 0."""
    read_tokens, written = usage.cache_read_tokens or 0, usage.cache_write_tokens or 0
    return {
        "input_tokens": max((usage.input_tokens or 0) - read_tokens - written, 0),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read_tokens,
        "output_tokens": usage.output_tokens or 0,
    }


def _written(part: Part) -> dict[str, Any] | None:
    match part:
        case TextPart():
            return {"type": "text", "text": part.text} if part.text else None
        case ReasoningPart():
            return {"type": "thinking", "thinking": part.text, "signature": ""}
        case ToolCall():
            return {"type": "tool_use", "id": part.id, "name": part.name, "input": part.arguments}
        case _:
            return None


class MessagesEvents(AnswerEvents):
    """Opens and closes blocks as their type changes."""

    def __init__(self) -> None:
        super().__init__()
        self._open: str | None = None
        """The type of the open block."""
        self._index = -1
        self._begun = False

    def _said(self, text: str) -> bytes:
        return self._text("text", {"type": "text_delta", "text": text})

    def _thought(self, text: str) -> bytes:
        return self._text("thinking", {"type": "thinking_delta", "thinking": text})

    def _start(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        message: dict[str, Any] = {
            "id": answer_id(),
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": write_usage(Usage()),
        }
        return _event("message_start", message=message)

    def _text(self, kind: str, delta: Mapping[str, Any]) -> bytes:
        events = self._start()
        if self._open != kind:
            empty = {"type": "text", "text": ""} if kind == "text" else {"type": kind, "thinking": "", "signature": ""}
            events += self._open_block(kind, empty)
        return events + _event("content_block_delta", index=self._index, delta=delta)

    def _called(self, call: ToolCall) -> bytes:
        block = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
        events = self._start() + self._open_block("tool_use", block)
        text = orjson.dumps(call.arguments).decode() if call.invalid_arguments is None else call.invalid_arguments
        delta = {"type": "input_json_delta", "partial_json": text}
        return events + _event("content_block_delta", index=self._index, delta=delta) + self._close_block()

    def _open_block(self, kind: str, block: Mapping[str, Any]) -> bytes:
        events = self._close_block()
        self._open = kind
        self._index += 1
        return events + _event("content_block_start", index=self._index, content_block=block)

    def _close_block(self) -> bytes:
        if self._open is None:
            return b""
        self._open = None
        return _event("content_block_stop", index=self._index)

    def _end(self, response: LLMResponse) -> bytes:
        delta = {"stop_reason": STOP_REASONS[response.finish_reason], "stop_sequence": None}
        events = self._start() + self._close_block()
        events += _event("message_delta", delta=delta, usage=write_usage(response.usage))
        return events + _event("message_stop")


def _event(kind: str, **content: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **content}))
