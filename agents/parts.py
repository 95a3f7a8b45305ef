"""Message parts as JSON text and back, without loss: details, images and invalid tool arguments included. Django-free.

The text is plain ASCII, so that NUL characters and lone surrogates, which models do send, suit every database.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Any, assert_never

from llm_credentials.providers import ImagePart, ReasoningPart, TextPart, ToolCall, ToolResult
from llm_credentials.providers.messages import Part


def dump_parts(parts: Iterable[Part]) -> str:
    return json.dumps([_part_to_json(part) for part in parts], separators=(",", ":"))


def load_parts(text: str) -> tuple[Part, ...]:
    """Raises ValueError for what ``dump_parts`` never wrote."""
    return tuple(_part_from_json(data) for data in json.loads(text))


def _part_to_json(part: Part) -> dict[str, Any]:
    match part:
        case TextPart():
            return {"type": "text", "text": part.text} | _details(part.details)
        case ReasoningPart():
            return {"type": "reasoning", "text": part.text} | _details(part.details)
        case ImagePart():
            data = None if part.data is None else base64.b64encode(part.data).decode()
            return {"type": "image", "data": data, "url": part.url, "media_type": part.media_type}
        case ToolCall():
            call = {"type": "tool_call", "id": part.id, "name": part.name, "arguments": part.arguments}
            return call | {"invalid_arguments": part.invalid_arguments} | _details(part.details)
        case ToolResult():
            result = {"type": "tool_result", "call_id": part.call_id, "name": part.name}
            return result | {"content": part.content, "is_error": part.is_error}
    assert_never(part)


def _details(details: Any) -> dict[str, Any]:
    return {"details": dict(details)} if details else {}


def _part_from_json(data: dict[str, Any]) -> Part:
    fields = dict(data)
    kind = fields.pop("type")
    match kind:
        case "text":
            return TextPart(**fields)
        case "reasoning":
            return ReasoningPart(**fields)
        case "image":
            if fields["data"] is not None:
                fields["data"] = base64.b64decode(fields["data"])
            return ImagePart(**fields)
        case "tool_call":
            return ToolCall(**fields)
        case "tool_result":
            return ToolResult(**fields)
    raise ValueError(f"a stored message has a part of unknown type {kind!r}")
