"""Anthropic's messages, as its SDK and everything made for it speak them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, assert_never

import orjson
from pydantic import Field

from llm_credentials.gateway.wires.answers import AnswerEvents
from llm_credentials.gateway.wires.asked import Asked, Conversation, InvalidRequest, WireShape, read
from llm_credentials.ids import new_id
from llm_credentials.providers import (
    ImagePart,
    LLMMessage,
    LLMResponse,
    ReasoningPart,
    TextPart,
    ToolCall,
    ToolDefinition,
    UnsupportedContent,
    Usage,
)
from llm_credentials.providers.messages import FinishReason, Part

STOP_REASONS: Mapping[FinishReason, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
    "other": "end_turn",
}


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


class _OtherResult(WireShape):
    type: str


_Shown = _Text | _Image | _OtherResult


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


class _Other(WireShape):
    type: Literal["document", "search_result", "server_tool_use", "container_upload", "mcp_tool_use", "mcp_tool_result"]


_Block = Annotated[
    _Text | _Image | _ToolUse | _ToolResult | _Thinking | _Redacted | _Other, Field(discriminator="type")
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
    """As the wire had it before ``output_config``."""


def read_request(data: object) -> Asked:
    """Raises InvalidRequest for what is malformed, UnsupportedContent for what only this wire can carry."""
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
    """Results of tools, which this wire puts into the user's message, and the other parts."""
    results, others = [], []
    for position, block in enumerate(blocks):
        if isinstance(block, _ToolResult):
            text, images = _shown(block.content, f"{where}.{position}.content")
            results.append(conversation.result(block.tool_use_id, text, images=images, is_error=bool(block.is_error)))
        elif (part := _part(block, f"{where}.{position}")) is not None:
            others.append(part)
    return results, tuple(others)


def _shown(content: str | list[_Shown] | None, where: str) -> tuple[str, list[ImagePart]]:
    """The words of a tool's result, and its images."""
    if isinstance(content, str):
        return content, []
    blocks = list(enumerate(content or ()))
    if any(isinstance(block, _OtherResult) for _, block in blocks):
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
            raise UnsupportedContent(f"This provider takes no blocks of the type «{block.type}».")
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


# Answers


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
    """This wire counts cached tokens beside the others, and has no word for an unknown number: that is 0 here."""
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
    """Blocks are opened and closed as their kind changes."""

    def __init__(self) -> None:
        super().__init__()
        self._open: str | None = None
        """The type of the block that is open."""
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
    """Behind the first content of a stream; no ``message_stop`` follows, so that nobody takes the answer for whole."""
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
