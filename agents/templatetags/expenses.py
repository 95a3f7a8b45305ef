"""Formats receipts and expenses. ``{% load expenses %}``."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from django import template
from pydantic import ValidationError

from agents.expenses.receipts import Receipt
from agents.expenses.values import Category, faults, money_words

register = template.Library()


@register.filter
def amount_in(amount: Decimal | str | None, currency: str) -> str:
    """``"6.70"|amount_in:"EUR"`` → 6.70 EUR; empty for None."""
    return money_words(None if amount is None else Decimal(str(amount)), currency)


@register.filter
def category_words(slug: str) -> str:
    return str(Category(slug).label) if slug in Category.values else slug


@register.filter
def as_receipt(result: Any) -> Receipt | None:
    """The receipt that a run has read; None for a result of another shape."""
    try:
        return Receipt.model_validate(result)
    except ValidationError:
        return None


@register.filter
def receipt_faults(receipt: Receipt) -> list[str]:
    """Descriptions of sums that do not agree."""
    return faults(
        receipt.lines,
        tax=receipt.tax,
        tax_included=receipt.tax_included,
        total=receipt.total,
        currency=receipt.currency,
    )
