"""Chat completions, as OpenAI's SDK and everything made for it speak them."""

from __future__ import annotations

from collections.abc import Mapping
from time import time
from typing import Annotated, Any, Literal, assert_never

import orjson
from pydantic import Field

from llm_credentials.gateway.wires.answers import AnswerEvents
from llm_credentials.gateway.wires.asked import Asked, Conversation, InvalidRequest, Unspoken, WireShape, read
from llm_credentials.ids import new_id
from llm_credentials.providers import (
    ImagePart,
    LLMMessage,
    LLMResponse,
    TextPart,
    ToolCall,
    ToolDefinition,
    UnsupportedContent,
    Usage,
)
from llm_credentials.providers.messages import FinishReason, Part
from llm_credentials.providers.wire import parse_arguments

FINISH: Mapping[FinishReason, str] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "other": "stop",
}
ANY_OBJECT: Mapping[str, Any] = {"type": "object"}
CHANGES_THE_ANSWER = ("audio", "functions", "function_call", "logit_bias", "logprobs", "modalities", "prediction")
"""What only this wire has, and what a program would miss if it went unheard."""
SEARCH = "web_search_options"
"""Asked for by being there, however empty."""


class _Text(WireShape):
    type: Literal["text"]
    text: str


class _Address(WireShape):
    url: str


class _Image(WireShape):
    type: Literal["image_url"]
    image_url: _Address


class _Refusal(WireShape):
    type: Literal["refusal"]
    refusal: str


class _Other(WireShape):
    type: Literal["input_audio", "file"]


_Part = Annotated[_Text | _Image | _Refusal | _Other, Field(discriminator="type")]


class _Function(WireShape):
    name: str
    arguments: str = ""


class _Call(WireShape):
    id: str
    type: Literal["function"] = "function"
    function: _Function


class _Message(WireShape):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[_Part] | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None


class _FunctionDefinition(WireShape):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class _Tool(WireShape):
    type: Literal["function"]
    function: _FunctionDefinition


class _CustomTool(WireShape):
    type: Literal["custom"]


class _Named(WireShape):
    name: str


class _Choice(WireShape):
    type: Literal["function"]
    function: _Named


class _AllowedTools(WireShape):
    mode: Literal["auto", "required"]
    tools: list[_Choice] = Field(min_length=1)


class _Allowed(WireShape):
    type: Literal["allowed_tools"]
    allowed_tools: _AllowedTools


class _OtherChoice(WireShape):
    type: Literal["custom"]


_ToolChoice = Annotated[_Choice | _Allowed | _OtherChoice, Field(discriminator="type")]


class _JsonSchema(WireShape):
    json_schema: dict[str, Any] = Field(alias="schema", default_factory=dict)


class _Format(WireShape):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _JsonSchema | None = None


class _Body(WireShape):
    messages: list[_Message] = Field(min_length=1)
    tools: list[Annotated[_Tool | _CustomTool, Field(discriminator="type")]] | None = None
    tool_choice: Literal["auto", "none", "required", "any"] | _ToolChoice | None = None
    response_format: _Format | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    n: int | None = None


def read_request(data: object) -> Asked:
    """Raises InvalidRequest for what is malformed, UnsupportedContent for what only this wire can carry."""
    _refuse_untold(data)
    body = read(_Body, data)
    tools, choice = _tools(body)
    return Asked(
        messages=_messages(body.messages),
        tools=tools,
        tool_choice=choice,
        response_schema=_schema(body.response_format),
        max_tokens=body.max_completion_tokens or body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        stop=[body.stop] if isinstance(body.stop, str) else body.stop,
        seed=body.seed,
    )


def _refuse_untold(data: object) -> None:
    if not isinstance(data, Mapping):
        return
    if data.get(SEARCH) is not None:
        raise Unspoken("This provider does not search the web in an answer.", param=SEARCH)
    if data.get("n") not in (None, 1):
        message = "More than one answer (n) is asked for, which this provider does not give."
        raise Unspoken(message, param="n")
    for name in CHANGES_THE_ANSWER:
        if data.get(name) not in (None, False, [], {}, ["text"]):
            raise Unspoken(f"This provider has nothing for «{name}».", param=name)


