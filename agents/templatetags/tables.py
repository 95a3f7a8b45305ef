"""How results of queries and charts read. ``{% load tables %}``."""

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
    """What the SVG of a chart in a result holds."""
    return drawing_of(ChartData.model_validate(chart))


@register.filter
def chart_rows(chart: dict[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    """(label, the value of each series)"""
    for number, label in enumerate(chart["labels"]):
        yield label, [series["values"][number] for series in chart["series"]]


@register.filter
def cell_words(cell: Any) -> str:
    """Whole numbers as they are, since many are years or numbers of things; others grouped, without odd last digits."""
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
    """A query as Markdown, to be shown in its colours."""
    fence = fence_for(text)
    return f"{fence}sql\n{text}\n{fence}"
