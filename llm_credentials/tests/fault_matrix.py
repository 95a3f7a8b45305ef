"""Faults, adapters, streamed or not, through the factory: what may come of each, and what never may.

In small it is a test; in full ``benchmarks/prove_routing.py`` runs it.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from llm_credentials.factory import RoutedResponse, client_for
from llm_credentials.models import UserCredential
from llm_credentials.providers import LLMError, LLMMessage, StreamInterrupted

ADAPTERS = ("openai", "anthropic", "gemini", "azure_openai", "deepseek", "ollama")
"""Two of them are rows of the first one's wire."""
DEADLINE_S = 2.0
SLACK_S = 1.0
"""What ending a call may take past its deadline on a busy machine."""
ASK = [LLMMessage.user("What is 17 * 23?")]
ANSWER = "391"

_REJECTED = {"RequestRejected"}
_UNAVAILABLE = {"ProviderUnavailable"}
_UNREADABLE = {"BadProviderResponse"}
_CUT = {"ConnectionFailed", "StreamInterrupted", "BadProviderResponse"}
_LATE = {"DeadlineExceeded", "StreamInterrupted"}
_FINE = {"ok"}

FAULTS: dict[str, set[str]] = {
    "400": _REJECTED,
    "401": {"AuthenticationFailed"},
    "402": {"QuotaExhausted"},
    "403": {"PermissionDenied"},
    "404": {"ModelNotFound"},
    "405": _REJECTED,
    "408": {"DeadlineExceeded"},
    "409": _UNAVAILABLE,
    "413": _REJECTED | {"ContextLengthExceeded"},
    "422": _REJECTED,
    "429,retry-after=30": {"RateLimited"},
    "429-bare": {"RateLimited"},
    "429-date": {"RateLimited"},
    "429-huge": {"RateLimited"},
    "429-text": {"RateLimited"},
    "500": _UNAVAILABLE,
    "502": _UNAVAILABLE,
    "503": _UNAVAILABLE,
    "504": _UNAVAILABLE | {"DeadlineExceeded"},
    "529": _UNAVAILABLE,
    "quota": {"QuotaExhausted"},
    "context": {"ContextLengthExceeded"},
    "prompt-refused": {"ContentFiltered", "RequestRejected"},
    "error-200": _UNAVAILABLE | _UNREADABLE,
    "empty": _UNREADABLE | {"ConnectionFailed"},
    "204": _UNREADABLE,
    "302": _UNREADABLE,
    "307": _UNREADABLE,
    "html": _UNREADABLE,
    "html-stream": _UNREADABLE | {"ConnectionFailed"},
    "badjson": _UNREADABLE,
    "choices-empty": _UNREADABLE | {"ConnectionFailed"},
    "choices-null": _UNREADABLE | {"ConnectionFailed"},
    "usage-missing": _FINE,
    "crlf": _FINE,
    "cut": _CUT,
    "cut-clean": _CUT,
    "cut-first": _CUT,
    "reset": {"ConnectionFailed"},
    "stall-first": {"DeadlineExceeded"},
    "stall-mid": _LATE,
    "drip": _LATE | _FINE,
}
MAY_BE_EMPTY = {("anthropic", "choices-empty")}
"""There no content at all, with a proper end, is an answer."""
SMALL = ("401", "404", "429,retry-after=30", "503", "quota", "302", "html", "cut-clean", "reset", "crlf")


@dataclass(kw_only=True)
class Findings:
    """Each list names the cases, as ``adapter/fault/how``."""

    runs: int = 0
    hangs: list[str] = field(default_factory=list)
    tracebacks: list[str] = field(default_factory=list)
    truncated: list[str] = field(default_factory=list)
    wrong_class: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not (self.hangs or self.tracebacks or self.truncated or self.wrong_class)


def make_chain(user: Any, adapter: str, sandbox_url: str) -> UserCredential:
    """Two keys of the adapter at the sandbox, the first of which is to fail; the first one."""
    address = f"{sandbox_url}/v1" if adapter in ("openai", "deepseek", "ollama") else sandbox_url
    rows = []
    for number, name in enumerate(("first", "second")):
        row = UserCredential(
            user=user, provider=adapter, name=name, model="sandbox-fast", base_url=address, priority=number
        )
        row.seal(f"sbx-good-{adapter}-{name}-0123456789")
        row.save()
        rows.append(row)
    return rows[0]


async def run_case(
    user: Any, adapter: str, fault: str, stream: bool, findings: Findings, deadline_s: float = DEADLINE_S
) -> None:
    """The first key's model carries the fault already."""
    case = f"{adapter}/{fault}/{'streamed' if stream else 'whole'}"
    findings.runs += 1
    client = client_for(user, provider=adapter, fallback=False)
    started = time.monotonic()
    receipt: Any = None
    answer: RoutedResponse | None = None
    try:
        async with asyncio.timeout(deadline_s + SLACK_S):
            if stream:
                async for chunk in client.stream(ASK, timeout_s=deadline_s):
                    answer = chunk.response if isinstance(chunk.response, RoutedResponse) else None
            else:
                answer = await client.complete(ASK, timeout_s=deadline_s)
            receipt = answer.receipt if answer else None
    except LLMError as error:
        receipt = error.receipt
        if isinstance(error, StreamInterrupted) and error.partial is None:
            findings.truncated.append(case)
    except TimeoutError:
        findings.hangs.append(case)
        return
    except Exception as error:
        findings.tracebacks.append(f"{case}: {type(error).__name__}")
        return
    if time.monotonic() - started > deadline_s + SLACK_S:
        findings.hangs.append(case)
    if (adapter, fault) in MAY_BE_EMPTY:
        return
    if answer is not None and (ANSWER not in answer.text or answer.finish_reason != "stop"):
        findings.truncated.append(f"{case}: {answer.text!r}")
    outcomes = [attempt.outcome for attempt in receipt.attempts] if receipt else []
    if not outcomes or outcomes[0] not in FAULTS[fault]:
        findings.wrong_class.append(f"{case}: {outcomes}")
