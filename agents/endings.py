"""Merges what an agent appended to the model's text into the stored messages. Django-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from llm_credentials.providers import LLMMessage, TextPart


def with_texts(messages: Sequence[LLMMessage], texts: Sequence[str], below: str) -> tuple[LLMMessage, ...]:
    """The messages with the texts that the user saw, and ``below`` appended to the last answer."""
    left = list(texts)
    changed: list[LLMMessage] = []
    for message in messages:
        if message.role == "assistant" and left:
            message = _with_text(message, left.pop(0))
        changed.append(message)
    if below:
        if changed and changed[-1].role == "assistant" and not changed[-1].tool_calls:
            changed[-1] = _with_text(changed[-1], changed[-1].text + below)
        else:
            changed.append(LLMMessage.assistant(below.lstrip()))
    return tuple(changed)


def _with_text(message: LLMMessage, text: str) -> LLMMessage:
    if message.text == text:
        return message
    parts: list[Any] = []
    left = text
    for part in message.parts:
        if not isinstance(part, TextPart):
            parts.append(part)
        elif left:
            parts.append(replace(part, text=left))
            left = ""
    if left:
        parts.append(TextPart(text=left))
    return replace(message, parts=tuple(parts))
