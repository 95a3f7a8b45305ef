"""Agents that the site has only while a test says so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal

import pytest
from django import forms
from pydantic import BaseModel

from agents import registry
from agents.base import Agent
from agents.loop import Limits
from agents.progress import say
from agents.tools import Tool, tool

NOTES: list[str] = []
"""What the Writer has written."""


class WriterAgent(Agent):
    slug = "writer"
    title = "Writer"
    description = "Write notes. Nothing is written without you."
    examples = ("Note that we need milk.", "Note <b>flour</b>.")
    instructions = "Write notes."

    def tools_for(self) -> list[Tool]:
        @tool(access="writes")
        async def note(text: str) -> str:
            """Write a note."""
            say("Sharpening the pencil")
            NOTES.append(text)
            return "written"

        return [note]


class Bill(BaseModel):
    vendor: str
    total: Decimal


class BillForm(forms.Form):
    currency = forms.ChoiceField(choices=[("EUR", "Euro"), ("USD", "US dollar")], initial="EUR")
    lines = forms.IntegerField(required=False, min_value=1, max_value=9)


class BillerAgent(Agent):
    slug = "biller"
    title = "Biller"
    description = "Read bills. Get vendor and total."
    examples = ("Bakery, 3.20",)
    instructions = "Read the bill."
    output = Bill
    form = BillForm
    takes_files = True
    limits = Limits(max_cost_usd=Decimal("0.50"))


@contextmanager
def on_the_site(*more: type[Agent]) -> Iterator[None]:
    NOTES.clear()
    every = (*registry.agents(), *more)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "agents", lambda: every)
        patch.setattr("agents.views.agents.agents", lambda: every)
        yield
