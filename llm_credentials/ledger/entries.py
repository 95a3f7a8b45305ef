"""The values that the ledger writes: an attempt as it is known before it is made, and how it ended."""

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
"""The outcome of an attempt whose end nobody wrote down."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One attempt, as it is known before it is made."""

    id: UUID = field(default_factory=new_id)
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

    @property
    def cost_usd(self) -> Decimal | None:
        return Decimal(0) if self.state == State.VOID else self.price.usd


@dataclass(kw_only=True, slots=True)
class Reservation:
    """An attempt that asks to be admitted."""

    entry: Entry
    limits: Sequence[Limit] = ()
    """Those that apply to it; without any, nobody is asked."""
    worst: Price
    prompt_tokens: int
    refusal: LLMError | None = None
    """Why it was not admitted; set when it was written, or was not."""


@dataclass(kw_only=True, slots=True)
class Settlement:
    """What is to be written of an attempt that has ended."""

    outcome: Outcome
    reservation: Reservation | None
    """None: it was in no ledger, and only the key's counters move."""
    key: UsedKey | None = None
    """The stored key that it was sent with, to be counted; None when nothing left."""
    at: datetime = field(default_factory=timezone.now)


def reservation(entry: Entry, limits: Limits, worst: Price, prompt_tokens: int) -> Reservation:
    applying = () if worst.usd == 0 else limits.of(entry.key_owner)
    return Reservation(entry=entry, limits=applying, worst=worst, prompt_tokens=prompt_tokens)


def void(reserved: Reservation) -> Settlement:
    """For an attempt that was written down and never left."""
    outcome = Outcome(state=State.VOID, outcome="never_sent", latency_ms=0, usage=Usage())
    return Settlement(outcome=outcome, reservation=reserved)
