"""Decodes the wire format into our types: one mapping for complete answers and for streams."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from llm_credentials.providers.adapters._chat.errors import body_error
from llm_credentials.providers.errors import BadProviderResponse, ProviderUnavailable
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
from llm_credentials.providers.usage import Usage, add, count
from llm_credentials.providers.wire import AnswerIds, parse_arguments, safe_code

FINISH_REASONS: Mapping[str, FinishReason] = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "complete": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "tool_calls": "tool_calls",
    "tool_use": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "safety": "content_filter",
    "sensitive": "content_filter",
    "refusal": "content_filter",
}
"""By the part before a colon; some providers append details."""
_NOTHING = Usage()
BROKEN_OFF = frozenset({"error", "insufficient_system_resource", "network_error"})
"""Finish reasons that mean that the provider failed midway."""


def decode_usage(usage: object) -> Usage | None:
    """None if there is no usage, or only empty usage."""
    if not isinstance(usage, dict):
        return None
    prompt = _mapping(usage.get("prompt_tokens_details"))
    completion = _mapping(usage.get("completion_tokens_details"))
    output = _first_count(usage.get("completion_tokens"), usage.get("output_tokens"))
    reasoning = count(completion.get("reasoning_tokens"))
    given = _first_count(usage.get("prompt_tokens"), usage.get("input_tokens"))
    if reasoning and None not in (given, output) and count(usage.get("total_tokens")) == add(given, output, reasoning):
        output = add(output, reasoning)  # xAI does not include reasoning in the completion tokens
    found = Usage(
        input_tokens=given,
        output_tokens=output,
        cache_read_tokens=_first_count(
            prompt.get("cached_tokens"), usage.get("prompt_cache_hit_tokens"), usage.get("cached_tokens")
        ),
        cache_write_tokens=_first_count(prompt.get("cache_write_tokens"), prompt.get("cache_creation_tokens")),
        reasoning_tokens=reasoning,
    )
    return None if found == _NOTHING else found


def _first_count(*values: object) -> int | None:
    for value in values:
        if value is not None and (found := count(value)) is not None:
            return found
    return None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _usage_in(data: Mapping[str, Any]) -> Usage | None:
    return decode_usage(data.get("usage")) or decode_usage(_mapping(data.get("x_groq")).get("usage"))


@dataclass(slots=True)
class _Call:
    """A tool call, possibly incomplete."""

    id: str = ""
    name: str = ""
    index: int | None = None
    arguments: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def add(self, piece: Mapping[str, Any], function: Mapping[str, Any]) -> None:
        if isinstance(given := piece.get("id"), str):
            self.id = self.id or given
        if isinstance(name := function.get("name"), str):
            self.name = self.name or name
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            self.arguments.append(arguments)
        elif isinstance(arguments, Mapping):
            self.arguments.append(orjson.dumps(arguments).decode())
        if (extra := piece.get("extra_content")) is not None:
            self.details["extra_content"] = extra

    @property
    def whole(self) -> bool:
        return parse_arguments("".join(self.arguments))[1] is None and any(self.arguments)


def _function_in(piece: Mapping[str, Any]) -> Mapping[str, Any]:
    """Name and arguments of a call; a custom tool has plain text in ``input`` instead."""
    custom = piece.get("custom")
    if isinstance(custom, Mapping):
        return {"name": custom.get("name"), "arguments": custom.get("input")}
    return _mapping(piece.get("function"))


class _Calls:
    """Assembles tool calls from deltas, whatever the sender leaves out.

    A delta belongs to the latest call at its index, or without an index to the latest call. It starts a new call if its
    id or name does not match that call, or if it repeats the name of a call that is already complete.
    """

    def __init__(self) -> None:
        self.calls: list[_Call] = []

    def add(self, piece: object) -> None:
        if not isinstance(piece, Mapping):
            raise BadProviderResponse("A tool call in the provider's answer is malformed.")
        function = _function_in(piece)
        call = self._continued(piece, function)
        if call is None:
            index = piece.get("index")
            call = _Call(index=index if isinstance(index, int) else None)
            self.calls.append(call)
        call.add(piece, function)

    def _continued(self, piece: Mapping[str, Any], function: Mapping[str, Any]) -> _Call | None:
        given, index, name = piece.get("id"), piece.get("index"), function.get("name")
        fitting = (call for call in reversed(self.calls) if index is None or call.index in (index, None))
        call = next(fitting, None)
        if call is None or (given and call.id and given != call.id):
            return None
        if name and call.name and (name != call.name or call.whole or (index is None and not given)):
            return None
        return call


class Answer:
    """An answer under construction, from one body or from deltas."""

    def __init__(self, *, slug: str, model: str, request_id: str | None, answer_tool: str | None) -> None:
        self.slug = slug
        self.model = self.asked = model
        self.request_id = request_id
        self.answer_tool = answer_tool
        self.id = ""
        self.usage = _NOTHING
        self.finish: str | None = None
        self.refused = False
        self.parts: list[tuple[str, list[str]]] = []
        """Runs of ("text" | "refusal" | the field of the reasoning, its pieces)."""
        self.reasoning_details: list[Any] = []
        self.calls = _Calls()
        self.finished_calls: tuple[ToolCall, ...] = ()

    def take_head(self, data: Mapping[str, Any]) -> None:
        if not self.id:
            if isinstance(given := data.get("id"), str):
                self.id = given
            if isinstance(model := data.get("model"), str) and model:
                self.model = model
        if data.get("usage") or "x_groq" in data:
            self.usage = _usage_in(data) or self.usage
            if self.request_id is None:
                self.request_id = safe_code(_mapping(data.get("x_groq")).get("id"))

    def take(self, message: Mapping[str, Any]) -> list[LLMStreamChunk]:
        """Adds a message or a delta and returns the new content as chunks. Tool calls are only collected."""
        chunks: list[LLMStreamChunk] = []
        for name in ("reasoning_content", "reasoning"):
            if (thought := message.get(name)) and isinstance(thought, str):
                chunks.append(self._add(name, thought))
                break  # some providers send the same text in both
        if details := message.get("reasoning_details"):
            self._add_reasoning_details(details)
        content = message.get("content")
        if isinstance(content, str):
            if content:
                chunks.append(self._add("text", content))
        elif content is not None:
            chunks += self._take_list(content)
        if (refusal := message.get("refusal")) and isinstance(refusal, str):
            self.refused = True
            chunks.append(self._add("refusal", refusal))
        if calls := message.get("tool_calls"):
            if not isinstance(calls, list):
                raise BadProviderResponse("A tool call in the provider's answer is malformed.")
            for piece in calls:
                self.calls.add(piece)
        if function := message.get("function_call"):
            self.calls.add({"index": -1, "function": function})
        return chunks

    def _take_list(self, content: object) -> Iterable[LLMStreamChunk]:
        """Mistral's format: parts of text and of thinking."""
        if not isinstance(content, list):
            raise BadProviderResponse("The content of the provider's answer is malformed.")
        for part in content:
            match part:
                case {"type": "text", "text": str(text)} | str(text) if text:
                    yield self._add("text", text)
                case {"type": "thinking", "thinking": list(thoughts)}:
                    for thought in thoughts:
                        said = _mapping(thought).get("text")
                        if said and isinstance(said, str):
                            yield self._add("content", said)

    def add_text(self, text: str) -> LLMStreamChunk:
        return self._add("text", text)

    def _add(self, kind: str, text: str) -> LLMStreamChunk:
        if self.parts and self.parts[-1][0] == kind:
            self.parts[-1][1].append(text)
        else:
            self.parts.append((kind, [text]))
        return LLMStreamChunk(type="delta" if kind in ("text", "refusal") else "reasoning", text=text)

    def _add_reasoning_details(self, details: object) -> None:
        for item in details if isinstance(details, list) else ():
            last = self.reasoning_details[-1] if self.reasoning_details else None
            if not (isinstance(item, Mapping) and isinstance(last, dict) and _same_thought(last, item)):
                self.reasoning_details.append(dict(item) if isinstance(item, Mapping) else item)
                continue
            for name, value in item.items():
                if name in ("text", "summary", "data") and isinstance(value, str):
                    last[name] = f"{last.get(name) or ''}{value}"
                elif value is not None:
                    last[name] = value

    def finish_calls(self) -> tuple[ToolCall, ...]:
        """The complete calls, which become part of the answer."""
        if len(self.finished_calls) != len(self.calls.calls):
            ids = AnswerIds(seed=self.id or self.model)
            self.finished_calls = tuple(self._finished(call, ids) for call in self.calls.calls)
        return self.finished_calls

    def _finished(self, call: _Call, ids: AnswerIds) -> ToolCall:
        if not call.name:
            raise BadProviderResponse("A tool call in the provider's answer has no name.")
        arguments, invalid = parse_arguments("".join(call.arguments))
        return ToolCall(
            id=ids.take(call.id),
            name=call.name,
            arguments=arguments,
            invalid_arguments=invalid,
            details={self.slug: call.details} if call.details else {},
        )

    def response(self) -> LLMResponse:
        texts = [self._part(kind, "".join(pieces)) for kind, pieces in self.parts]
        if self.reasoning_details:
            own = {"reasoning_details": self.reasoning_details, "model": self.asked}
            texts.insert(0, ReasoningPart(text="", details={self.slug: own}))
        calls = self.finished_calls
        if self.answer_tool is not None:
            texts += [TextPart(text=answer) for answer in self.answers(calls)]
            calls = tuple(call for call in calls if call.name != self.answer_tool)
        return LLMResponse(
            message=LLMMessage(role="assistant", parts=(*texts, *calls)),
            finish_reason=self._finish_reason(calls),
            usage=self.usage,
            provider=self.slug,
            model=self.model,
            request_id=self.request_id,
        )

    def answers(self, calls: Iterable[ToolCall]) -> list[str]:
        """What was returned through the answer tool, as text."""
        return [
            call.invalid_arguments or orjson.dumps(call.arguments).decode()
            for call in calls
            if call.name == self.answer_tool
        ]

    def _part(self, kind: str, text: str) -> Part:
        if kind == "text":
            return TextPart(text=text)
        if kind == "refusal":
            return TextPart(text=text, details={self.slug: {"refusal": True}})
        return ReasoningPart(text=text, details={self.slug: {"field": kind, "model": self.asked}})

    def _finish_reason(self, calls: tuple[ToolCall, ...]) -> FinishReason:
        reason = FINISH_REASONS.get((self.finish or "").partition(":")[0].lower(), "other")
        if self.refused:
            return "content_filter"
        if calls and reason in ("stop", "other"):
            return "tool_calls"
        if reason == "tool_calls" and not calls and self.answer_tool is not None:
            return "stop"
        return reason


