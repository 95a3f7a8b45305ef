"""Decodes this wire format's answers, complete or event by event, into our types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from llm_credentials.providers.adapters._messages.errors import body_error
from llm_credentials.providers.errors import BadProviderResponse
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
from llm_credentials.providers.usage import Usage, count
from llm_credentials.providers.wire import AnswerIds, parse_arguments

FINISH_REASONS: Mapping[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


class Answer:
    """One answer, assembled from complete blocks; the same for complete and streamed answers."""

    __slots__ = ("answer_tool", "data", "ids", "model", "parts", "slug", "usage")

    def __init__(self, *, slug: str, model: str, answer_tool: str | None) -> None:
        self.slug = slug
        self.model = model
        self.answer_tool = answer_tool
        self.ids: AnswerIds | None = None
        self.parts: list[Part] = []
        self.data: dict[str, Any] = {}
        """The message's own fields: id, model, stop_reason and so on."""
        self.usage: dict[str, Any] = {}

    def begin(self, message: Mapping[str, Any]) -> None:
        self.data = {name: value for name, value in message.items() if name not in ("content", "usage", "type", "role")}
        self.ids = AnswerIds(str(message.get("id")))
        self.add_usage(message.get("usage"))

    def read(self, message: Mapping[str, Any]) -> Iterator[Part]:
        """A complete message. Raises BadProviderResponse."""
        content = message.get("content")
        if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
            raise BadProviderResponse("The answer has no content.")
        self.begin(message)
        for block in content:
            yield self.add(block)

    def add_usage(self, usage: object) -> None:
        """Counts are cumulative: a later one replaces an earlier one, unless it is absent or null."""
        if isinstance(usage, dict):
            self.usage.update({name: value for name, value in usage.items() if value is not None})

    def add(self, block: Mapping[str, Any]) -> Part:
        """Adds a complete block and returns its part. Raises BadProviderResponse."""
        part = self._part(block)
        self.parts.append(part)
        return part

    def _part(self, block: Mapping[str, Any]) -> Part:
        match block.get("type"):
            case "text" if isinstance(text := block.get("text"), str):
                citations = block.get("citations")
                return TextPart(text=text, details={self.slug: {"citations": citations}} if citations else {})
            case "thinking" if isinstance(text := block.get("thinking"), str):
                own = {"signature": block.get("signature") or "", "model": self.model}
                return ReasoningPart(text=text, details={self.slug: own})
            case "redacted_thinking":
                own = {"redacted": block.get("data"), "model": self.model}
                return ReasoningPart(text="", details={self.slug: own})
            case "tool_use" if isinstance(name := block.get("name"), str):
                return self._tool_call(block, name)
            case str() as kind if kind not in ("text", "thinking", "tool_use"):
                # A tool that ran at the provider, or something newer: kept in its place, for this provider only.
                return TextPart(text="", details={self.slug: {"block": dict(block)}})
        raise BadProviderResponse("A block of the answer is malformed.")

    def _tool_call(self, block: Mapping[str, Any], name: str) -> Part:
        given = block.get("input")
        if isinstance(given, str):
            arguments, invalid = parse_arguments(given)
        elif isinstance(given, dict) or given is None:
            arguments, invalid = given or {}, None
        else:
            arguments, invalid = {}, orjson.dumps(given).decode()
        if name == self.answer_tool:
            return TextPart(text=invalid or orjson.dumps(arguments).decode())
        ids = self.ids or AnswerIds("")
        return ToolCall(id=ids.take(block.get("id")), name=name, arguments=arguments, invalid_arguments=invalid)

    def response(self, request_id: str | None, parts: Sequence[Part] | None = None) -> LLMResponse:
        message = LLMMessage(role="assistant", parts=tuple(self.parts if parts is None else parts))
        model, identity = self.data.get("model"), self.data.get("id")
        return LLMResponse(
            message=message,
            finish_reason=self._finish_reason(message),
            usage=decode_usage(self.usage),
            provider=self.slug,
            model=model if isinstance(model, str) and model else self.model,
            request_id=request_id or (identity if isinstance(identity, str) else None),
            details={self.slug: {name: value for name, value in self.data.items() if value is not None}},
        )

    def _finish_reason(self, message: LLMMessage) -> FinishReason:
        reason = FINISH_REASONS.get(str(self.data.get("stop_reason")), "other")
        if reason == "tool_calls" and self.answer_tool and not message.tool_calls:
            return "stop"
        return reason


def decode_usage(usage: Mapping[str, Any]) -> Usage:
    """This format's ``input_tokens`` exclude tokens read from or written to the cache; ours include them."""
    fresh = count(usage.get("input_tokens"))
    read = count(usage.get("cache_read_input_tokens"))
    written = count(usage.get("cache_creation_input_tokens"))
    details = usage.get("output_tokens_details")
    return Usage(
        input_tokens=None if fresh is None else fresh + (read or 0) + (written or 0),
        output_tokens=count(usage.get("output_tokens")),
        cache_read_tokens=read,
        cache_write_tokens=written,
        reasoning_tokens=count(details.get("thinking_tokens")) if isinstance(details, dict) else None,
    )


