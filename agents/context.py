"""Decides how much of a conversation is sent to the model. Django-free."""

from __future__ import annotations

from collections.abc import Sequence

from agents.loop import estimated_tokens
from llm_credentials.providers import LLMMessage


def size(messages: Sequence[LLMMessage]) -> int:
    """Estimated tokens."""
    return sum(estimated_tokens(message) for message in messages)


def trim(history: Sequence[LLMMessage], *, max_tokens: int) -> tuple[LLMMessage, ...]:
    """The newest complete exchanges that fit; each begins with the user's message.

    Providers refuse or misread a tool result without its call, or an answer without its question.
    """
    kept: list[LLMMessage] = []
    room = max_tokens
    for exchange in reversed(_exchanges(history)):
        room -= size(exchange)
        if room < 0:
            break
        kept[:0] = exchange
    return tuple(kept)


def _exchanges(history: Sequence[LLMMessage]) -> list[list[LLMMessage]]:
    exchanges: list[list[LLMMessage]] = []
    for message in history:
        if message.role == "user" or not exchanges:
            exchanges.append([])
        exchanges[-1].append(message)
    return exchanges
