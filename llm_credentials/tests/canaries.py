"""Secrets that can be told apart from everything else, and the search for them in whatever form they leaked."""

from __future__ import annotations

import base64
import json
from collections.abc import Collection
from urllib.parse import quote, quote_plus

from django.utils.html import escape


def forms_of(canary: str) -> set[bytes]:
    """As it may be written: raw, quoted for URLs, JSON, HTML and Python, hex, and base64 at each alignment, of the
    text itself and of the JSON that holds it."""
    quoted = json.dumps(canary)[1:-1]
    texts = {canary, quote(canary), quote(canary, safe=""), quote_plus(canary), quoted}
    texts |= {escape(canary), repr(canary)[1:-1], canary.encode().hex(), json.dumps(json.dumps(canary))[3:-3]}
    forms = {text.encode() for text in texts}
    for raw in (canary.encode(), quoted.encode()):
        for shift in range(3):
            middle = base64.b64encode(b"\0" * shift + raw)
            # What an alignment shares with its neighbours is cut off at both ends.
            kept = middle[4 if shift else 0 : -4]
            forms |= {kept, kept.replace(b"+", b"-").replace(b"/", b"_")}
    return forms


class Needles:
    """All forms of some canaries, and of what they have in common."""

    def __init__(self, canaries: Collection[str], *common: str) -> None:
        self.forms = {form for canary in canaries for form in forms_of(canary)} | {part.encode() for part in common}

    def found_in(self, haystack: bytes) -> list[bytes]:
        return [form for form in self.forms if form in haystack]
