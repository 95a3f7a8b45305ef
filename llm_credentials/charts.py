"""Computes bar charts as SVG geometry. The template draws them and the stylesheet styles them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from math import ceil, floor, log10

WIDTH, HEIGHT = 1000, 200
DAILY_UP_TO, WEEKLY_UP_TO = 62, 280
"""Longest ranges in days with daily and with weekly bars; longer ranges get monthly bars."""


@dataclass(frozen=True, slots=True)
class Piece:
    series: str
    place: int
    """Index of its series, from 0."""
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class Bar:
    first: date
    last: date
    values: Mapping[str, float]
    x: float
    width: float
    pieces: tuple[Piece, ...]

    @property
    def total(self) -> float:
        return sum(self.values.values())

    @property
    def middle(self) -> float:
        return self.x + self.width / 2


@dataclass(frozen=True, slots=True)
class Chart:
    bars: tuple[Bar, ...]
    series: tuple[str, ...]
    top: float
    """The value at the upper edge, rounded up."""
    unit: str
    """What one bar covers: ``day``, ``week`` or ``month``."""

    @property
    def is_empty(self) -> bool:
        return not self.series

    @property
    def peak(self) -> Bar:
        return max(self.bars, key=lambda bar: bar.total)


def stacked(days: Sequence[date], values: Mapping[date, Mapping[str, float]]) -> Chart:
    """One stacked bar per period of ``days``; the largest series is at the bottom."""
    weight: dict[str, float] = {}
    for one in values.values():
        for name, value in one.items():
            weight[name] = weight.get(name, 0) + value
    series = tuple(sorted((name for name in weight if weight[name] > 0), key=lambda name: (-weight[name], name)))
    unit = "day" if len(days) <= DAILY_UP_TO else "week" if len(days) <= WEEKLY_UP_TO else "month"
    stretches = _stretches(days, unit)
    added = [
        {name: sum(values.get(day, {}).get(name, 0) for day in _between(first, last)) for name in series}
        for first, last in stretches
    ]
    top = round_up(max((sum(one.values()) for one in added), default=0))
    step = WIDTH / max(1, len(stretches))
    gap = min(step * 0.25, 14)
    bars = tuple(
        Bar(first, last, one, round(number * step + gap / 2, 2), round(step - gap, 2), _pieces(one, series, top))
        for number, ((first, last), one) in enumerate(zip(stretches, added, strict=True))
    )
    return Chart(bars, series, top, unit)


def _pieces(values: Mapping[str, float], series: Sequence[str], top: float) -> tuple[Piece, ...]:
    found, y = [], float(HEIGHT)
    for place, name in enumerate(series):
        if values[name] > 0 and top > 0:
            height = values[name] / top * HEIGHT
            y -= height
            found.append(Piece(name, place, round(y, 2), round(height, 2)))
    return tuple(found)


def _stretches(days: Sequence[date], unit: str) -> list[tuple[date, date]]:
    found: list[tuple[date, date]] = []
    for day in days:
        starts = unit == "day" or (unit == "week" and day.weekday() == 0) or (unit == "month" and day.day == 1)
        if starts or not found:
            found.append((day, day))
        else:
            found[-1] = (found[-1][0], day)
    return found


def _between(first: date, last: date) -> list[date]:
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]


def round_up(value: float) -> float:
    """Up to 1, 2, 2.5 or 5 times a power of ten, so that half of it is a round number too."""
    if value <= 0:
        return 0
    power = 10.0 ** floor(log10(value))
    for factor in (1, 2, 2.5, 5, 10):
        if value <= factor * power * (1 + 1e-9):
            return float(ceil(factor * power)) if factor * power >= 10 else factor * power
    return 10 * power
