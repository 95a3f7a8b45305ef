"""Decodes the events of one streamed answer into chunks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import orjson

from llm_credentials.providers.adapters._chat.decode import Answer, choice_of, finish_in
from llm_credentials.providers.adapters._chat.errors import body_error
from llm_credentials.providers.errors import BadProviderResponse, LLMError
from llm_credentials.providers.messages import LLMResponse, LLMStreamChunk
from llm_credentials.providers.sse import Event
from llm_credentials.providers.transport import load_json

_CONTENT = b'"content":'


def _only_text(chunk: Any) -> str | None:
    """The text of an event that has nothing else, or None. Full decoding of these events costs three times as much."""
    if type(chunk) is not dict or chunk.get("usage") or chunk.get("error") or "x_groq" in chunk:
        return None
    choices = chunk.get("choices")
    if type(choices) is not list or len(choices) != 1 or type(choice := choices[0]) is not dict:
        return None
    delta = choice.get("delta")
    if type(delta) is not dict or len(delta) != 1 or choice.get("finish_reason") or choice.get("index"):
        return None
    text = delta.get("content")
    return text if type(text) is str and chunk.get("object") != "error" else None


class _Likeness:
    """The bytes before and after the text in a text-only event.

    With most providers such events of one answer differ only in their text, so nothing else has to be parsed.
    """

    __slots__ = ("_after", "_before", "_least")

    def __init__(self, before: bytes, after: bytes) -> None:
        self._before = before
        self._after = after
        self._least = len(before) + len(after) + len(b'""')

    @classmethod
    def of(cls, data: bytes, text: str) -> _Likeness | None:
        """From an event with this text; None if the text's bytes cannot be located."""
        before, found, rest = data.partition(_CONTENT)
        said = orjson.dumps(text)
        plain = rest.lstrip(b" ")
        if not found or _CONTENT in rest or not plain.startswith(said):
            return None
        return cls(before + found + rest[: len(rest) - len(plain)], plain[len(said) :])

    def text_in(self, data: bytes) -> bytes | None:
        """The JSON string of its text, unvalidated; None for an event that does not match."""
        if len(data) < self._least or not data.startswith(self._before) or not data.endswith(self._after):
            return None
        return data[len(self._before) : len(data) - len(self._after)]


class ChatDecoder:
    """Decodes the events of one streamed answer into chunks."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._calls_given = 0
        self._chosen = False
        self.ended = False
        self.complete = False
        """Whether ``[DONE]`` has arrived, after which nothing follows."""
        self.has_content = False
        self._likeness: _Likeness | None = None

    @property
    def empty(self) -> bool:
        """Whether no choice has arrived at all: then the stream was not an answer, rather than cut off."""
        return not self._chosen

    def feed(self, event: str, data: bytes) -> Iterable[LLMStreamChunk]:
        if data[:6] == b"[DONE]":
            if not self._chosen:
                raise BadProviderResponse("The provider's answer has no choices.")
            self.ended = self.complete = True
            return ()
        answer = self._answer
        if not event and (text := self._text_in(data)) is not None:
            return (answer.add_text(text),)
        chunk = load_json(data)
        if self._chosen and answer.id and not event and (text := _only_text(chunk)):
            self.has_content = True
            if self._likeness is None:
                self._likeness = _Likeness.of(data, text)
            return (answer.add_text(text),)
        if not isinstance(chunk, Mapping):
            raise BadProviderResponse("A piece of the provider's answer has the wrong shape.")
        if event == "error" or chunk.get("error") or chunk.get("object") == "error":
            raise self._error(chunk)
        answer.take_head(chunk)
        choice = choice_of(chunk)
        if choice is None:
            return ()  # Azure's first event has filter results, the last one of all has the usage
        self._chosen = True
        delta = choice.get("delta")
        if delta is None:
            delta = choice.get("message")  # a complete answer although a stream was requested
            self.ended = isinstance(delta, Mapping)
        chunks: list[LLMStreamChunk] = []
        if delta:
            if not isinstance(delta, Mapping):
                raise BadProviderResponse("A piece of the provider's answer has the wrong shape.")
            chunks = answer.take(delta)
            if chunks or answer.calls.calls:
                self.has_content = True
        if reason := finish_in(choice):
            answer.finish = reason
            self.ended = True
            chunks += self.finish()
        return chunks

    def run(self, events: Sequence[Event], start: int) -> tuple[LLMStreamChunk | None, int]:
        if self._likeness is None:
            return None, 0
        texts: list[bytes] = []
        for event, data in islice(events, start, None):
            given = None if event else self._likeness.text_in(data)
            if given is None:
                break
            texts.append(given)
        try:
            said = orjson.loads(b"[%b]" % b",".join(texts)) if texts else []
        except orjson.JSONDecodeError:
            return None, 0
        if len(said) != len(texts) or not all(type(each) is str for each in said) or not (text := "".join(said)):
            return None, 0
        return self._answer.add_text(text), len(texts)

    def _text_in(self, data: bytes) -> str | None:
        """The text of an event that matches the earlier ones; None if it must be decoded fully."""
        given = None if self._likeness is None else self._likeness.text_in(data)
        try:
            text = None if given is None else orjson.loads(given)
        except orjson.JSONDecodeError:
            return None
        return text if type(text) is str and text else None

    def finish(self) -> list[LLMStreamChunk]:
        calls = self._answer.finish_calls()
        new, self._calls_given = calls[self._calls_given :], len(calls)
        if not new:
            return []
        self.has_content = True
        name = self._answer.answer_tool
        given = [LLMStreamChunk(type="tool_call", tool_call=call) for call in new if call.name != name]
        if name is not None:
            given += [LLMStreamChunk(type="delta", text=text) for text in self._answer.answers(new)]
        return given

    def response(self) -> LLMResponse:
        return self._answer.response()

    def _error(self, chunk: Mapping[str, Any]) -> LLMError:
        error = body_error(chunk)
        error.request_id = self._answer.request_id
        return error
