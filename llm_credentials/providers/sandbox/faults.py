"""The table of faults, and how often each is still active.

There are three kinds: a `refusal` is an error instead of an answer; a `twist` changes the answer; a `delivery` changes
how it is sent. `docs/sandbox.md` explains each fault; a test keeps the two in sync.
"""

from __future__ import annotations

from collections import Counter

from llm_credentials.providers.sandbox.failures import RETRY_HEADERS
from llm_credentials.providers.sandbox.modifiers import Fault, Named

STATUSES = (
    "400",
    "401",
    "402",
    "403",
    "404",
    "405",
    "408",
    "409",
    "413",
    "422",
    "429",
    "500",
    "502",
    "503",
    "504",
    "529",
)
REFUSALS = frozenset({*STATUSES, *RETRY_HEADERS, "quota", "context", "prompt-refused"})
REDIRECTS = frozenset({"301", "302", "303", "307", "308"})
REPLY_TWISTS = frozenset(
    {
        "unknown-finish",
        "filter",
        "refusal",
        "toolargs-bad",
        "toolargs-huge",
        "toolargs-split",
        "tool-noid",
        "tool-sameid",
        "tool-unknown",
        "tool-noindex",
        "tool-index0",
        "tool-interleaved",
    }
)
BODY_TWISTS = frozenset(
    {
        "badjson",
        "badjson-chunk",
        "choices-empty",
        "choices-null",
        "error-event",
        "usage-missing",
        "usage-negative",
        "usage-nan",
        "usage-twice",
        "bom",
        "crlf",
    }
)
DELIVERIES = frozenset(
    {
        "error-200",
        "empty",
        "204",
        *REDIRECTS,
        "html",
        "html-stream",
        "wrong-type",
        "cut",
        "cut-clean",
        "cut-first",
        "cut-utf8",
        "reset",
        "stall-first",
        "stall-mid",
        "drip",
        "gzip-bomb",
        "lying-length",
        "endless",
        "endless-line",
        "many-chunks",
        "many-headers",
    }
)
ALL = REFUSALS | REPLY_TWISTS | BODY_TWISTS | DELIVERIES
MAX_COUNTED = 100_000


class FaultCounter:
    """Picks the fault for the next request with a key and a model: `@N` parts are used up in order."""

    def __init__(self) -> None:
        self._used: Counter[tuple[str, str]] = Counter()

    def clear(self) -> None:
        self._used.clear()

    def next(self, key: str, model: str, named: tuple[Named, ...]) -> Fault | None:
        """The fault for this request, which counts as used; `named` are the parsed key and model."""
        faults = [fault for one in named for fault in one.faults]
        if not faults:
            return None
        used = self._used[key, model]
        if len(self._used) < MAX_COUNTED:
            self._used[key, model] = used + 1
        for fault in faults:
            if fault.times is None or used < fault.times:
                return fault if fault.name in ALL else None
            used -= fault.times
        return None
