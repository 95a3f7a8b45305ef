"""Turns a receipt, as text, photo or PDF, into an expense that the user checks and keeps."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from asgiref.sync import sync_to_async
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop
from pydantic import BaseModel

from agents.base import Agent
from agents.expenses import reading
from agents.expenses.receipts import Receipt
from agents.expenses.values import Category, faults, money_words
from agents.loop import Limits
from agents.texts import markdown_escaped
from llm_credentials.providers import LLMMessage, TextPart

if TYPE_CHECKING:
    from agents.attachments import Attachment


class ExpenseAgent(Agent):
    slug = "expense"
    title = gettext_noop("Expense")
    description = gettext_noop(
        "Give it a receipt as text, photo or PDF. You get vendor, date, lines, tax and total with checked sums, to "
        "correct and keep in your list of expenses."
    )
    icon = "ticket"
    examples = (
        gettext_noop(
            "Café Luna, Rua Augusta 12, Lisboa. 3 November 2026. 2 espresso at 1.60, 1 toast 3.50. VAT 23 % included: "
            "1.25. Total EUR 6.70, paid by card."
        ),
        gettext_noop(
            "Hardware Depot, Austin TX, 11/14/2026: 1 drill 89.00, 4 boxes of screws at 6.25. Sales tax 9.41, total "
            "$123.41."
        ),
        gettext_noop(
            "Rail refund of 9 November 2026 from SBB, Zürich: ticket Zürich to Bern returned, CHF -51.00, fee CHF "
            "10.00, paid back CHF 41.00"
        ),
    )
    output = Receipt
    takes_files = True
    sees_pictures = True
    kept_at = ("agents:expense-list", gettext_noop("Your expenses"))
    weight = "light"
    temperature = 0.0
    max_tokens = 6000
    limits = Limits(max_steps=2, max_tokens=120_000, max_seconds=180.0)
    position = 90

    async def turn(self, prompt: LLMMessage) -> LLMMessage:
        # Reading a file may query the database and parse a PDF.
        parts = await sync_to_async(reading.parts_of)(cast("Sequence[Attachment]", self.attachments))
        today = TextPart(text=f"\n\n(Today is {dt.datetime.now(dt.UTC).date().isoformat()}.)")
        return replace(prompt, parts=(*prompt.parts, *parts, today))

    def shown(self, output: BaseModel) -> str:
        return as_markdown(cast("Receipt", output))


def as_markdown(receipt: Receipt) -> str:
    if not receipt.is_receipt:
        return receipt.problem or _("This is no receipt.")
    head = [
        f"**{markdown_escaped(receipt.vendor) or _('Unknown vendor')}**",
        receipt.date.isoformat() if receipt.date else _("date unknown"),
        str(Category(receipt.category).label),
    ]
    rows = [
        f"| {markdown_escaped(line.description)} | {money_words(line.amount, receipt.currency)} |"
        for line in receipt.lines
    ]
    if receipt.tax is not None:
        rows.append(f"| {_('Tax')} | {money_words(receipt.tax, receipt.currency)} |")
    rows.append(f"| **{_('Total')}** | **{money_words(receipt.total, receipt.currency) or '?'}** |")
    table = "\n".join([f"| {_('Line')} | {_('Amount')} |", "|---|---:|", *rows])
    notes = [
        *faults(
            receipt.lines,
            tax=receipt.tax,
            tax_included=receipt.tax_included,
            total=receipt.total,
            currency=receipt.currency,
        ),
        *([receipt.problem] if receipt.problem else []),
    ]
    return "\n\n".join([" · ".join(head), table, *(f"*{markdown_escaped(note)}*" for note in notes)])


__all__: list[Any] = ["ExpenseAgent", "Receipt"]