class MessagesDecoder:
    """Decodes the server-sent events of one answer; see StreamDecoder."""

    def __init__(self, answer: Answer, request_id: str | None) -> None:
        self.answer = answer
        self.request_id = request_id
        self.ended = False
        self.has_content = False
        self._blocks: dict[int, dict[str, Any]] = {}
        """Open blocks by index; text and the like as lists of pieces."""
        self._counted = False

    @property
    def complete(self) -> bool:
        """Nothing follows ``message_stop``, although the connection may stay open."""
        return self.ended

    def feed(self, event: str, data: bytes) -> Iterator[LLMStreamChunk]:
        if data[:6] == b"[DONE]":
            return  # not part of this format, but some gateways end every stream with it
        value = load_json(data)
        if not isinstance(value, dict):
            raise BadProviderResponse("An event of the stream is no object.")
        match value.get("type") or event:
            case "content_block_delta":
                yield from self._delta(value)
            case "content_block_start":
                yield from self._start(value)
            case "content_block_stop":
                yield from self._stop(value.get("index"))
            case "message_start":
                message = value.get("message")
                if not isinstance(message, dict):
                    raise BadProviderResponse("The stream begins without a message.")
                self.answer.begin(message)
            case "message_delta":
                self._message_delta(value)
            case "message_stop":
                yield from self.finish()
                self.ended = True
            case "error":
                raise body_error(value, None, request_id=self.request_id)
            case "message":
                yield from self._whole(value)
            case _:
                pass  # ping, and future events

    def _whole(self, value: Mapping[str, Any]) -> Iterator[LLMStreamChunk]:
        """A complete answer, from a gateway that does not stream."""
        for part in self.answer.read(value):
            self.has_content = True
            match part:
                case ToolCall():
                    yield LLMStreamChunk(type="tool_call", tool_call=part)
                case TextPart() if part.text:
                    yield LLMStreamChunk(type="delta", text=part.text)
                case ReasoningPart() if part.text:
                    yield LLMStreamChunk(type="reasoning", text=part.text)
        self.ended = self._counted = True

    def _start(self, value: Mapping[str, Any]) -> Iterator[LLMStreamChunk]:
        block = value.get("content_block")
        if not isinstance(block, dict):
            raise BadProviderResponse("A block of the stream is malformed.")
        kind = block.get("type")
        if kind == "tool_use":
            self.has_content = True
        self._blocks[value.get("index", 0)] = {**block, "_pieces": []}
        # Usually empty here; some gateways send a complete block at once.
        if kind in ("text", "thinking") and isinstance(text := block.get(kind), str) and text:
            self.has_content = True
            yield LLMStreamChunk(type="delta" if kind == "text" else "reasoning", text=text)

    def _delta(self, value: Mapping[str, Any]) -> Iterator[LLMStreamChunk]:
        block, delta = self._blocks.get(value.get("index", 0)), value.get("delta")
        if block is None or not isinstance(delta, dict):
            raise BadProviderResponse("A piece of the stream belongs to no block.")
        match delta.get("type"):
            case "text_delta":
                if text := delta.get("text"):
                    block["_pieces"].append(text)
                    self.has_content = True
                    yield LLMStreamChunk(type="delta", text=text)
            case "thinking_delta":
                if text := delta.get("thinking"):
                    block["_pieces"].append(text)
                    self.has_content = True
                    yield LLMStreamChunk(type="reasoning", text=text)
            case "input_json_delta":
                if text := delta.get("partial_json"):
                    block["_pieces"].append(text)
                    if self._is_answer(block):
                        yield LLMStreamChunk(type="delta", text=text)
            case "signature_delta":
                block["signature"] = (block.get("signature") or "") + delta.get("signature", "")
            case "citations_delta":
                block["citations"] = [*(block.get("citations") or ()), delta.get("citation")]
            case _:
                pass

    def _stop(self, index: Any) -> Iterator[LLMStreamChunk]:
        block = self._blocks.pop(index if index is not None else 0, None)
        if block is None:
            return
        part = self.answer.add(_joined_block(block))
        if isinstance(part, ToolCall):
            yield LLMStreamChunk(type="tool_call", tool_call=part)

    def _message_delta(self, value: Mapping[str, Any]) -> None:
        delta = value.get("delta")
        if isinstance(delta, dict):
            self.answer.data.update({name: found for name, found in delta.items() if found is not None})
        if isinstance(value.get("usage"), dict):
            self._counted = True
            self.answer.add_usage(value["usage"])

    def _is_answer(self, block: Mapping[str, Any]) -> bool:
        return self.answer.answer_tool is not None and block.get("name") == self.answer.answer_tool

    def finish(self) -> Iterator[LLMStreamChunk]:
        for index in sorted(self._blocks):
            yield from self._stop(index)

    def response(self) -> LLMResponse:
        """The partial answer of a broken stream: text and reasoning so far, and no incomplete tool call."""
        parts = list(self.answer.parts)
        for index in sorted(self._blocks):
            block = self._blocks[index]
            if block.get("type") == "text":
                parts.append(TextPart(text=_joined(block, "text")))
            elif block.get("type") == "thinking":
                parts.append(ReasoningPart(text=_joined(block, "thinking")))
            elif self._is_answer(block):
                parts.append(TextPart(text="".join(block["_pieces"])))
        if not self._counted and not self.ended:
            # The first event's output tokens only cover the first piece.
            self.answer.usage.pop("output_tokens", None)
        return self.answer.response(self.request_id, parts)


def _joined(block: Mapping[str, Any], name: str) -> str:
    return (block.get(name) or "") + "".join(block["_pieces"])


def _joined_block(block: dict[str, Any]) -> dict[str, Any]:
    pieces = block.pop("_pieces")
    match block.get("type"):
        case "text":
            block["text"] = (block.get("text") or "") + "".join(pieces)
        case "thinking":
            block["thinking"] = (block.get("thinking") or "") + "".join(pieces)
        case "tool_use" if pieces:
            block["input"] = "".join(pieces)
        case _ if pieces:
            # Provider-side tools also receive their input in pieces.
            block["input"] = parse_arguments("".join(pieces))[0]
    return block
