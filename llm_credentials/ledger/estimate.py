"""Token counts where nobody gives any: on the high side, since budgets rest on them."""

from __future__ import annotations

from collections.abc import Sequence
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
from llm_credentials.providers.messages import Part

BYTES_A_TOKEN = 3
MESSAGE_TOKENS = 8
"""What role and separators of one message come to."""
IMAGE_TOKENS = 1600
ODD_JSON_TOKENS = 4000


def prompt_tokens(messages: Sequence[LLMMessage], tools: Sequence[ToolDefinition] = ()) -> int:
    parts = sum(_part_tokens(part) for message in messages for part in message.parts)
    schemas = sum(text_tokens(tool.name + tool.description) + _json_tokens(tool.parameters) for tool in tools)
    return parts + schemas + MESSAGE_TOKENS * len(messages)


def text_tokens(text: str) -> int:
    return ceil(len(text.encode("utf-8", "surrogatepass")) / BYTES_A_TOKEN)


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
            return text_tokens(part.content)
        case _:
            assert_never(part)


def _json_tokens(value: Any) -> int:
    try:
        return ceil(len(orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS, default=str)) / BYTES_A_TOKEN)
    except TypeError:
        # Numbers past 64 bits, halves of characters, and what else models write into arguments.
        return ODD_JSON_TOKENS
