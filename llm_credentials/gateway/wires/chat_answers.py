"""Answers in the chat format, complete and as events."""

from __future__ import annotations

from collections.abc import Mapping
from time import time
from typing import Any

import orjson

from llm_credentials.gateway.wires.answers import AnswerEvents
from llm_credentials.ids import new_id
from llm_credentials.providers import LLMResponse, ToolCall, Usage
from llm_credentials.providers.messages import FinishReason

FINISH: Mapping[FinishReason, str] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "other": "stop",
}


def answer_id() -> str:
    return f"chatcmpl-{new_id().hex}"


def write_answer(response: LLMResponse) -> bytes:
    message: dict[str, Any] = {"role": "assistant", "content": response.text or None, "refusal": None}
    if response.reasoning:
        message["reasoning_content"] = response.reasoning
    if response.tool_calls:
        message["tool_calls"] = [_written_call(call) for call in response.tool_calls]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": FINISH[response.finish_reason]}
    return orjson.dumps(
        {
            "id": answer_id(),
            "object": "chat.completion",
            "created": int(time()),
            "model": response.model,
            "choices": [choice],
            "usage": write_usage(response.usage),
        }
    )


def write_usage(usage: Usage) -> dict[str, Any] | None:
    """None if the provider did not report usage: nothing is invented."""
    if usage.input_tokens is None or usage.output_tokens is None:
        return None
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cache_read_tokens or 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0, "audio_tokens": 0},
    }


def _written_call(call: ToolCall) -> dict[str, Any]:
    arguments = orjson.dumps(call.arguments).decode() if call.invalid_arguments is None else call.invalid_arguments
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


class ChatEvents(AnswerEvents):
    def __init__(self, *, include_usage: bool) -> None:
        super().__init__()
        self._include_usage = include_usage
        self._head: dict[str, Any] = {"id": answer_id(), "object": "chat.completion.chunk", "created": int(time())}
        self._calls = 0
        self._begun = False

    def _said(self, text: str) -> bytes:
        return self._delta({"content": text})

    def _thought(self, text: str) -> bytes:
        return self._delta({"reasoning_content": text})

    def _called(self, call: ToolCall) -> bytes:
        written = {"index": self._calls, **_written_call(call)}
        self._calls += 1
        return self._delta({"tool_calls": [written]})

    def _delta(self, delta: dict[str, Any]) -> bytes:
        if not self._begun:
            self._begun = True
            delta = {"role": "assistant", **delta}
        return self._event([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}])

    def _end(self, response: LLMResponse) -> bytes:
        finish = [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": FINISH[response.finish_reason]}]
        events = self._event(finish) if self._begun else self._delta({"content": ""}) + self._event(finish)
        if self._include_usage:
            events += self._event([], usage=write_usage(response.usage))
        return events + b"data: [DONE]\n\n"

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        return b"data: %b\n\n" % orjson.dumps({**self._head, "model": self._model, "choices": choices, **more})
