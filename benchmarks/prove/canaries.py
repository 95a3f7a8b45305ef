"""Distinguishable keys, and where they were found."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

# isort: split


TAIL = "cn4Ry/+\"%&<'{}=q7zXw2"
"""Characters that every encoding writes differently."""
CANARIES = {
    name: f"{prefix}-{TAIL}-{name}"
    for name, prefix in {
        "api": "sbx-good",
        "page": "sbx-good",
        "replaced": "sbx-good",
        "unsaved": "sbx-good",
        "listing": "sbx-good",
        "refused": "sbx-bad",
        "spent": "sbx-exhausted",
        "foreign": "sbx-good",
        "site": "sbx-good",
        "environment": "sk-proj",
        "misplaced": "sbx-good",
        "broken": "sbx-good",
    }.items()
}


def _needles() -> Any:
    from llm_credentials.tests.canaries import Needles

    return Needles([*CANARIES.values(), CANARIES["broken"] + "\r\nX-Evil: 1"], TAIL)


@dataclass
class Findings:
    """What was searched, by place."""

    needles: Any = field(default_factory=_needles)
    size: Counter[str] = field(default_factory=Counter)
    """Bytes."""
    leaks: list[str] = field(default_factory=list)
    answers: Counter[int] = field(default_factory=Counter)
    broken: list[tuple[int, str, str]] = field(default_factory=list)
    """Status, request and its log id, for responses that were a fault of the code or reported one of the database."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def search(self, where: str, what: bytes, exactly: str = "") -> None:
        found = self.needles.found_in(what)
        with self.lock:
            self.size[where] += len(what)
            self.leaks += [f"{where} {exactly}: {form[:40]!r}" for form in found]
