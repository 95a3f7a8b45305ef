"""Tracks which model wrote which reasoning, because a model rejects reasoning that another one signed.

A client sends the whole conversation with each call, reasoning included, without saying who wrote it. So the author is
stored by the fingerprint of each signature, or of the text where providers do not sign, for as long as a tool loop
takes. Reasoning of unknown origin is attributed to the first candidate tried.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias

import orjson
from asgiref.sync import sync_to_async
from django.core.cache import cache

from llm_credentials.gateway.wires.thoughts import detailed, spoken
from llm_credentials.providers import LLMResponse, ReasoningPart

KEPT_S: Final = 24 * 3600
Maker: TypeAlias = tuple[str, str]
"""Provider and model."""
_SOME_THOUGHT = re.compile(rb'"reasoning(?:_content|_details)?": ?["[][^]"]')


def _fingerprint(mark: str) -> str:
    return hashlib.sha256(mark.encode()).hexdigest()


def _key(fingerprint: str) -> str:
    return f"thought:{fingerprint}"


async def remember(fingerprints: Iterable[str], maker: Maker) -> None:
    entries = {_key(each): list(maker) for each in fingerprints}
    await sync_to_async(cache.set_many, thread_sensitive=False)(entries, timeout=KEPT_S)


async def makers(marks: Iterable[str]) -> dict[str, Maker]:
    """The authors of those that are stored. ``marks``: from ``wires.thoughts.marks_in``."""
    keys = {_key(_fingerprint(mark)): mark for mark in marks if mark}
    found = await sync_to_async(cache.get_many, thread_sensitive=False)(list(keys)) if keys else {}
    return {keys[key]: (maker[0], maker[1]) for key, maker in found.items()}


def fingerprints_of(response: LLMResponse, *, signed: bool) -> list[str]:
    """The fingerprints of an answer's reasoning: of the signatures, or of the texts as sent to the client."""
    own = [
        (part.text, part.details.get(response.provider))
        for part in response.message.parts
        if isinstance(part, ReasoningPart)
    ]
    if not own:
        return []
    details = [detail for _, detail in own if isinstance(detail, Mapping)]
    if signed:
        marks = [detail.get(name) for detail in details for name in ("signature", "redacted")]
    else:
        more = [detailed(detail.get("reasoning_details")) for detail in details]
        marks = ["".join(text for text, _ in own), "".join(more)]
    return [_fingerprint(mark) for mark in marks if isinstance(mark, str) and mark]


class Streamed(Protocol):
    """Collects the fingerprints of an answer's reasoning while its events pass through."""

    @property
    def fingerprints(self) -> Sequence[str]: ...

    def see(self, events: bytes) -> None:
        """``events``: complete events only."""


def _values(events: bytes, marks: Iterable[bytes]) -> Iterator[Any]:
    """The data of events that contain one of the marks."""
    for line in events.splitlines():
        if line[:5] == b"data:" and any(mark in line for mark in marks):
            try:
                yield orjson.loads(line[5:])
            except orjson.JSONDecodeError:
                continue


class Signed:
    """For Anthropic's format, where each reasoning block ends with its signature."""

    def __init__(self) -> None:
        self._signatures: dict[Any, str] = {}
        self._redacted: list[str] = []

    @property
    def fingerprints(self) -> list[str]:
        return [_fingerprint(mark) for mark in (*self._signatures.values(), *self._redacted) if mark]

    def see(self, events: bytes) -> None:
        if b"signature_delta" not in events and b"redacted_thinking" not in events:
            return
        for value in _values(events, (b"signature_delta", b"redacted_thinking")):
            match value:
                case {"index": index, "delta": {"type": "signature_delta", "signature": str(piece)}}:
                    self._signatures[index] = self._signatures.get(index, "") + piece
                case {"content_block": {"type": "redacted_thinking", "data": str(mark)}}:
                    self._redacted.append(mark)
                case _:
                    pass


class Unsigned:
    """For OpenAI's format: hashes the text without keeping it."""

    def __init__(self) -> None:
        self._sums: dict[tuple[Any, str], Any] = {}
        """By the choice's index and the field of its reasoning."""

    @property
    def fingerprints(self) -> list[str]:
        return list(dict.fromkeys(each.hexdigest() for each in self._sums.values())) if self._sums else []

    def see(self, events: bytes) -> None:
        if b'"reasoning' not in events or _SOME_THOUGHT.search(events) is None:
            return
        for value in _values(events, (b'"reasoning',)):
            choices = value.get("choices") if isinstance(value, Mapping) else None
            for choice in choices if isinstance(choices, list) else ():
                delta = choice.get("delta") if isinstance(choice, Mapping) else None
                if isinstance(delta, Mapping):
                    self._add(choice.get("index"), delta)

    def _add(self, choice: Any, delta: Mapping[str, Any]) -> None:
        for where, text in (("text", spoken(delta)), ("details", detailed(delta.get("reasoning_details")))):
            if text:
                self._sums.setdefault((str(choice), where), hashlib.sha256()).update(text.encode())
