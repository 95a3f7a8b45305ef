"""What the server-sent events of an answer have in common in every wire format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import assert_never

from llm_credentials.providers import LLMResponse, LLMStreamChunk, ToolCall


class AnswerEvents(ABC):
    """The server-sent events of one answer."""

    def __init__(self) -> None:
        self._model = ""

    def begin(self, model: str) -> None:
        self._model = model

    def feed(self, chunk: LLMStreamChunk) -> bytes:
        match chunk.type:
            case "delta":
                return self._said(chunk.text)
            case "reasoning":
                return self._thought(chunk.text)
            case "tool_call":
                assert chunk.tool_call is not None
                return self._called(chunk.tool_call)
            case "done":
                assert chunk.response is not None
                return self._end(chunk.response)
        assert_never(chunk.type)

    @abstractmethod
    def _said(self, text: str) -> bytes: ...

    @abstractmethod
    def _thought(self, text: str) -> bytes: ...

    @abstractmethod
    def _called(self, call: ToolCall) -> bytes: ...

    @abstractmethod
    def _end(self, response: LLMResponse) -> bytes: ...
