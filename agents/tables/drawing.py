"""Computes charts as SVG geometry; the template draws them, the stylesheet sets colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from agents.tables.results import ChartData
from llm_credentials.charts import HEIGHT, WIDTH, round_up

MAX_NAMES: Final = 8


@dataclass(frozen=True, slots=True)
class Bar:
    look: str
    label: str
    series: str
    value: float
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Line:
    look: str
    path: str
    """SVG path; interrupted where a value is missing."""


@dataclass(frozen=True, slots=True)
class Drawing:
    marks: tuple[float, float, float]
    """Axis values at the top, middle and bottom."""
    ends: tuple[str, str]
    names: tuple[str, ...]
    """All labels if there are few bars, instead of the first and last."""
    zero_y: float
    bars: tuple[Bar, ...]
    lines: tuple[Line, ...]
    legend: tuple[tuple[str, str], ...]
    """(series, CSS classes)"""
    least: tuple[str, float]
    """(label, value)"""
    most: tuple[str, float]


def drawing_of(chart: ChartData) -> Drawing:
    values = [value for series in chart.series for value in series.values if value is not None]
    top, foot = round_up(max(0.0, *values)), -round_up(-min(0.0, *values))
    if top == foot:
        top = 1.0
    known = [
        (label, value)
        for series in chart.series
        for label, value in zip(chart.labels, series.values, strict=True)
        if value is not None
    ]
    is_line = chart.kind == "line"
    return Drawing(
        marks=(top, (top + foot) / 2, foot),
        ends=(chart.labels[0], chart.labels[-1]),
        names=() if is_line or len(chart.labels) > MAX_NAMES else tuple(chart.labels),
        zero_y=_y(0, top, foot),
        bars=() if is_line else tuple(_bars(chart, top, foot)),
        lines=tuple(Line(_look(place), _path(series.values, top, foot)) for place, series in enumerate(chart.series))
        if is_line
        else (),
        legend=tuple((series.name, _look(place)) for place, series in enumerate(chart.series)),
        least=min(known, key=lambda one: one[1]),
        most=max(known, key=lambda one: one[1]),
    )


def _bars(chart: ChartData, top: float, foot: float) -> list[Bar]:
    step = WIDTH / len(chart.labels)
    gap = min(step * 0.25, 14)
    width = (step - gap) / len(chart.series)
    zero = _y(0, top, foot)
    found = []
    for number, label in enumerate(chart.labels):
        for place, series in enumerate(chart.series):
            value = series.values[number]
            if value is None:
                continue
            y = _y(value, top, foot)
            x = number * step + gap / 2 + place * width
            height = round(abs(zero - y), 2)
            found.append(
                Bar(_look(place), label, series.name, value, round(x, 2), min(y, zero), round(width, 2), height)
            )
    return found


def _path(values: Sequence[float | None], top: float, foot: float) -> str:
    step = WIDTH / max(1, len(values) - 1)
    pieces, pen = [], "M"
    for number, value in enumerate(values):
        if value is None:
            pen = "M"
            continue
        pieces.append(f"{pen}{round(number * step, 2):g} {_y(value, top, foot):g}")
        alone = pen == "M" and (number + 1 == len(values) or values[number + 1] is None)
        if alone:
            pieces.append("h0.01")  # draws a single point between gaps
        pen = "L"
    return "".join(pieces)


def _y(value: float, top: float, foot: float) -> float:
    return round((top - value) / (top - foot) * HEIGHT, 2)


def _look(place: int) -> str:
    """CSS classes of its colour; neighbours differ in hue and in lightness."""
    return f"shade-{place % 3} hue-{(265, 30, 150, 345, 75, 210)[place % 6] // 15 * 15}"
