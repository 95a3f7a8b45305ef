"""Estimates token counts where nobody reports them; on the high side, since budgets rely on them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from typing import Any, assert_never

import orjson

from llm_credentials.providers import (
    ImagePart,
    LLMMessage,
    LLMResponse,
    ReasoningPart,
    TextPart,
    ToolCall,
    ToolDefinition,
    ToolResult,
)
from llm_credentials.providers.messages import Embedded, Part

BYTES_A_TOKEN = 3
MESSAGE_TOKENS = 8
"""The role and separators of one message."""
IMAGE_TOKENS = 1600
ODD_JSON_TOKENS = 4000
BLOB_FROM = 4096
"""Text of this length without whitespace is taken for a base64 file."""
BLOB_BYTES_A_TOKEN = 12
_HAS_BLANKS = re.compile(r"\s")


def prompt_tokens(messages: Sequence[LLMMessage], tools: Sequence[ToolDefinition] = ()) -> int:
    parts = sum(_part_tokens(part) for message in messages for part in message.parts)
    schemas = sum(text_tokens(tool.name + tool.description) + _json_tokens(tool.parameters) for tool in tools)
    return parts + schemas + MESSAGE_TOKENS * len(messages)


def body_tokens(data: Any) -> int:
    """For a request in any wire format; documents and audio appear in it as base64.

    Raises orjson.JSONEncodeError if it is nested too deeply.
    """
    size = len(orjson.dumps(data))
    blobs = [len(text) for text in _texts(data) if _is_blob(text)]
    return ceil((size - sum(blobs)) / BYTES_A_TOKEN) + sum(IMAGE_TOKENS + each // BLOB_BYTES_A_TOKEN for each in blobs)


def _is_blob(text: str) -> bool:
    return len(text) >= BLOB_FROM and not _HAS_BLANKS.search(text, 0, BLOB_FROM)


def _texts(data: Any) -> Iterator[str]:
    if isinstance(data, str):
        yield data
    elif isinstance(data, Mapping | list):
        for inner in data.values() if isinstance(data, Mapping) else data:
            yield from _texts(inner)


def text_tokens(text: str) -> int:
    return ceil(len(text.encode("utf-8", "surrogatepass")) / BYTES_A_TOKEN)


def embedded_tokens(texts: Embedded) -> int:
    return sum(text_tokens(each) if isinstance(each, str) else len(each) for each in texts)


def answer_tokens(response: LLMResponse) -> int:
    return sum(_part_tokens(part) for part in response.message.parts)


def _part_tokens(part: Part) -> int:
    match part:
        case TextPart() | ReasoningPart():
            return text_tokens(part.text)
        case ImagePart():
            return IMAGE_TOKENS
        case ToolCall():
            return text_tokens(part.name + (part.invalid_arguments or "")) + _json_tokens(part.arguments)
        case ToolResult():
            return text_tokens(part.content) + IMAGE_TOKENS * len(part.images)
        case _:
            assert_never(part)


def _json_tokens(value: Any) -> int:
    try:
        return ceil(len(orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS, default=str)) / BYTES_A_TOKEN)
    except TypeError:
        # Integers beyond 64 bits, lone surrogates, and other odd values in a model's arguments.
        return ODD_JSON_TOKENS
