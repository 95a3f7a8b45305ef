"""The periods that reports cover, in whole days (UTC)."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Final

from django.utils.translation import gettext as _

from llm_credentials.ledger.reports import Span, today

PRESETS: Final = ("today", "7d", "30d", "month", "last-month", "12m")
DEFAULT: Final = "month"
FIRST_DAY: Final = date(2020, 1, 1)
"""Earlier than any row of a ledger."""


def preset_span(name: str) -> Span:
    """Raises ValueError."""
    now = today()
    month = now.replace(day=1)
    match name:
        case "today":
            return Span(now, now)
        case "7d":
            return Span(now - timedelta(days=6), now)
        case "30d":
            return Span(now - timedelta(days=29), now)
        case "month":
            return Span(month, now)
        case "last-month":
            before = month - timedelta(days=1)
            return Span(before.replace(day=1), before)
        case "12m":
            return Span(now - timedelta(days=364), now)
        case _:
            raise ValueError(f"Choose one of: {', '.join(PRESETS)}.")


def span_of(first: date | None, last: date | None) -> Span:
    """``first`` defaults to the start of the month, ``last`` to today.

    Raises ValueError with a message for users.
    """
    now = today()
    last = last or now
    first = first or min(last, now).replace(day=1)
    if first > now:
        raise ValueError(_("The first day lies in the future."))
    if first < FIRST_DAY:
        raise ValueError(_("Nothing was written down before %(year)s.") % {"year": FIRST_DAY.year})
    return Span(first, min(last, now))


def day_of(text: str) -> date:
    """Parses ``2026-01-31``. Raises ValueError with a message for users."""
    try:
        return date.fromisoformat(text) if len(text) == 10 else _refuse()
    except ValueError:
        return _refuse()


def _refuse() -> date:
    raise ValueError(_("Write days as 2026-01-31."))
