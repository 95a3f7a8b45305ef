"""The ledger's pen: every attempt is reserved before it leaves and settled once after it.

A row that stays reserved belongs to a process that died, or to a database that was away when it should have been
settled: ``sweep`` closes it at its worst case and says that this is an estimate.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from django.db.models import F, Q
from django.utils import timezone

from llm_credentials.ledger import budgets
from llm_credentials.ledger.budgets import Limits
from llm_credentials.ledger.prices import UNKNOWN, Price
from llm_credentials.models import UsageRecord
from llm_credentials.providers import Usage
from llm_credentials.routing.receipt import KeyOwner

State = UsageRecord.State

LOST = "lost"
"""The outcome of an attempt whose end nobody wrote down."""
LOST_AFTER_S = 240.0
"""Longer than a call takes as a rule; one that takes longer still settles its row when it ends."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One attempt, as it is known before it is made."""

    id: UUID = field(default_factory=uuid4)
    call_id: UUID
    user_id: Any
    task: str
    provider: str
    model: str
    credential_id: UUID | None
    key_owner: KeyOwner
    token_id: UUID | None = None
    """The access token that the call came with."""
    at: datetime = field(default_factory=timezone.now)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How it ended. ``state`` says how far the numbers can be trusted."""

    state: UsageRecord.State
    outcome: str
    latency_ms: int
    ttft_ms: int | None = None
    usage: Usage
    price: Price = UNKNOWN


def reserve(entry: Entry, limits: Limits, worst: Price, prompt_tokens: int) -> None:
    """Write the attempt down at its worst case, durably, before it leaves. Raises BudgetExceeded."""
    with budgets.admitted(entry.user_id, entry.key_owner, limits, worst.usd):
        UsageRecord.objects.create(
            id=entry.id,
            call_id=entry.call_id,
            user_id=entry.user_id,
            task=entry.task,
            provider=entry.provider,
            model=entry.model,
            credential_id=entry.credential_id,
            key_owner=entry.key_owner,
            token_id=entry.token_id,
            state=State.RESERVED,
            input_tokens=prompt_tokens,
            reserved_usd=worst.usd,
            price_source=worst.source,
            at=entry.at,
        )


def settle(entry: Entry, outcome: Outcome) -> bool:
    """Close the attempt's row by what it came to; False if it was closed before. One given up as lost is corrected."""
    usage = outcome.usage
    still_open = Q(state=State.RESERVED) | Q(state=State.ESTIMATED, outcome=LOST)
    return bool(
        UsageRecord.objects.filter(still_open, pk=entry.id).update(
            state=outcome.state,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cache_read_tokens=usage.cache_read_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            cost_usd=Decimal(0) if outcome.state == State.VOID else outcome.price.usd,
            price_source=outcome.price.source,
            latency_ms=outcome.latency_ms,
            ttft_ms=outcome.ttft_ms,
            outcome=outcome.outcome,
        )
    )


def sweep(older_than_s: float = LOST_AFTER_S) -> int:
    """Close what a crash left reserved, at its worst case; how many rows."""
    lost = UsageRecord.objects.reserved().filter(at__lt=timezone.now() - timedelta(seconds=older_than_s))
    return lost.update(state=State.ESTIMATED, outcome=LOST, cost_usd=F("reserved_usd"))
