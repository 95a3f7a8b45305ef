"""Parses the values of an expense as written by a model or a person, and checks its sums."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Protocol

from django.db import models
from django.utils.formats import number_format
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from agents.expenses.currencies import decimals, smallest

MAX_AMOUNT: Final = Decimal(10) ** 11
MAX_LINES: Final = 200
PLACES: Final = 4
"""Decimals stored: quantities and unit prices have more of them than money."""
_PLAIN = re.compile(r"[+-]?\d{1,15}(\.\d{1,12})?")
_GROUPED = re.compile(r"[+-]?\d{1,3}([,.' ])\d{3}(\1\d{3})*(?!\1)[.,]\d{1,4}")
_COMMA = re.compile(r"[+-]?\d{1,15},\d{1,2}")


class Category(models.TextChoices):
    MEALS = "meals", gettext_lazy("Meals")
    GROCERIES = "groceries", gettext_lazy("Groceries")
    TRAVEL = "travel", gettext_lazy("Travel")
    LODGING = "lodging", gettext_lazy("Lodging")
    TRANSPORT = "transport", gettext_lazy("Local transport")
    FUEL = "fuel", gettext_lazy("Fuel")
    OFFICE = "office", gettext_lazy("Office supplies")
    SOFTWARE = "software", gettext_lazy("Software and services")
    HARDWARE = "hardware", gettext_lazy("Hardware")
    PHONE = "phone", gettext_lazy("Phone and internet")
    TRAINING = "training", gettext_lazy("Books and training")
    HEALTH = "health", gettext_lazy("Health")
    FEES = "fees", gettext_lazy("Fees and insurance")
    OTHER = "other", gettext_lazy("Other")


class NotAnAmount(ValueError):
    """The value is not an amount of money."""


def amount_of(value: Any) -> Decimal:
    """From ``12.5``, ``"12.50"``, ``"12,50"``, ``"1,234.50"`` or ``"1.234,50"``. Raises NotAnAmount.

    ``"1,234"`` is refused as ambiguous: it may mean one thousand or one.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise NotAnAmount
    text = format(value, "f") if isinstance(value, Decimal) else str(value)
    text = text.strip().replace("\u2212", "-").replace("\u00a0", " ").replace("\u202f", " ").replace("\u2019", "'")
    if not text.isascii() or len(text) > 40:
        raise NotAnAmount
    if _GROUPED.fullmatch(text):
        whole, fraction = text[: _last_mark(text)], text[_last_mark(text) + 1 :]
        text = re.sub(r"[,.' ]", "", whole) + "." + fraction
    elif _COMMA.fullmatch(text):
        text = text.replace(",", ".")
    elif not _PLAIN.fullmatch(text):
        raise NotAnAmount
    found = Decimal(text)
    if abs(found) >= MAX_AMOUNT:
        raise NotAnAmount
    return found


def _last_mark(text: str) -> int:
    return max(text.rfind("."), text.rfind(","))


def day_of(value: Any) -> dt.date | None:
    """From ``2026-11-21``; None for anything else, such as the 31st of February."""
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        return value
    try:
        return dt.date.fromisoformat(str(value).strip()[:10]) if re.match(r"\s*\d{4}-\d\d-\d\d", str(value)) else None
    except ValueError:
        return None


def money_words(amount: Decimal | None, currency: str) -> str:
    """``1,234.50 EUR``, with the currency's decimals, or more if the amount has more."""
    if amount is None:
        return ""
    exponent = amount.normalize().as_tuple().exponent
    places = max(decimals(currency), -exponent if isinstance(exponent, int) else 0)
    return f"{number_format(amount, decimal_pos=places, use_l10n=True, force_grouping=True)} {currency}".strip()


class Line(Protocol):
    @property
    def quantity(self) -> Decimal | None: ...
    @property
    def unit_price(self) -> Decimal | None: ...
    @property
    def amount(self) -> Decimal: ...


@dataclass(frozen=True, kw_only=True)
class LineValues:
    """A Line implementation."""

    description: str
    amount: Decimal
    quantity: Decimal | None = None
    unit_price: Decimal | None = None


def lines_total(lines: Iterable[Line], tax: Decimal | None, *, tax_included: bool) -> Decimal:
    """Sum of lines and tax."""
    total = sum((line.amount for line in lines), Decimal(0))
    return total if tax_included or tax is None else total + tax


def faults(
    lines: Sequence[Line], *, tax: Decimal | None, tax_included: bool, total: Decimal | None, currency: str
) -> list[str]:
    """Descriptions of sums that differ by more than a cent; empty if there is nothing to add up."""
    cent, found = smallest(currency), []
    for number, line in enumerate(lines, start=1):
        if line.quantity is None or line.unit_price is None:
            continue
        product = line.quantity * line.unit_price
        if abs(product - line.amount) > cent:
            words = _("Line %(number)d: %(quantity)s times %(price)s is %(product)s, and it says %(amount)s.")
            found.append(
                words
                % {
                    "number": number,
                    "quantity": number_format(line.quantity.normalize(), use_l10n=True),
                    "price": money_words(line.unit_price, ""),
                    "product": money_words(product.quantize(cent), currency),
                    "amount": money_words(line.amount, currency),
                }
            )
    if lines and total is not None:
        comes_to = lines_total(lines, tax, tax_included=tax_included)
        if abs(comes_to - total) > cent:
            words = _("The lines come to %(sum)s, and the total says %(total)s: %(difference)s of difference.")
            if not tax_included and tax:
                words = _(
                    "The lines and the tax come to %(sum)s, and the total says %(total)s: %(difference)s of difference."
                )
            found.append(
                words
                % {
                    "sum": money_words(comes_to, currency),
                    "total": money_words(total, currency),
                    "difference": money_words(abs(comes_to - total), currency),
                }
            )
    return found
