"""Serialises message parts as JSON without loss, including details, images and invalid tool arguments. Django-free.

The text is plain ASCII: NUL characters and lone surrogates, which models do send, are escaped and safe in every
database.
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
    """Raises ValueError for text that ``dump_parts`` did not write."""
    return tuple(_part_from_json(data) for data in json.loads(text))


def _part_to_json(part: Part) -> dict[str, Any]:
    match part:
        case TextPart():
            return {"type": "text", "text": part.text} | _details(part.details)
        case ReasoningPart():
            return {"type": "reasoning", "text": part.text} | _details(part.details)
        case ImagePart():
            return {"type": "image", **_image_to_json(part)}
        case ToolCall():
            call = {"type": "tool_call", "id": part.id, "name": part.name, "arguments": part.arguments}
            return call | {"invalid_arguments": part.invalid_arguments} | _details(part.details)
        case ToolResult():
            result = {"type": "tool_result", "call_id": part.call_id, "name": part.name}
            images = {"images": [_image_to_json(image) for image in part.images]} if part.images else {}
            return result | {"content": part.content, "is_error": part.is_error} | images
    assert_never(part)


def _image_to_json(part: ImagePart) -> dict[str, Any]:
    data = None if part.data is None else base64.b64encode(part.data).decode()
    return {"data": data, "url": part.url, "media_type": part.media_type}


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
            return _image_from_json(fields)
        case "tool_call":
            return ToolCall(**fields)
        case "tool_result":
            images = tuple(_image_from_json(image) for image in fields.pop("images", ()))
            return ToolResult(**fields, images=images)
    raise ValueError(f"a stored message has a part of unknown type {kind!r}")


def _image_from_json(data: dict[str, Any]) -> ImagePart:
    content = None if data["data"] is None else base64.b64decode(data["data"])
    return ImagePart(data=content, url=data["url"], media_type=data["media_type"])
