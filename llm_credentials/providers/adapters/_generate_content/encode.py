"""Encodes calls as request bodies. Pure: no I/O, no SDK."""

from __future__ import annotations

import base64
import mimetypes
import re
from collections.abc import Mapping, Sequence
from typing import Any

from llm_credentials.providers.errors import RequestRejected, UnsupportedContent
from llm_credentials.providers.messages import (
    Call,
    ImagePart,
    Part,
    ReasoningPart,
    Role,
    TextPart,
    ToolCall,
    ToolDefinition,
    ToolResult,
)
from llm_credentials.providers.schema import compile_schema
from llm_credentials.providers.wire import (
    IdRule,
    WireIds,
    after_results,
    check_place,
    data_url,
    own_details,
    said_by,
)

IDS = IdRule(pattern=re.compile(r"[\x21-\x7e]{1,128}"))
TOOL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,127}")
IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/webp", "image/heic", "image/heif"})

UNSIGNED = "skip_thought_signature_validator"
"""Documented by the provider as the signature for another model's tool call."""


def encode_contents(call: Call, slug: str, *, signed: bool) -> list[dict[str, Any]]:
    """The conversation without system messages. ``signed``: the model requires signatures for turns of tool calls.

    Raises UnsupportedContent, and RequestRejected if nothing is left to send.
    """
    ids = WireIds(IDS)
    names = {part.id: part.name for message in call.messages for part in message.tool_calls}
    contents: list[dict[str, Any]] = []
    last: Role | None = None
    for message in after_results(call.messages):
        if message.role == "system":
            for part in message.parts:
                check_place(part, "system")
            continue
        parts = [
            wire
            for part in message.parts
            if (wire := _encode_part(part, message.role, call.model, slug, ids, names)) is not None
        ]
        if not parts:
            continue
        if signed and message.role == "assistant":
            _sign(parts)
        # The results of one turn's calls must be consecutive.
        if last == message.role:
            contents[-1]["parts"].extend(parts)
        else:
            contents.append({"role": "model" if message.role == "assistant" else "user", "parts": parts})
        last = message.role
    if not contents:
        raise RequestRejected("There is no message to answer: a system prompt alone is none.")
    return contents


def _sign(parts: Sequence[dict[str, Any]]) -> None:
    calls = [part for part in parts if "functionCall" in part]
    if calls and not any("thoughtSignature" in part for part in calls):
        calls[0]["thoughtSignature"] = UNSIGNED


def _encode_part(
    part: Part, role: Role, model: str, slug: str, ids: WireIds, names: Mapping[str, str]
) -> dict[str, Any] | None:
    """The encoded part; None for a part to leave out (empty text, another model's reasoning)."""
    check_place(part, role)
    match part:
        case TextPart():
            own = own_details(part.details, slug, model) or {}
            if "part" in own:
                return dict(own["part"])
            return _with_signature({"text": part.text}, own) if part.text or own.get("signature") else None
        case ReasoningPart():
            thought = own_details(part.details, slug, model)
            return None if thought is None else _with_signature({"text": part.text, "thought": True}, thought)
        case ImagePart():
            return _encode_image(part)
        case ToolCall():
            function = {"id": ids.call(part.id), "name": part.name, "args": part.arguments}
            return _with_signature({"functionCall": function}, own_details(part.details, slug, model) or {})
        case ToolResult():
            name = part.name or names.get(part.call_id, "")
            answer = {"error" if part.is_error else "output": said_by(part)}
            return {"functionResponse": {"id": ids.result(part.call_id), "name": name, "response": answer}}


def _with_signature(wire: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    if signature := own.get("signature"):
        wire["thoughtSignature"] = signature
    return wire


def _encode_image(part: ImagePart) -> dict[str, Any]:
    image = data_url(part)
    if image.data is not None:
        _check_image_type(image.media_type)
        return {"inlineData": {"mimeType": image.media_type, "data": base64.b64encode(image.data).decode("ascii")}}
    if not (image.url or "").startswith("https://"):
        raise UnsupportedContent("An image's address begins with https:// here.")
    media_type = image.media_type or mimetypes.guess_type((image.url or "").partition("?")[0])[0]
    _check_image_type(media_type)
    return {"fileData": {"mimeType": media_type, "fileUri": image.url}}


def _check_image_type(media_type: str | None) -> None:
    if media_type not in IMAGE_TYPES:
        raise UnsupportedContent("An image is JPEG, PNG, WebP, HEIC or HEIF here, and its type must be known.")


def encode_tools(tools: Sequence[ToolDefinition]) -> list[dict[str, Any]]:
    for tool in tools:
        if not TOOL_NAME.fullmatch(tool.name):
            raise UnsupportedContent("A tool's name begins with a letter or _ here, then letters, digits and _ . : -.")
    declarations = [
        {
            "name": tool.name,
            "description": tool.description,
            "parametersJsonSchema": compile_schema(tool.parameters, "contents_object"),
        }
        for tool in tools
    ]
    return [{"functionDeclarations": declarations}]


def encode_tool_choice(choice: str) -> dict[str, Any]:
    match choice:
        case "auto" | "none":
            return {"mode": choice.upper()}
        case "required":
            return {"mode": "ANY"}
        case name:
            return {"mode": "ANY", "allowedFunctionNames": [name]}
