"""Anthropic's messages, for its SDK and compatible clients."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
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
from llm_credentials.gateway.wires.messages_answers import MessagesEvents
from llm_credentials.gateway.wires.messages_answers import write_answer as write_answer
from llm_credentials.providers import (
    ImagePart,
    LLMMessage,
    ReasoningPart,
    TextPart,
    ToolCall,
    ToolDefinition,
    UnsupportedContent,
)
from llm_credentials.providers.messages import Part


class _Text(WireShape):
    type: Literal["text"]
    text: str


class _Data(WireShape):
    type: Literal["base64"]
    media_type: str
    data: str


class _Address(WireShape):
    type: Literal["url"]
    url: str


class _Image(WireShape):
    type: Literal["image"]
    source: Annotated[_Data | _Address, Field(discriminator="type")]


class _ToolUse(WireShape):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any] = Field(default_factory=dict)


class _Other(WireShape):
    type: str


_Shown = _Text | _Image | _Other


class _ToolResult(WireShape):
    type: Literal["tool_result"]
    tool_use_id: str
    content: str | list[_Shown] | None = None
    is_error: bool | None = None


class _Thinking(WireShape):
    type: Literal["thinking"]
    thinking: str = ""


class _Redacted(WireShape):
    type: Literal["redacted_thinking"]


_Block = Annotated[
    Annotated[_Text, Tag("text")]
    | Annotated[_Image, Tag("image")]
    | Annotated[_ToolUse, Tag("tool_use")]
    | Annotated[_ToolResult, Tag("tool_result")]
    | Annotated[_Thinking, Tag("thinking")]
    | Annotated[_Redacted, Tag("redacted_thinking")]
    | Annotated[_Other, Tag(OTHER)],
    by_type("text", "image", "tool_use", "tool_result", "thinking", "redacted_thinking"),
]


class _Message(WireShape):
    role: Literal["user", "assistant", "system"]
    content: str | list[_Block]


class _Tool(WireShape):
    name: str
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None


class _Choice(WireShape):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None


class _OutputFormat(WireShape):
    type: Literal["json_schema"]
    json_schema: dict[str, Any] = Field(alias="schema")


class _OutputConfig(WireShape):
    format: _OutputFormat | None = None


class _Body(WireShape):
    messages: list[_Message] = Field(min_length=1)
    max_tokens: int
    system: str | list[_Text] | None = None
    tools: list[_Tool] | None = None
    tool_choice: _Choice | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop_sequences: list[str] | None = None
    output_config: _OutputConfig | None = None
    output_format: _OutputFormat | None = None
    """The older form of ``output_config``."""


def read_request(data: object) -> Asked:
    """Raises InvalidRequest for a malformed request, UnsupportedContent for what only this format can express."""
    body = read(_Body, data)
    return Asked(
        messages=_messages(body),
        tools=[_tool(tool) for tool in body.tools] if body.tools else None,
        tool_choice=_choice(body.tool_choice) if body.tools else None,
        response_schema=_schema(body),
        max_tokens=body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        stop=body.stop_sequences,
    )


def _messages(body: _Body) -> list[LLMMessage]:
    conversation = Conversation()
    if system := body.system if isinstance(body.system, str) else "\n\n".join(part.text for part in body.system or ()):
        conversation.add(LLMMessage.system(system))
    for position, message in enumerate(body.messages):
        if isinstance(message.content, str):
            conversation.add(LLMMessage(role=message.role, parts=(TextPart(text=message.content),)))
            continue
        where = f"messages.{position}.content"
        results, others = _sorted(message.content, conversation, where)
        if results:
            conversation.add(LLMMessage.tool(results))
        if others or not results:
            conversation.add(LLMMessage(role=message.role, parts=others))
    return conversation.messages


def _sorted(blocks: Sequence[_Block], conversation: Conversation, where: str) -> tuple[list[Any], tuple[Part, ...]]:
    """Tool results, which this format puts into the user's message, and the other parts."""
    results, others = [], []
    for position, block in enumerate(blocks):
        if isinstance(block, _ToolResult):
            text, images = _shown(block.content, f"{where}.{position}.content")
            results.append(conversation.result(block.tool_use_id, text, images=images, is_error=bool(block.is_error)))
        elif (part := _part(block, f"{where}.{position}")) is not None:
            others.append(part)
    return results, tuple(others)


def _shown(content: str | list[_Shown] | None, where: str) -> tuple[str, list[ImagePart]]:
    """The text and images of a tool result."""
    if isinstance(content, str):
        return content, []
    blocks = list(enumerate(content or ()))
    if any(isinstance(block, _Other) for _, block in blocks):
        raise UnsupportedContent("This provider takes texts and images as results of tools, and nothing else.")
    text = "".join(block.text for _, block in blocks if isinstance(block, _Text))
    return text, [_image(block.source, f"{where}.{at}") for at, block in blocks if isinstance(block, _Image)]


def _part(block: _Text | _Image | _ToolUse | _Thinking | _Redacted | _Other, where: str) -> Part | None:
    match block:
        case _Text():
            return TextPart(text=block.text)
        case _Image():
            return _image(block.source, where)
        case _ToolUse():
            return ToolCall(id=block.id, name=block.name, arguments=block.input)
        case _Thinking():
            return ReasoningPart(text=block.thinking)
        case _Redacted():
            return None
        case _Other():
            raise Unspoken("This provider takes no blocks of this type.", param=where)
    assert_never(block)


def _image(source: _Data | _Address, where: str) -> ImagePart:
    if isinstance(source, _Address):
        return ImagePart(url=source.url)
    try:
        return ImagePart(data=base64.b64decode(source.data, validate=True), media_type=source.media_type)
    except (binascii.Error, ValueError):
        raise InvalidRequest(f"{where}.source: This is no image in base64.", param=f"{where}.source") from None


def _tool(tool: _Tool) -> ToolDefinition:
    if tool.type not in (None, "custom") or tool.input_schema is None:
        raise UnsupportedContent("This provider has none of the tools that run on Anthropic's side.")
    return ToolDefinition(name=tool.name, description=tool.description or "", parameters=tool.input_schema)


def _choice(choice: _Choice | None) -> str | None:
    match choice:
        case None:
            return None
        case _Choice(type="any"):
            return "required"
        case _Choice(type="tool"):
            if not choice.name:
                raise InvalidRequest("tool_choice.name: Name the tool.", param="tool_choice.name")
            return choice.name
        case _:
            return choice.type


def _schema(body: _Body) -> Mapping[str, Any] | None:
    wanted = (body.output_config.format if body.output_config else None) or body.output_format
    return wanted.json_schema if wanted is not None else None


ERROR_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def write_error(status: int, code: str, message: str, param: str | None) -> bytes:
    return orjson.dumps(_error(status, code, message, param))


def write_error_event(status: int, code: str, message: str) -> bytes:
    """An error after first content; no ``message_stop`` follows, so that it is not taken for a whole answer."""
    return b"event: error\ndata: %b\n\n" % orjson.dumps(_error(status, code, message, None))


def _error(status: int, code: str, message: str, param: str | None) -> dict[str, Any]:
    kind = ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": message, "code": code, "param": param}}


NAME = "messages"
PATH = "/v1/messages"
SIGNS = True
MOST_ANSWERS = 1


def answer_events(data: Mapping[str, Any]) -> AnswerEvents:
    return MessagesEvents()


def passed_events(events: bytes, data: Mapping[str, Any]) -> bytes:
    return events
