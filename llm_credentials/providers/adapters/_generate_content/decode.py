"""Decodes answers, complete or streamed, into our types. Pure: no I/O, no SDK."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from llm_credentials.providers.adapters._generate_content.errors import body_error
from llm_credentials.providers.errors import BadProviderResponse, ContentFiltered
from llm_credentials.providers.messages import (
    FinishReason,
    LLMMessage,
    LLMResponse,
    LLMStreamChunk,
    Part,
    ReasoningPart,
    TextPart,
    ToolCall,
)
from llm_credentials.providers.transport import load_json
from llm_credentials.providers.usage import Usage, add, count
from llm_credentials.providers.wire import AnswerIds, parse_arguments, safe_code

FINISH_REASONS: Mapping[str, FinishReason] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
    "MODEL_ARMOR": "content_filter",
}


class Answer:
    """One answer, assembled part by part; the same for complete and streamed answers."""

    __slots__ = ("_open", "answer_tool", "chosen", "data", "finish_reason", "ids", "model", "parts", "slug", "usage")

    def __init__(self, *, slug: str, model: str, answer_tool: str | None) -> None:
        self.slug = slug
        self.model = model
        self.answer_tool = answer_tool
        self.ids: AnswerIds | None = None
        self.parts: list[Part] = []
        self.data: dict[str, Any] = {}
        """The fields beside parts and usage, the latest value of each."""
        self.usage: dict[str, Any] = {}
        self.finish_reason: str | None = None
        self.chosen = False
        """Whether a candidate has arrived."""
        self._open: list[str] | None = None
        """Text pieces of the last part in ``parts``, while more of its kind may follow."""

    def feed(self, data: Any) -> Iterator[LLMStreamChunk]:
        """Adds a response object, complete or partial, or a list of partial ones, as some gateways send for a stream.

        Raises ContentFiltered, BadProviderResponse, or the error that it contains.
        """
        pieces = data if isinstance(data, list) and data else [data]
        for piece in pieces:
            yield from self._piece(piece)

    def _piece(self, data: Any) -> Iterator[LLMStreamChunk]:
        if not isinstance(data, dict):
            raise BadProviderResponse("The answer is no object.")
        if "error" in data:
            raise body_error(data, None)
        self._note(data)
        candidates = data.get("candidates")
        if candidates is None or candidates == []:
            self._without_candidate(data)
            return
        if not isinstance(candidates, list) or not isinstance(candidates[0], dict):
            raise BadProviderResponse("The answer's candidates are malformed.")
        self.chosen = True
        yield from self._candidate(candidates[0])

    def _note(self, data: Mapping[str, Any]) -> None:
        if self.ids is None:
            self.ids = AnswerIds(str(data.get("responseId")))
        usage = data.get("usageMetadata")
        if isinstance(usage, dict):
            self.usage.update(usage)
        for name, value in data.items():
            if name not in ("candidates", "usageMetadata") and value is not None:
                self.data[name] = value

    def _without_candidate(self, data: Mapping[str, Any]) -> None:
        feedback = data.get("promptFeedback")
        if isinstance(feedback, dict) and feedback.get("blockReason"):
            raise ContentFiltered(code=safe_code(feedback["blockReason"]))
        if "usageMetadata" not in data:
            raise BadProviderResponse("The answer has no candidate.")

    def _candidate(self, candidate: Mapping[str, Any]) -> Iterator[LLMStreamChunk]:
        content = candidate.get("content")
        parts = content.get("parts") if isinstance(content, dict) else None
        if parts is not None and not isinstance(parts, list):
            raise BadProviderResponse("The answer's parts are malformed.")
        for part in parts or ():
            if not isinstance(part, dict):
                raise BadProviderResponse("A part of the answer is malformed.")
            yield from self._part(part)
        for name, value in candidate.items():
            if name not in ("content", "index") and value is not None:
                self.data[name] = value
        if reason := candidate.get("finishReason"):
            self.finish_reason = str(reason)

    def _part(self, part: Mapping[str, Any]) -> Iterator[LLMStreamChunk]:
        text = part.get("text")
        if isinstance(text, str):
            yield from self._text(text, thought=part.get("thought") is True, signature=part.get("thoughtSignature"))
            return
        self._close()
        if "functionCall" in part:
            yield from self._call(part)
        else:
            # A tool that ran at the provider, or a signature alone: kept in its place, for this provider only.
            self.parts.append(TextPart(text="", details={self.slug: {"part": dict(part), "model": self.model}}))

    def _text(self, text: str, *, thought: bool, signature: Any) -> Iterator[LLMStreamChunk]:
        kind = ReasoningPart if thought else TextPart
        own: dict[str, Any] = {"signature": signature} if signature else {}
        if signature or self._open is None or type(self.parts[-1]) is not kind:
            if not text and not signature:
                return
            self._close()
            # A signed part must be sent back unchanged, so it is not joined with others. A thought is marked as this
            # provider's even without a signature.
            self.parts.append(
                kind(text=text, details={self.slug: {**own, "model": self.model}} if own or thought else {})
            )
            self._open = None if signature else [text]
        else:
            self._open.append(text)
        if text:
            yield LLMStreamChunk(type="reasoning" if thought else "delta", text=text)

    def _close(self) -> None:
        if self._open is not None and len(self._open) > 1:
            last = self.parts[-1]
            if isinstance(last, TextPart | ReasoningPart):
                self.parts[-1] = type(last)(text="".join(self._open), details=last.details)
        self._open = None

    def _call(self, part: Mapping[str, Any]) -> Iterator[LLMStreamChunk]:
        function = part["functionCall"]
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str):
            raise BadProviderResponse("A call of a tool has no name.")
        given, invalid = function.get("args"), None
        if isinstance(given, str):
            arguments, invalid = parse_arguments(given)
        elif given is None or isinstance(given, dict):
            arguments = given or {}
        else:
            arguments, invalid = {}, orjson.dumps(given).decode()
        if name == self.answer_tool:
            text = invalid or orjson.dumps(arguments).decode()
            yield from self._text(text, thought=False, signature=None)
            return
        signature = part.get("thoughtSignature")
        call = ToolCall(
            id=(self.ids or AnswerIds("")).take(function.get("id")),
            name=name,
            arguments=arguments,
            invalid_arguments=invalid,
            details={self.slug: {"signature": signature, "model": self.model}} if signature else {},
        )
        self.parts.append(call)
        yield LLMStreamChunk(type="tool_call", tool_call=call)

    def response(self) -> LLMResponse:
        self._close()
        message = LLMMessage(role="assistant", parts=tuple(self.parts))
        model, identity = self.data.get("modelVersion"), self.data.get("responseId")
        reason = FINISH_REASONS.get(self.finish_reason or "", "other")
        return LLMResponse(
            message=message,
            finish_reason="tool_calls" if reason == "stop" and message.tool_calls else reason,
            usage=decode_usage(self.usage),
            provider=self.slug,
            model=model if isinstance(model, str) and model else self.model,
            request_id=identity if isinstance(identity, str) else None,
            details={self.slug: dict(self.data)},
        )


def decode_usage(usage: Mapping[str, Any]) -> Usage:
    """This format counts thoughts outside the candidates, and provider-side tools' input outside the prompt."""
    prompt = count(usage.get("promptTokenCount"))
    thoughts = count(usage.get("thoughtsTokenCount"))
    return Usage(
        input_tokens=None if prompt is None else prompt + (count(usage.get("toolUsePromptTokenCount")) or 0),
        output_tokens=add(count(usage.get("candidatesTokenCount")), thoughts),
        cache_read_tokens=count(usage.get("cachedContentTokenCount")),
        reasoning_tokens=thoughts,
    )


class GenerateContentDecoder:
    """Decodes the server-sent events of one answer; see StreamDecoder."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.ended = False
        self.has_content = False

    @property
    def empty(self) -> bool:
        """Whether no candidate has arrived at all: then the stream was not an answer, rather than cut off."""
        return not self.answer.chosen

    def feed(self, event: str, data: bytes) -> Iterator[LLMStreamChunk]:
        for chunk in self.answer.feed(load_json(data)):
            self.has_content = True
            yield chunk
        self.ended = self.answer.finish_reason is not None

    def finish(self) -> Iterator[LLMStreamChunk]:
        return iter(())

    def response(self) -> LLMResponse:
        return self.answer.response()
