"""Exports expenses: CSV for spreadsheets, one expense per line; JSON with every line of every receipt."""

from __future__ import annotations

import json
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, Final, Literal

from django.core.serializers.json import DjangoJSONEncoder
from django.http import HttpResponse

from agents.expenses.currencies import smallest
from agents.expenses.models import Expense, ExpenseQuerySet
from agents.expenses.values import money_words
from llm_credentials.ledger.exports import csv_line

Form = Literal["csv", "json"]
FORMS: Final[dict[Form, str]] = {"csv": "text/csv; charset=utf-8", "json": "application/json"}
COLUMNS: Final = (
    *("date", "vendor", "category", "currency", "total", "tax", "tax_included", "lines", "note", "id"),
    *("created_at", "updated_at"),
)


def exported(found: ExpenseQuerySet, form: Form) -> HttpResponse:
    rows = found.prefetch_related("lines")
    body = b"".join(_csv(rows)) if form == "csv" else _json(rows)
    headers = {"Content-Disposition": f'attachment; filename="expenses.{form}"', "X-Content-Type-Options": "nosniff"}
    return HttpResponse(body, content_type=FORMS[form], headers=headers)


def as_json(expense: Expense) -> dict[str, Any]:
    """Amounts are exact text, with the decimals of their currency."""
    names = ("id", "vendor", "date", "currency", "category", "tax_included", "note", "version")
    return {name: getattr(expense, name) for name in names} | {
        "total": _text(expense.total, expense.currency),
        "tax": _text(expense.tax, expense.currency),
        "lines": [
            {
                "description": line.description,
                "quantity": _number(line.quantity),
                "unit_price": _number(line.unit_price),
                "amount": _text(line.amount, expense.currency),
            }
            for line in expense.lines.all()
        ],
        "run": expense.run_id,
        "attachment": expense.attachment_id,
        "created_at": expense.created_at,
        "updated_at": expense.updated_at,
    }


def in_currency(amount: Decimal | None, currency: str) -> Decimal | None:
    return None if amount is None else amount.quantize(smallest(currency))


def _text(amount: Decimal | None, currency: str) -> str | None:
    rounded = in_currency(amount, currency)
    return None if rounded is None else format(rounded, "f")


def _number(value: Decimal | None) -> str | None:
    return None if value is None else format(value.normalize(), "f")


def _csv(rows: Iterable[Expense]) -> Iterable[bytes]:
    yield csv_line(COLUMNS)
    for row in rows:
        said = as_json(row) | {
            # Exported as numbers, so that a refund's minus sign is not taken for a formula.
            "total": in_currency(row.total, row.currency),
            "tax": in_currency(row.tax, row.currency),
            "lines": "; ".join(f"{each.description} {money_words(each.amount, '')}" for each in row.lines.all()),
            "tax_included": "yes" if row.tax_included else "no",
            "created_at": row.created_at.isoformat(timespec="seconds"),
            "updated_at": row.updated_at.isoformat(timespec="seconds"),
        }
        yield csv_line("" if said[name] is None else said[name] for name in COLUMNS)


def _json(rows: Iterable[Expense]) -> bytes:
    return json.dumps([as_json(row) for row in rows], cls=DjangoJSONEncoder, ensure_ascii=False, indent=1).encode()