def _same_thought(last: Mapping[str, Any], item: Mapping[str, Any]) -> bool:
    return all(last.get(name) == item.get(name) for name in ("type", "index")) and (
        item.get("id") in (None, last.get("id")) and last.get("type") != "reasoning.encrypted"
    )


def choice_of(data: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The first choice; None if there is none."""
    choices = data.get("choices")
    if not choices:
        return None
    if not isinstance(choices, list):
        raise BadProviderResponse("The provider's answer has no choices.")
    for choice in choices:
        if isinstance(choice, Mapping) and choice.get("index", 0) in (0, None):
            return choice
    return None


def decode_answer(answer: Answer, data: Any) -> LLMResponse:
    """A complete answer of status 200. Raises BadProviderResponse, or the error that it contains."""
    if not isinstance(data, Mapping):
        raise BadProviderResponse("The provider's answer has the wrong shape.")
    if data.get("error"):
        raise body_error(data)
    choice = choice_of(data)
    message = choice.get("message") if choice is not None else None
    if choice is None or not isinstance(message, Mapping):
        raise (
            body_error(data)
            if data.get("object") == "error"
            else BadProviderResponse("The provider's answer has no choices.")
        )
    answer.take_head(data)
    answer.take(message)
    answer.finish_calls()
    answer.finish = finish_in(choice)
    return answer.response()


def finish_in(choice: Mapping[str, Any]) -> str | None:
    reason = choice.get("finish_reason")
    if reason in BROKEN_OFF:
        raise ProviderUnavailable("The provider broke off in the middle of its answer.")
    return reason if isinstance(reason, str) else None
