"""Prometheus metrics of calls, attempts, tokens, cost and latency, without names or texts.

Labels have closed value sets: catalogue providers, error classes, tasks, key owner kinds. Where ``METRICS_DIR`` names a
folder, all processes of a machine are counted together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Final, TypeAlias

from prometheus_client import Counter, Histogram

from llm_credentials.ledger.entries import Entry, Outcome, State

LATENCY_S: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

CALLS = Counter("keyswitch_calls", "Calls, whatever it took to answer them", ["task"])
FAILED_CALLS = Counter("keyswitch_failed_calls", "Calls that nobody answered, or not to the end", ["task", "error"])
ATTEMPTS = Counter("keyswitch_attempts", "Requests to providers", ["provider", "key_owner", "outcome"])
FAILOVERS = Counter("keyswitch_failovers", "Attempts after which another key or model was asked", ["provider"])
SECONDS = Histogram("keyswitch_attempt_seconds", "Of an attempt, to its end", ["provider"], buckets=LATENCY_S)
FIRST_CONTENT_SECONDS = Histogram(
    "keyswitch_first_content_seconds", "Until a stream had content", ["provider"], buckets=LATENCY_S
)
TOKENS = Counter("keyswitch_tokens", "As providers count them, or as estimated", ["provider", "direction"])
COST_USD = Counter("keyswitch_cost_usd", "Of attempts whose price is known", ["provider", "key_owner"])
Told: TypeAlias = Callable[[Entry, Outcome], None]
_told: list[Told] = []


@dataclass(frozen=True, slots=True)
class _OfProvider:
    """Counters of one provider and key owner, looked up once."""

    seconds: Histogram
    first_content: Histogram
    tokens_in: Counter
    tokens_out: Counter
    cost: Counter


@cache
def _of(provider: str, key_owner: str) -> _OfProvider:
    return _OfProvider(
        seconds=SECONDS.labels(provider),
        first_content=FIRST_CONTENT_SECONDS.labels(provider),
        tokens_in=TOKENS.labels(provider, "input"),
        tokens_out=TOKENS.labels(provider, "output"),
        cost=COST_USD.labels(provider, key_owner),
    )


@cache
def _attempts(provider: str, key_owner: str, outcome: str) -> Counter:
    return ATTEMPTS.labels(provider, key_owner, outcome)


@cache
def _calls(task: str) -> Counter:
    return CALLS.labels(task)


def also_tell(told: Told) -> None:
    """Register a callback for finished attempts. It runs on the call's event loop and must not do I/O or raise."""
    if told not in _told:
        _told.append(told)


def attempt_ended(entry: Entry, ended: Outcome) -> None:
    for told in _told:
        told(entry, ended)
    _attempts(entry.provider, entry.key_owner, ended.outcome).inc()
    counters = _of(entry.provider, entry.key_owner)
    counters.seconds.observe(ended.latency_ms / 1000)
    if ended.ttft_ms is not None:
        counters.first_content.observe(ended.ttft_ms / 1000)
    if ended.state == State.VOID:
        return
    if ended.usage.input_tokens:
        counters.tokens_in.inc(ended.usage.input_tokens)
    if ended.usage.output_tokens:
        counters.tokens_out.inc(ended.usage.output_tokens)
    if ended.cost_usd:
        counters.cost.inc(float(ended.cost_usd))


def failed_over(provider: str) -> None:
    """Count a fallback from this provider's key to another key."""
    FAILOVERS.labels(provider).inc()


def call_began(task: str) -> None:
    _calls(task).inc()


def call_failed(task: str, error: Exception) -> None:
    FAILED_CALLS.labels(task, type(error).__name__).inc()
