"""Records the sandbox's requests, answers and billing; keys only as fingerprints."""

from __future__ import annotations

import time
from collections import Counter, deque
from typing import Any

from llm_credentials.providers.sandbox.asks import Usage

_FIELDS = (
    "id",
    "wire",
    "operation",
    "method",
    "path",
    "model",
    "key",
    "key_last4",
    "stream",
    "status",
    "fault",
    "prompt_tokens",
    "output_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "tool_calls",
    "images",
    "client_gone",
    "open",
    "started",
    "ended",
)


class Entry:
    """One request; `prompt_tokens` includes cached ones, `output_tokens` reasoning."""

    __slots__ = _FIELDS

    def __init__(self, number: int, method: str, path: str) -> None:
        self.id = number
        self.wire = ""
        self.operation = ""
        self.method = method
        self.path = path
        self.model = ""
        self.key = ""
        self.key_last4 = ""
        self.stream = False
        self.status = 0
        self.fault = ""
        self.prompt_tokens = 0
        self.output_tokens = 0
        self.cached_tokens = 0
        self.cache_write_tokens = 0
        self.reasoning_tokens = 0
        self.tool_calls = 0
        self.images = 0
        self.client_gone = False
        self.open = True
        self.started = time.time()
        self.ended: float | None = None

    def bill(self, usage: Usage) -> None:
        self.prompt_tokens = usage.prompt_tokens
        self.output_tokens = usage.output_tokens
        self.cached_tokens = usage.cached_tokens
        self.cache_write_tokens = usage.cache_write_tokens
        self.reasoning_tokens = usage.reasoning_tokens

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _FIELDS}


class _Sums:
    __slots__ = ("client_gone", "output_tokens", "prompt_tokens", "requests")

    def __init__(self) -> None:
        self.requests = self.prompt_tokens = self.output_tokens = self.client_gone = 0

    def add(self, entry: Entry) -> None:
        self.requests += 1
        self.prompt_tokens += entry.prompt_tokens
        self.output_tokens += entry.output_tokens
        self.client_gone += entry.client_gone

    def as_dict(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in self.__slots__}


class Journal:
    """The last `limit` requests, and totals since the last reset."""

    def __init__(self, limit: int) -> None:
        self._number = 0
        self._ended: deque[Entry] = deque(maxlen=limit)
        self._open: dict[int, Entry] = {}
        self._clear_sums()

    def _clear_sums(self) -> None:
        self._total = _Sums()
        self._by_key: dict[str, _Sums] = {}
        self._by_model: dict[str, _Sums] = {}
        self._by_status: Counter[int] = Counter()

    def begin(self, method: str, path: str) -> Entry:
        self._number += 1
        entry = Entry(self._number, method, path)
        self._open[entry.id] = entry
        return entry

    def end(self, entry: Entry) -> None:
        """Close an entry; one that was dropped by a reset is not counted."""
        entry.open = False
        entry.ended = time.time()
        if self._open.pop(entry.id, None) is None:
            return
        self._ended.append(entry)
        self._total.add(entry)
        self._by_status[entry.status] += 1
        for sums, name in ((self._by_key, entry.key), (self._by_model, entry.model)):
            if name:
                (sums.get(name) or sums.setdefault(name, _Sums())).add(entry)

    def drop(self, entry: Entry) -> None:
        """Drop a request that must not be counted, such as one for this journal."""
        self._open.pop(entry.id, None)

    def reset(self) -> None:
        self._ended.clear()
        self._open.clear()
        self._clear_sums()

    def entries(self) -> list[Entry]:
        return sorted([*self._ended, *self._open.values()], key=lambda entry: entry.id)

    def counts(self) -> dict[str, Any]:
        """`requests` and the totals cover ended requests; `open` counts running ones."""
        return {
            **self._total.as_dict(),
            "open": len(self._open),
            "by_status": {str(status): count for status, count in sorted(self._by_status.items())},
            "by_model": {name: sums.as_dict() for name, sums in sorted(self._by_model.items())},
            "by_key": {name: sums.as_dict() for name, sums in sorted(self._by_key.items())},
        }
