"""Encodes a call as this wire format's JSON."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from typing import Any

from llm_credentials.providers.errors import RequestRejected, UnsupportedContent
from llm_credentials.providers.messages import (
    Call,
    ImagePart,
    LLMMessage,
    Part,
    ReasoningPart,
    Role,
    TextPart,
    ToolCall,
    ToolDefinition,
    ToolResult,
)
from llm_credentials.providers.schema import compile_schema
from llm_credentials.providers.wire import IdRule, WireIds, check_place, data_url, own_details

DEFAULT_MAX_TOKENS = 4096
"""``max_tokens`` is required here; this is the value for a model not in the catalogue."""

IDS = IdRule(pattern=re.compile(r"[a-zA-Z0-9_-]{1,128}"), prefix="toolu_")
TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})


def encode_messages(call: Call, slug: str) -> list[dict[str, Any]]:
    """The conversation without system messages; consecutive messages of one role become one.

    Raises UnsupportedContent, and RequestRejected if nothing is left to send.
    """
    ids = WireIds(IDS)
    encoded: list[dict[str, Any]] = []
    for message in call.messages:
        if message.role == "system":
            for part in message.parts:
                check_place(part, "system")
            continue
        role = "assistant" if message.role == "assistant" else "user"
        blocks = [
            block
            for part in message.parts
            if (block := _encode_part(part, message.role, call.model, slug, ids)) is not None
        ]
        if not blocks:
            continue
        if encoded and encoded[-1]["role"] == role:
            encoded[-1]["content"].extend(blocks)
        else:
            encoded.append({"role": role, "content": blocks})
    if not encoded:
        raise RequestRejected("There is no message to answer: a system prompt alone is none.")
    return encoded


def _encode_part(part: Part, role: Role, model: str, slug: str, ids: WireIds) -> dict[str, Any] | None:
    """The encoded block; None for a part to leave out (blank text, another provider's reasoning)."""
    check_place(part, role)
    match part:
        case TextPart():
            return _encode_text(part, slug)
        case ReasoningPart():
            return _encode_reasoning(part, model, slug)
        case ImagePart():
            return _encode_image(part)
        case ToolCall():
            return {"type": "tool_use", "id": ids.call(part.id), "name": part.name, "input": part.arguments}
        case ToolResult():
            block = {"type": "tool_result", "tool_use_id": ids.result(part.call_id), "content": _result_content(part)}
            return {**block, "is_error": True} if part.is_error else block


def _result_content(part: ToolResult) -> str | list[dict[str, Any]]:
    if not part.images:
        return part.content
    text = [{"type": "text", "text": part.content}] if part.content and not part.content.isspace() else []
    return [*text, *(_encode_image(image) for image in part.images)]


def _encode_text(part: TextPart, slug: str) -> dict[str, Any] | None:
    own = part.details.get(slug) or {}
    if "block" in own:
        return dict(own["block"])
    if not part.text or part.text.isspace():
        return None
    if "citations" in own:
        return {"type": "text", "text": part.text, "citations": own["citations"]}
    return {"type": "text", "text": part.text}


def _encode_reasoning(part: ReasoningPart, model: str, slug: str) -> dict[str, Any] | None:
    own = own_details(part.details, slug, model) or {}
    if "signature" in own:
        return {"type": "thinking", "thinking": part.text, "signature": own["signature"]}
    if "redacted" in own:
        return {"type": "redacted_thinking", "data": own["redacted"]}
    return None


def _encode_image(part: ImagePart) -> dict[str, Any]:
    image = data_url(part)
    if image.data is None:
        if not (image.url or "").startswith(("https://", "http://")):
            raise UnsupportedContent("An image's address begins with https:// here.")
        return {"type": "image", "source": {"type": "url", "url": image.url}}
    if image.media_type not in IMAGE_TYPES:
        raise UnsupportedContent("An image is JPEG, PNG, GIF or WebP here.")
    data = base64.b64encode(image.data).decode("ascii")
    return {"type": "image", "source": {"type": "base64", "media_type": image.media_type, "data": data}}


def encode_tools(tools: Sequence[ToolDefinition]) -> list[dict[str, Any]]:
    for tool in tools:
        if not TOOL_NAME.fullmatch(tool.name):
            raise UnsupportedContent("A tool's name has letters, digits, _ and - only here, at most 128.")
    return [
        {
            "name": tool.name,
            "description": tool.description,
            "input_schema": compile_schema(tool.parameters, "messages_object"),
        }
        for tool in tools
    ]


def encode_tool_choice(choice: str | None) -> dict[str, Any] | None:
    match choice:
        case None:
            return None
        case "auto" | "none":
            return {"type": choice}
        case "required":
            return {"type": "any"}
        case name:
            return {"type": "tool", "name": name}


def mentioned_tools(messages: Iterable[LLMMessage]) -> list[dict[str, Any]]:
    """Definitions for tools called in the history, which the format requires even if they are no longer offered."""
    names = dict.fromkeys(part.name for message in messages for part in message.parts if isinstance(part, ToolCall))
    return [{"name": name, "input_schema": {"type": "object"}} for name in names]
