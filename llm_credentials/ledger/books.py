"""The ledger: every attempt is reserved before it leaves and settled once after it.

Calls write through ``writer``, which puts those of many calls into one transaction. Here is the same one by one, and
the sweep: a row that stays reserved belongs to a process that died, and is closed at its worst case, as an estimate.
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
"""Longer than a call takes as a rule; one that takes longer still settles its row when it ends."""


def reserve(entry: Entry, limits: Limits, worst: Price, prompt_tokens: int) -> Reservation:
    """Write one attempt down at its worst case, before it leaves. Raises BudgetExceeded."""
    asked = reservation(entry, limits, worst, prompt_tokens)
    batches.write([asked], [])
    if asked.refusal is not None:
        raise asked.refusal
    return asked


def settle(reserved: Reservation, outcome: Outcome, key: UsedKey | None = None) -> bool:
    """Close the attempt's row by what it came to; False if it was closed before. One given up as lost is corrected."""
    return batches.write([], [Settlement(outcome=outcome, reservation=reserved, key=key)]) == 1


@open_for("closing what a crash left reserved")
def sweep(older_than_s: float = LOST_AFTER_S) -> int:
    """Close what a crash left reserved, at its worst case; how many rows. Looks after the budgets' counters too."""
    lost = UsageRecord.objects.reserved().filter(at__lt=timezone.now() - timedelta(seconds=older_than_s))
    closed = lost.update(state=State.ESTIMATED, outcome=LOST, cost_usd=F("reserved_usd"))
    budgets.recount()
    return closed
