"""What each key may do; every key here is fictitious, as its prefix shows."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from llm_credentials.providers.sandbox.asks import Refused
from llm_credentials.providers.sandbox.modifiers import Named, parse

DEFAULT_RETRY_AFTER_S = 2
_FIRST_NUMBER = re.compile(r"-(\d{1,5}(?:\.\d+)?)(?:-|$)")


@dataclass(slots=True)
class Key:
    text: str
    named: Named
    wait_s: float = 0.0

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.text.encode("utf-8", "surrogateescape")).hexdigest()[:12]

    @property
    def last4(self) -> str:
        return self.named.base[-4:] if len(self.named.base) >= 12 else ""


def read_key(text: str) -> Key:
    return Key(text, parse(text))


def admit(key: Key, slow_s: float) -> None:
    """Raises Refused unless the key is good; a slow key gets its delay.

    A number after the word sets the seconds: `sbx-slow-3-…` waits 3 s, `sbx-limited-30-…` says to retry after 30 s.
    """
    base = key.named.base
    if not base:
        raise Refused("no_key")
    if base.startswith("sbx-good"):
        return
    number = _FIRST_NUMBER.search(base)
    if base.startswith("sbx-slow"):
        key.wait_s = float(number[1]) if number else slow_s
    elif base.startswith("sbx-exhausted"):
        raise Refused("quota")
    elif base.startswith("sbx-limited"):
        raise Refused("429", retry_after=number[1] if number else str(DEFAULT_RETRY_AFTER_S))
    else:
        raise Refused("bad_key")
