"""The values that the ledger writes: an attempt before it is made, and its outcome."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeAlias
from uuid import UUID

from django.utils import timezone

from llm_credentials.ids import new_id
from llm_credentials.ledger.budgets import Limit, Limits
from llm_credentials.ledger.prices import UNKNOWN, Price
from llm_credentials.models import UsageRecord
from llm_credentials.models.sealed import LLMCredential
from llm_credentials.providers import LLMError, Usage
from llm_credentials.routing.receipt import KeyOwner

State = UsageRecord.State
UsedKey: TypeAlias = tuple[type[LLMCredential], UUID]

LOST = "lost"
"""The outcome of an attempt that was never settled."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """An attempt, before it is made."""

    id: UUID = field(default_factory=new_id)
    call_id: UUID
    user_id: Any
    task: str
    provider: str
    model: str
    credential_id: UUID | None
    key_owner: KeyOwner
    token_id: UUID | None = None
    """The access token of the call."""
    at: datetime = field(default_factory=timezone.now)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The outcome of an attempt. ``state`` says how reliable the numbers are."""

    state: UsageRecord.State
    outcome: str
    latency_ms: int
    ttft_ms: int | None = None
    usage: Usage
    price: Price = UNKNOWN

    @property
    def cost_usd(self) -> Decimal | None:
        return Decimal(0) if self.state == State.VOID else self.price.usd


@dataclass(kw_only=True, slots=True)
class Reservation:
    """A request to admit an attempt."""

    entry: Entry
    limits: Sequence[Limit] = ()
    """The limits that apply; if empty, the attempt is always admitted."""
    worst: Price
    prompt_tokens: int
    refusal: LLMError | None = None
    """Why it was not admitted; set once the batch has been written."""


@dataclass(kw_only=True, slots=True)
class Settlement:
    """What to write about an attempt that has ended."""

    outcome: Outcome
    reservation: Reservation | None
    """None: the attempt is not in the ledger, and only the key's counters are updated."""
    key: UsedKey | None = None
    """The stored key that was used, to count its use; None if nothing was sent."""
    at: datetime = field(default_factory=timezone.now)


def reservation(entry: Entry, limits: Limits, worst: Price, prompt_tokens: int) -> Reservation:
    applying = () if worst.usd == 0 else limits.of(entry.key_owner)
    return Reservation(entry=entry, limits=applying, worst=worst, prompt_tokens=prompt_tokens)


def void(reserved: Reservation) -> Settlement:
    """For an attempt that was reserved and never sent."""
    outcome = Outcome(state=State.VOID, outcome="never_sent", latency_ms=0, usage=Usage())
    return Settlement(outcome=outcome, reservation=reserved)
