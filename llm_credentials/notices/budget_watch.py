"""Watches the monthly budgets of active users, outside their calls."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any, Final

from django.utils import timezone

from llm_credentials.ledger.budgets import WARN_FROM
from llm_credentials.ledger.reports import Report, Span, today
from llm_credentials.models import LLMSettings, UsageRecord
from llm_credentials.notices import alerts
from llm_credentials.notices.kinds import Kind
from llm_credentials.wall import open_for

AT_WORK: Final = timedelta(minutes=30)
"""Longer than a call, and than beat may be late."""


@open_for("budgets of all who are at work")
def watch_budgets() -> int:
    """Notify users whose own keys have cost 80 or 100 % of the budget, once a month each. Returns how many were
    notified.
    """
    now = timezone.now()
    at_work = UsageRecord.objects.filter(at__gte=now - AT_WORK, key_owner=UsageRecord.KeyOwner.USER)
    watched = LLMSettings.objects.filter(monthly_budget_usd__isnull=False, user_id__in=at_work.values("user_id"))
    return sum(_tell(settings) for settings in watched.iterator())


def _tell(settings: LLMSettings) -> bool:
    limit = settings.monthly_budget_usd or Decimal(0)
    spent = _spent_usd(settings.user_id)
    if spent >= limit:
        kind = Kind.BUDGET_USED_UP
    elif spent >= limit * WARN_FROM:
        kind = Kind.BUDGET_WARNED
    else:
        return False
    return alerts.budget_reached(settings.user_id, kind, alerts.this_month(), f"${spent:.2f} of ${limit:.2f}")


def _spent_usd(user_id: Any) -> Decimal:
    """Settled costs only; reservations may settle for less."""
    span = Span(today().replace(day=1), today())
    groups = Report(span, user_id).grouped("key_owner", names=("cost_usd_e8",))
    return sum((sums.known_cost_usd for (owner,), sums in groups.items() if owner == "user"), Decimal(0))
