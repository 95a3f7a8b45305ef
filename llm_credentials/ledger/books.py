"""The ledger: every attempt is reserved before it is sent and settled once after it.

Calls write through ``writer``, which batches them. This module does the same for single rows, and has the sweep: a row
that stays reserved belongs to a process that died, and is closed at its worst-case cost, as an estimate.
"""

from __future__ import annotations

from datetime import timedelta

from django.db.models import F
from django.utils import timezone

from llm_credentials.ledger import batches, budgets
from llm_credentials.ledger.budgets import Limits
from llm_credentials.ledger.entries import LOST, Entry, Outcome, Reservation, Settlement, State, UsedKey, reservation
from llm_credentials.ledger.prices import Price
from llm_credentials.models import UsageRecord
from llm_credentials.wall import open_for

__all__ = ["LOST", "LOST_AFTER_S", "Entry", "Outcome", "Reservation", "State", "reserve", "settle", "sweep"]

LOST_AFTER_S = 240.0
"""Longer than a call usually takes; a call that takes longer still settles its row when it ends."""


def reserve(entry: Entry, limits: Limits, worst: Price, prompt_tokens: int) -> Reservation:
    """Reserve the worst-case cost of an attempt before it is sent. Raises BudgetExceeded."""
    asked = reservation(entry, limits, worst, prompt_tokens)
    batches.write([asked], [])
    if asked.refusal is not None:
        raise asked.refusal
    return asked


def settle(reserved: Reservation, outcome: Outcome, key: UsedKey | None = None) -> bool:
    """Close the attempt's row with its outcome; False if it was already closed. Corrects a row closed as lost."""
    return batches.write([], [Settlement(outcome=outcome, reservation=reserved, key=key)]) == 1


@open_for("closing what a crash left reserved")
def sweep(older_than_s: float = LOST_AFTER_S) -> int:
    """Close rows that a crash left reserved, at their worst case; returns how many. Also maintains the counters."""
    lost = UsageRecord.objects.reserved().filter(at__lt=timezone.now() - timedelta(seconds=older_than_s))
    closed = lost.update(state=State.ESTIMATED, outcome=LOST, cost_usd=F("reserved_usd"))
    budgets.recount()
    return closed