def _messages(given: list[_Message]) -> list[LLMMessage]:
    conversation = Conversation()
    for position, message in enumerate(given):
        match message.role:
            case "system" | "developer":
                conversation.add(LLMMessage(role="system", parts=_content(message)))
            case "user":
                conversation.add(LLMMessage(role="user", parts=_content(message)))
            case "assistant":
                calls = tuple(_call(call) for call in message.tool_calls or ())
                conversation.add(LLMMessage.assistant((*_content(message), *calls)))
            case "tool":
                if message.tool_call_id is None:
                    where = f"messages.{position}.tool_call_id"
                    raise InvalidRequest(f"{where}: Say which call this is the result of.", param=where)
                content = _content(message)
                text = "".join(part.text for part in content if isinstance(part, TextPart))
                images = (part for part in content if isinstance(part, ImagePart))
                conversation.add(LLMMessage.tool(conversation.result(message.tool_call_id, text, images=images)))
            case _:
                assert_never(message.role)
    return conversation.messages


def _content(message: _Message) -> tuple[Part, ...]:
    if message.content is None:
        return ()
    if isinstance(message.content, str):
        return (TextPart(text=message.content),)
    return tuple(_part(part) for part in message.content)


def _part(part: _Text | _Image | _Refusal | _Other) -> Part:
    match part:
        case _Text():
            return TextPart(text=part.text)
        case _Refusal():
            return TextPart(text=part.refusal)
        case _Image():
            return ImagePart(url=part.image_url.url)
        case _Other():
            raise UnsupportedContent(f"This provider takes no parts of the type «{part.type}».")
    assert_never(part)


def _call(call: _Call) -> ToolCall:
    arguments, invalid = parse_arguments(call.function.arguments)
    return ToolCall(id=call.id, name=call.function.name, arguments=arguments, invalid_arguments=invalid)


def _tools(body: _Body) -> tuple[list[ToolDefinition] | None, str | None]:
    """The tools, and which of them are to be called; without tools there is nothing to choose."""
    if not body.tools:
        return None, None
    functions = [tool.function for tool in body.tools if isinstance(tool, _Tool)]
    choice = body.tool_choice
    if len(functions) < len(body.tools) or isinstance(choice, _OtherChoice):
        raise UnsupportedContent("This provider takes functions as tools, and nothing else.")
    if isinstance(choice, _Allowed):
        names = {each.function.name for each in choice.allowed_tools.tools}
        functions = [function for function in functions if function.name in names]
        if not functions:
            where = "tool_choice.allowed_tools.tools"
            raise InvalidRequest(f"{where}: None of these is among the tools.", param=where)
        return [_tool(function) for function in functions], choice.allowed_tools.mode
    named = choice.function.name if isinstance(choice, _Choice) else "required" if choice == "any" else choice
    return [_tool(function) for function in functions], named


def _tool(function: _FunctionDefinition) -> ToolDefinition:
    return ToolDefinition(
        name=function.name,
        description=function.description or "",
        parameters=function.parameters or {"type": "object", "properties": {}},
    )


def _schema(wanted: _Format | None) -> Mapping[str, Any] | None:
    if wanted is None or wanted.type == "text":
        return None
    return (wanted.json_schema.json_schema if wanted.json_schema else None) or ANY_OBJECT


# Answers


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
    """None where the provider did not count: nothing is made up."""
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


def write_error(status: int, code: str, message: str, param: str | None) -> bytes:
    kinds = {
        400: "invalid_request_error",
        401: "authentication_error",
        403: "permission_error",
        429: "rate_limit_error",
    }
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})


def write_error_event(status: int, code: str, message: str) -> bytes:
    """Behind the first content of a stream; no ``[DONE]`` follows, so that nobody takes the answer for whole."""
    return b"data: %b\n\n" % write_error(status, code, message, None)


NAME = "chat"
PATH = "/chat/completions"
SIGNS = False
MOST_ANSWERS = 128


def answer_events(data: Mapping[str, Any]) -> AnswerEvents:
    return ChatEvents(include_usage=wants_usage(data))


def wants_usage(data: Mapping[str, Any]) -> bool:
    options = data.get("stream_options")
    return isinstance(options, Mapping) and options.get("include_usage") is True


COUNT_WITHIN_BYTES = 4096
"""The count of tokens stands so near to a stream's end."""


def passed_events(events: bytes, data: Mapping[str, Any]) -> bytes:
    """Whole events of a provider's stream as the program gets them.

    The count of tokens is asked for in any case. Programs that did not ask would trip over its empty choices.
    """
    from_end = max(0, len(events) - COUNT_WITHIN_BYTES)
    tail = events[from_end:]
    found = [tail.rfind(mark) for mark in (b'"choices":[]', b'"choices": []') if mark in tail]
    if not found or wants_usage(data):
        return events
    at = from_end + max(found)
    start, end = events.rfind(b"\n", 0, at) + 1, events.find(b"\n", at) + 1
    line = events[start:end]
    counts = b'"usage":{' in line or b'"usage": {' in line
    return events[:start] + events[end:].lstrip(b"\r\n") if counts else events
