"""Formats query results and charts. ``{% load tables %}``."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from django import template
from django.utils.formats import number_format

from agents.patching.files import fence_for
from agents.tables.drawing import Drawing, drawing_of
from agents.tables.results import ChartData, Column

register = template.Library()


@register.filter
def drawn(chart: dict[str, Any]) -> Drawing:
    """The SVG geometry of a chart in a result."""
    return drawing_of(ChartData.model_validate(chart))


@register.filter
def chart_rows(chart: dict[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    """(label, the value of each series)"""
    for number, label in enumerate(chart["labels"]):
        yield label, [series["values"][number] for series in chart["series"]]


@register.filter
def cell_words(cell: Any) -> str:
    """Whole numbers unchanged, since many are years or ids; others grouped and without float noise."""
    if isinstance(cell, float):
        short = f"{cell:.12g}"
        return short if "e" in short else number_format(Decimal(short), force_grouping=True)
    return "" if cell is None else str(cell)


@register.filter
def is_number(cell: Any) -> bool:
    return isinstance(cell, int | float) and not isinstance(cell, bool)


@register.filter
def is_numeric(column: dict[str, Any]) -> bool:
    return Column.model_validate(column).is_number


@register.filter
def as_sql(text: str) -> str:
    """A query as Markdown, for syntax highlighting."""
    fence = fence_for(text)
    return f"{fence}sql\n{text}\n{fence}"
