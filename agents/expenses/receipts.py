"""A receipt as a model reads it.

Fields that the model could not read are empty; the user fills them in before the expense is kept.
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema, computed_field

from agents.expenses.currencies import DECIMALS, smallest
from agents.expenses.values import MAX_LINES, Category, NotAnAmount, amount_of, day_of, lines_total
from agents.texts import one_line, storable


def _amount(value: Any) -> Decimal | None:
    if value is None or (isinstance(value, str) and value.strip().casefold() in ("", "null", "none")):
        return None
    try:
        return amount_of(value)
    except NotAnAmount:
        raise ValueError("write the amount as a plain number such as 12.50, without a currency") from None


def _amount_if_one(value: Any) -> Decimal | None:
    """Quantities are written in many ways, and nothing depends on one that cannot be parsed."""
    try:
        return _amount(value)
    except ValueError:
        return None


def _code(value: Any) -> str:
    code = str(value or "").strip().upper()
    return code if code in DECIMALS else ""


def _category(value: Any) -> str:
    slug = str(value or "").strip().casefold()
    return slug if slug in Category.values else Category.OTHER.value


def _words(most: int) -> BeforeValidator:
    """One line of at most this many characters, storable in every database."""
    return BeforeValidator(lambda value: storable(one_line(str(value or "")))[:most])


_NUMBER: Final = {"anyOf": [{"type": "number"}, {"type": "null"}]}
"""The type that models are asked for; a text with a number in it is accepted as well."""
Amount = Annotated[Decimal, BeforeValidator(_amount), WithJsonSchema({"type": "number"})]
AmountIfOne = Annotated[Decimal | None, BeforeValidator(_amount_if_one), WithJsonSchema(_NUMBER)]
AmountOrNone = Annotated[Decimal | None, BeforeValidator(_amount), WithJsonSchema(_NUMBER)]

_CategorySlug = Annotated[
    str, BeforeValidator(_category), WithJsonSchema({"type": "string", "enum": list(Category.values)})
]


class ReceiptLine(BaseModel):
    description: Annotated[str, _words(300)]
    quantity: Annotated[AmountIfOne, Field(description="As a plain number, without a unit.")] = None
    unit_price: AmountIfOne = None
    amount: Annotated[Amount, Field(description="What this line adds to the receipt; negative for a discount.")]


class Receipt(BaseModel):
    is_receipt: Annotated[bool, Field(description="Whether this is a receipt or an invoice at all.")]
    problem: Annotated[
        str, _words(500), Field(description="What could not be read, or why this is no receipt; else empty.")
    ] = ""
    vendor: Annotated[str, _words(200)] = ""
    date: Annotated[
        dt.date | None,
        BeforeValidator(day_of),
        WithJsonSchema({"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}]}),
    ] = None
    currency: Annotated[str, BeforeValidator(_code), Field(description="ISO 4217, such as EUR.")] = ""
    lines: Annotated[list[ReceiptLine], Field(max_length=MAX_LINES)] = []
    tax: AmountOrNone = None
    tax_included: Annotated[bool, Field(description="Whether the amounts of the lines contain the tax.")] = True
    total: AmountOrNone = None
    category: Annotated[
        str, BeforeValidator(_category), WithJsonSchema({"enum": Category.values, "type": "string"})
    ] = Category.OTHER.value

    @computed_field  # type: ignore[prop-decorator]
    @property
    def lines_and_tax(self) -> Decimal | None:
        """What lines and tax come to; None without lines."""
        return lines_total(self.lines, self.tax, tax_included=self.tax_included) if self.lines else None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def difference(self) -> Decimal | None:
        """Between that and the total, where it is more than a cent; None where the sums agree or say nothing."""
        if self.lines_and_tax is None or self.total is None:
            return None
        found = self.lines_and_tax - self.total
        return found if abs(found) > smallest(self.currency) else None
