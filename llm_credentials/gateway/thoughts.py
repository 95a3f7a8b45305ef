"""Whose thought is whose: what one model has signed, another refuses.

A program sends the whole conversation with each call, signed thoughts included, and says of none who had it. So who
answered with which is remembered by the signatures' fingerprints for as long as a loop of tools takes; of one that
nobody remembers it is taken that the model had it that is asked first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeAlias

import orjson
from asgiref.sync import sync_to_async
from django.core.cache import cache

from llm_credentials.providers import LLMMessage, ReasoningPart

KEPT_S: Final = 24 * 3600
Maker: TypeAlias = tuple[str, str]
"""Provider and model."""


def _key(mark: str) -> str:
    return f"thought:{hashlib.sha256(mark.encode()).hexdigest()}"


async def remember(marks: Iterable[str], maker: Maker) -> None:
    """``marks``: signatures, or thoughts that only their maker can read."""
    if keys := [_key(mark) for mark in marks if mark]:
        await sync_to_async(cache.set_many, thread_sensitive=False)({key: list(maker) for key in keys}, timeout=KEPT_S)


async def makers(marks: Iterable[str]) -> dict[str, Maker]:
    """Of those that are remembered."""
    keys = {_key(mark): mark for mark in marks}
    found = await sync_to_async(cache.get_many, thread_sensitive=False)(list(keys)) if keys else {}
    return {keys[key]: (maker[0], maker[1]) for key, maker in found.items()}


def marks_of(message: LLMMessage, provider: str) -> Iterator[str]:
    """Of an answer that was read."""
    for part in message.parts:
        own = part.details.get(provider) if isinstance(part, ReasoningPart) else None
        if isinstance(own, Mapping):
            yield from (mark for name in ("signature", "redacted") if isinstance(mark := own.get(name), str) and mark)


class Streamed:
    """Collects the marks of an answer in events of Anthropic's wire, as they pass."""

    def __init__(self) -> None:
        self._signatures: dict[Any, str] = {}
        self._redacted: list[str] = []

    @property
    def marks(self) -> list[str]:
        return [*self._signatures.values(), *self._redacted]

    def see(self, events: bytes) -> None:
        """Whole events."""
        if b"signature_delta" not in events and b"redacted_thinking" not in events:
            return
        for line in events.splitlines():
            if line[:5] == b"data:" and (b"signature_delta" in line or b"redacted_thinking" in line):
                self._see(line[5:])

    def _see(self, data: bytes) -> None:
        try:
            match orjson.loads(data):
                case {"index": index, "delta": {"type": "signature_delta", "signature": str(piece)}}:
                    self._signatures[index] = self._signatures.get(index, "") + piece
                case {"content_block": {"type": "redacted_thinking", "data": str(mark)}}:
                    self._redacted.append(mark)
                case _:
                    pass
        except orjson.JSONDecodeError:
            return
