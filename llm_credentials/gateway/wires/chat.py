"""Chat completions, for OpenAI's SDK and compatible clients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, assert_never

import orjson
from pydantic import Field, Tag

from llm_credentials.gateway.wires.answers import AnswerEvents
from llm_credentials.gateway.wires.asked import (
    OTHER,
    Asked,
    Conversation,
    InvalidRequest,
    Unspoken,
    WireShape,
    by_type,
    read,
)
from llm_credentials.gateway.wires.chat_answers import ChatEvents
from llm_credentials.gateway.wires.chat_answers import write_answer as write_answer
from llm_credentials.providers import (
    ImagePart,
    LLMMessage,
    TextPart,
    ToolCall,
    ToolDefinition,
    UnsupportedContent,
)
from llm_credentials.providers.messages import Part
from llm_credentials.providers.wire import parse_arguments

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}
CHANGES_THE_ANSWER = ("audio", "functions", "function_call", "logit_bias", "logprobs", "modalities", "prediction")
"""Fields that only this format has, and whose loss would change the answer."""
SEARCH = "web_search_options"
"""Requested by its presence, even if empty."""


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


class _Thought(WireShape):
    """As some put what was thought into the content."""


class _Other(WireShape):
    type: str


_Part = Annotated[
    Annotated[_Text, Tag("text")]
    | Annotated[_Image, Tag("image_url")]
    | Annotated[_Refusal, Tag("refusal")]
    | Annotated[_Thought, Tag("thinking")]
    | Annotated[_Thought, Tag("redacted_thinking")]
    | Annotated[_Other, Tag(OTHER)],
    by_type("text", "image_url", "refusal", "thinking", "redacted_thinking"),
]


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
    """Raises InvalidRequest for a malformed request, UnsupportedContent for what only this format can express."""
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
        content = _content(message, f"messages.{position}.content")
        match message.role:
            case "system" | "developer":
                conversation.add(LLMMessage(role="system", parts=content))
            case "user":
                conversation.add(LLMMessage(role="user", parts=content))
            case "assistant":
                calls = tuple(_call(call) for call in message.tool_calls or ())
                conversation.add(LLMMessage.assistant((*content, *calls)))
            case "tool":
                if message.tool_call_id is None:
                    where = f"messages.{position}.tool_call_id"
                    raise InvalidRequest(f"{where}: Say which call this is the result of.", param=where)
                text = "".join(part.text for part in content if isinstance(part, TextPart))
                images = (part for part in content if isinstance(part, ImagePart))
                conversation.add(LLMMessage.tool(conversation.result(message.tool_call_id, text, images=images)))
            case _:
                assert_never(message.role)
    return conversation.messages


def _content(message: _Message, where: str) -> tuple[Part, ...]:
    if message.content is None:
        return ()
    if isinstance(message.content, str):
        return (TextPart(text=message.content),)
    parts = (_part(part, f"{where}.{position}") for position, part in enumerate(message.content))
    return tuple(part for part in parts if part is not None)


def _part(part: _Text | _Image | _Refusal | _Thought | _Other, where: str) -> Part | None:
    match part:
        case _Text():
            return TextPart(text=part.text)
        case _Refusal():
            return TextPart(text=part.refusal)
        case _Image():
            return ImagePart(url=part.image_url.url)
        case _Thought():
            return None
        case _Other():
            raise Unspoken("This provider takes no parts of this type.", param=where)
    assert_never(part)


def _call(call: _Call) -> ToolCall:
    arguments, invalid = parse_arguments(call.function.arguments)
    return ToolCall(id=call.id, name=call.function.name, arguments=arguments, invalid_arguments=invalid)


def _tools(body: _Body) -> tuple[list[ToolDefinition] | None, str | None]:
    """The tools and the tool choice; without tools there is no choice."""
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
    """An error after first content; no ``[DONE]`` follows, so that the client does not take it for a whole answer."""
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
"""The usage is within this distance of a stream's end."""


def passed_events(events: bytes, data: Mapping[str, Any]) -> bytes:
    """Complete events of a provider's stream, as sent to the client.

    The provider is always asked for usage. Clients that did not ask for it would fail on its empty choices.
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
