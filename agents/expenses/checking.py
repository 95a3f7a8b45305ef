"""Validates an expense, each field by itself. ``services`` has the checks that only need confirmation."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from django.core.exceptions import ValidationError
from django.utils import timezone
from django.utils.translation import gettext as _

from agents.expenses.currencies import DECIMALS
from agents.expenses.values import (
    MAX_LINES,
    PLACES,
    Category,
    LineValues,
    NotAnAmount,
    amount_of,
    day_of,
    faults,
)
from agents.texts import storable

VENDOR_CHARS: Final = 200
LINE_CHARS: Final = 300
NOTE_CHARS: Final = 2000
FIRST_DAY: Final = dt.date(1990, 1, 1)
Faults = dict[str, list[str]]


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A completely valid expense."""

    vendor: str
    date: dt.date
    currency: str
    total: Decimal
    category: str
    tax: Decimal | None
    tax_included: bool
    note: str
    lines: tuple[LineValues, ...]

    def columns(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "lines"}

    def faults(self) -> list[str]:
        return faults(
            self.lines, tax=self.tax, tax_included=self.tax_included, total=self.total, currency=self.currency
        )


def check(fields: Mapping[str, Any]) -> Checked:
    """Raises ValidationError with all faults."""
    wrong: Faults = {}
    currency = _currency(fields.get("currency"), wrong)
    places = DECIMALS.get(currency, PLACES)
    total = _amount(fields.get("total"), "total", places, wrong)
    if total is None and "total" not in wrong:
        wrong["total"] = [_("Write the total, such as 12.50.")]
    category = str(fields.get("category") or Category.OTHER)
    if category not in Category.values:
        wrong["category"] = [_("There is no such category.")]
    vendor = " ".join(_text(fields.get("vendor")).split())
    if not vendor or len(vendor) > VENDOR_CHARS:
        wrong["vendor"] = [_("Write who was paid, in up to %(most)d characters.") % {"most": VENDOR_CHARS}]
    note = _text(fields.get("note")).strip()
    if len(note) > NOTE_CHARS:
        wrong["note"] = [_("A note has up to %(most)d characters.") % {"most": NOTE_CHARS}]
    day = _date(fields.get("date"), wrong)
    tax = _amount(fields.get("tax"), "tax", places, wrong)
    lines = _lines(fields.get("lines") or [], places, wrong)
    if wrong or day is None or total is None:
        raise ValidationError(wrong)
    return Checked(
        vendor=vendor,
        date=day,
        currency=currency,
        total=total,
        category=category,
        tax=tax,
        tax_included=fields.get("tax_included") is not False,
        note=note,
        lines=lines,
    )


def _text(value: Any) -> str:
    return storable(str(value or "").replace("\x00", ""))


def _currency(value: Any, wrong: Faults) -> str:
    code = str(value or "").strip().upper()
    if code not in DECIMALS:
        wrong["currency"] = [_("Write the currency as its code of three letters, such as EUR.")]
    return code


def _date(value: Any, wrong: Faults) -> dt.date | None:
    day = day_of(value)
    if day is None:
        wrong["date"] = [_("Write a day that is in the calendar, as year-month-day.")]
    elif day > timezone.now().date() + dt.timedelta(days=1):  # it is already tomorrow somewhere
        wrong["date"] = [_("This day has not come yet. Write the day of the purchase.")]
    elif day < FIRST_DAY:
        wrong["date"] = [_("This day is too long ago. Write the day of the purchase.")]
    return day


def _amount(value: Any, field: str, places: int, wrong: Faults) -> Decimal | None:
    """An amount with at most this many decimals; None if it is missing or invalid."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        amount = amount_of(value)
    except NotAnAmount:
        wrong.setdefault(field, []).append(_("Write an amount as a plain number, such as 12.50."))
        return None
    rounded = round(amount, places)
    if rounded != amount:
        words = _("An amount in this currency has at most %(places)d decimals.")
        wrong.setdefault(field, []).append(words % {"places": places})
        return None
    return rounded


def _lines(given: Sequence[Mapping[str, Any]], places: int, wrong: Faults) -> tuple[LineValues, ...]:
    if len(given) > MAX_LINES:
        wrong["lines"] = [_("At most %(most)d lines fit. Put some together.") % {"most": MAX_LINES}]
        return ()
    lines = []
    for number, each in enumerate(given, start=1):
        faulty: Faults = {}
        description = " ".join(_text(each.get("description")).split())
        if len(description) > LINE_CHARS:
            faulty["description"] = [_("A line has up to %(most)d characters.") % {"most": LINE_CHARS}]
        amount = _amount(each.get("amount"), "amount", places, faulty)
        if amount is None and not faulty:
            faulty["amount"] = [_("Write what this line comes to.")]
        quantity = _amount(each.get("quantity"), "quantity", PLACES, faulty)
        price = _amount(each.get("unit_price"), "unit_price", PLACES, faulty)
        if faulty or amount is None:
            texts = " ".join(text for found in faulty.values() for text in found)
            wrong.setdefault("lines", []).append(_("Line %(number)d: %(texts)s") % {"number": number, "texts": texts})
            continue
        lines.append(LineValues(description=description, amount=amount, quantity=quantity, unit_price=price))
    return tuple(lines)
