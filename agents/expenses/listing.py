"""Filters expenses, and sums them by month and category."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Final, Self

from django.core.exceptions import ValidationError
from django.db.models import Count, Sum
from django.db.models.functions import TruncMonth
from django.utils.translation import gettext as _

from agents.expenses.currencies import smallest
from agents.expenses.models import Expense, ExpenseQuerySet
from agents.expenses.values import Category, money_words

if TYPE_CHECKING:
    from django.contrib.auth.models import User

MAX_QUERY_CHARS: Final = 200
MONTH: Final = r"^[0-9]{4}-[0-9]{2}$"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    query: str = ""
    month: dt.date | None = None
    """First day of the month."""
    category: str = ""

    @classmethod
    def of(cls, given: Mapping[str, str]) -> Self:
        """From ``q``, ``month`` (``2026-11``) and ``category``; all expenses without them. Raises ValidationError."""
        category = given.get("category", "")
        if category and category not in Category.values:
            raise ValidationError({"category": [_("There is no such category.")]})
        return cls(
            query=given.get("q", "").strip()[:MAX_QUERY_CHARS],
            month=_month(given.get("month", "").strip()),
            category=category,
        )

    @property
    def is_all(self) -> bool:
        return not (self.query or self.month or self.category)

    def of_user(self, user: User) -> ExpenseQuerySet:
        found = Expense.objects.for_user(user).with_words(self.query)
        found = found.of_month(self.month) if self.month else found
        return (found.filter(category=self.category) if self.category else found).newest_first()


def _month(text: str) -> dt.date | None:
    if not text:
        return None
    try:
        return dt.date.fromisoformat(f"{text}-01") if re.match(MONTH, text) else _no_month()
    except ValueError:
        return _no_month()


def _no_month() -> dt.date:
    raise ValidationError({"month": [_("Write a month as year and month, such as 2026-11.")]})


@dataclass(kw_only=True)
class Total:
    """Total of one month in one currency."""

    month: dt.date
    currency: str
    count: int = 0
    total: Decimal = Decimal(0)
    categories: list[tuple[str, Decimal]] = field(default_factory=list)
    """Slug and sum, largest first."""

    @property
    def total_words(self) -> str:
        return money_words(self.total, self.currency)

    @property
    def category_words(self) -> list[tuple[str, str]]:
        return [(str(Category(slug).label), money_words(total, self.currency)) for slug, total in self.categories]


def totals(found: ExpenseQuerySet) -> list[Total]:
    """By month and currency, newest month first."""
    rows = (
        found.order_by()
        .annotate(month=TruncMonth("date"))
        .values("month", "currency", "category")
        .annotate(count=Count("pk"), total=Sum("total"))
    )
    sums: dict[tuple[dt.date, str], Total] = {}
    for row in rows:
        key = (row["month"], row["currency"])
        one = sums.setdefault(key, Total(month=row["month"], currency=row["currency"]))
        part = Decimal(row["total"]).quantize(smallest(one.currency))  # SQLite sums as floats
        one.count += row["count"]
        one.total += part
        one.categories.append((row["category"], part))
    for one in sums.values():
        one.categories.sort(key=lambda each: (-each[1], each[0]))
    return sorted(sums.values(), key=lambda one: (-one.month.toordinal(), one.currency))
