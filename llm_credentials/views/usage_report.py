"""Data of the usage pages, for one user or for all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from typing import Any, Final
from urllib.parse import urlencode

from django.utils.formats import date_format
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from llm_credentials import charts
from llm_credentials.ledger import periods
from llm_credentials.ledger.aggregates import Sums
from llm_credentials.ledger.labels import Labels
from llm_credentials.ledger.reports import Report, Span
from llm_credentials.providers import ProviderSpec, label_of, spec_or_none
from llm_credentials.templatetags.keyswitch import count, hue_step, money

PRESETS: Final = (
    ("today", gettext_lazy("Today")),
    ("7d", gettext_lazy("7 days")),
    ("month", gettext_lazy("This month")),
    ("last-month", gettext_lazy("Last month")),
    ("12m", gettext_lazy("12 months")),
)
BREAKDOWNS: Final = {
    "provider": (gettext_lazy("Provider"), ("provider",)),
    "model": (gettext_lazy("Model"), ("provider", "model")),
    "task": (gettext_lazy("Task"), ("task",)),
    "key": (gettext_lazy("Key"), ("key_owner", "credential_id")),
    "payer": (gettext_lazy("Who paid"), ("key_owner",)),
}
MEASURES: Final = {
    "cost": gettext_lazy("Cost"),
    "requests": gettext_lazy("Requests"),
    "tokens": gettext_lazy("Tokens"),
}
_DAILY: Final = ("requests", "errors", "unpriced", "input_tokens", "output_tokens", "cost_usd_e8")
_ROWS_SHOWN: Final = 100
DASH: Final = " \u2013 "


@dataclass(frozen=True, slots=True)
class Choice:
    """The filters in the page's address."""

    span: Span
    preset: str
    """Empty for a custom range."""
    by: str
    measure: str
    problem: str = ""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Choice:
        """Invalid values fall back to the defaults; ``problem`` says so."""
        problem = ""
        preset = query.get("range", "")
        try:
            if not preset and (query.get("from") or query.get("to")):
                days = [periods.day_of(text) if (text := query.get(name)) else None for name in ("from", "to")]
                span = periods.span_of(*days)
            else:
                preset = preset or periods.DEFAULT
                span = periods.preset_span(preset)
        except ValueError as error:
            problem, preset = str(error), periods.DEFAULT
            span = periods.preset_span(preset)
        by, measure = query.get("by", ""), query.get("show", "")
        return cls(
            span, preset, by if by in BREAKDOWNS else "provider", measure if measure in MEASURES else "cost", problem
        )

    def link(self, **changes: str) -> str:
        """The query of this page with some filters changed."""
        kept = {"range": self.preset} if self.preset else self._dates()
        if "range" in changes:
            kept = {}
        return urlencode({**kept, "by": self.by, "show": self.measure, **changes})

    def _dates(self) -> dict[str, str]:
        return {"from": self.span.first.isoformat(), "to": self.span.last.isoformat()}

    @property
    def export_query(self) -> str:
        return urlencode(self._dates())


@dataclass(frozen=True, slots=True)
class Option:
    label: str
    query: str
    current: bool


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the breakdown."""

    label: str
    sums: Sums
    spec: ProviderSpec | None = None
    under: str = ""


@dataclass(frozen=True)
class UsagePage:
    choice: Choice
    report: Report
    labels: Labels
    extra: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def groups(self) -> dict[Any, Sums]:
        return self.report.grouped("provider", "model", "task", "credential_id", "key_owner")

    @cached_property
    def total(self) -> Sums:
        found = Sums.nothing()
        for sums in self.groups.values():
            found.add(sums)
        return found

    @cached_property
    def own(self) -> Sums:
        found = Sums.nothing()
        for key, sums in self.groups.items():
            if key[-1] == "user":
                found.add(sums)
        return found

    @property
    def own_share(self) -> int | None:
        """Percentage of requests made with users' own keys."""
        return round(100 * self.own.requests / self.total.requests) if self.total.requests else None

    @property
    def span_words(self) -> str:
        first, last = self.choice.span.first, self.choice.span.last
        if first == last:
            return date_format(first, "DATE_FORMAT")
        return f"{date_format(first, 'SHORT_DATE_FORMAT')}{DASH}{date_format(last, 'SHORT_DATE_FORMAT')}"

    # The breakdown

    @cached_property
    def lines(self) -> list[Line]:
        """Highest cost first."""
        names = ("provider", "model", "task", "credential_id", "key_owner")
        dimensions = BREAKDOWNS[self.choice.by][1]
        places = [names.index(name) for name in dimensions]
        found: dict[Any, Sums] = {}
        for key, sums in self.groups.items():
            found.setdefault(tuple(key[place] for place in places), Sums.nothing()).add(sums)
        in_order = sorted(found.items(), key=lambda one: (-one[1].cost_usd_e8, -one[1].requests, str(one[0])))
        return [self._line(key, sums) for key, sums in in_order]

    @property
    def shown_lines(self) -> list[Line]:
        return self.lines[:_ROWS_SHOWN]

    @property
    def hidden_lines(self) -> int:
        return max(0, len(self.lines) - _ROWS_SHOWN)

    def _line(self, key: Any, sums: Sums) -> Line:
        match self.choice.by:
            case "provider":
                return Line(label_of(key[0]), sums, spec_or_none(key[0]))
            case "model":
                return Line(self.labels.of("model", key[1]), sums, spec_or_none(key[0]), label_of(key[0]))
            case "key":
                return Line(self.labels.key(key[1], key[0]), sums)
            case by:
                return Line(self.labels.of("key_owner" if by == "payer" else by, key[0]), sums)

    # The chart

    @cached_property
    def days(self) -> dict[date, dict[str, Sums]]:
        found: dict[date, dict[str, Sums]] = {}
        for (day, provider), sums in self.report.grouped("day", "provider", names=_DAILY).items():
            found.setdefault(day, {})[provider] = sums
        return found

    @cached_property
    def chart(self) -> charts.Chart:
        values = {
            day: {provider: self._measured(sums) for provider, sums in one.items()} for day, one in self.days.items()
        }
        return charts.stacked(self.choice.span.days, values)

    def _measured(self, sums: Sums) -> float:
        match self.choice.measure:
            case "requests":
                return sums.requests
            case "tokens":
                return sums.input_tokens + sums.output_tokens
            case _:
                return float(sums.known_cost_usd)

    def shown(self, value: float) -> str:
        return money(value) if self.choice.measure == "cost" else count(round(value))

    @cached_property
    def bars(self) -> list[dict[str, Any]]:
        """Bars for the template, with their pieces and labels."""
        return [
            {
                "bar": bar,
                "when": self._when(bar),
                "total": self.shown(bar.total),
                "pieces": [
                    {
                        "piece": piece,
                        "look": _look(piece.series, piece.place),
                        "words": self._piece_words(bar, piece.series),
                    }
                    for piece in bar.pieces
                ],
            }
            for bar in self.chart.bars
        ]

    def _piece_words(self, bar: charts.Bar, series: str) -> str:
        return f"{self._when(bar)}, {label_of(series)}: {self.shown(bar.values[series])}"

    def _when(self, bar: charts.Bar) -> str:
        if bar.first == bar.last:
            return date_format(bar.first, "SHORT_DATE_FORMAT")
        if self.chart.unit == "month":
            return date_format(bar.first, "YEAR_MONTH_FORMAT")
        return f"{date_format(bar.first, 'MONTH_DAY_FORMAT')}{DASH}{date_format(bar.last, 'SHORT_DATE_FORMAT')}"

    @property
    def legend(self) -> list[tuple[str, str]]:
        return [(label_of(slug), _look(slug, place)) for place, slug in enumerate(self.chart.series)]

    @property
    def marks(self) -> tuple[str, str, str]:
        """Axis values at the chart's top, middle and bottom."""
        return self.shown(self.chart.top), self.shown(self.chart.top / 2), self.shown(0)

    @property
    def ends(self) -> tuple[str, str]:
        pattern = "YEAR_MONTH_FORMAT" if self.chart.unit == "month" else "MONTH_DAY_FORMAT"
        return date_format(self.choice.span.first, pattern), date_format(self.choice.span.last, pattern)

    @property
    def chart_title(self) -> str:
        per = {"day": _("per day"), "week": _("per week"), "month": _("per month")}[self.chart.unit]
        return _("%(measure)s %(per)s") % {"measure": MEASURES[self.choice.measure], "per": per}

    @property
    def chart_words(self) -> str:
        """The chart in a sentence, for screen readers."""
        peak = self.chart.peak
        return _("%(span)s; the most was %(total)s, %(when)s.") % {
            "span": self.span_words,
            "total": self.shown(peak.total),
            "when": self._when(peak),
        }

    @cached_property
    def rows(self) -> list[tuple[str, Sums]]:
        """Each bar's figures, latest first; bars without requests are left out."""
        found = []
        for bar in reversed(self.chart.bars):
            added = Sums.nothing()
            for day, one in self.days.items():
                if bar.first <= day <= bar.last:
                    for sums in one.values():
                        added.add(sums)
            if added.requests:
                found.append((self._when(bar), added))
        return found

    @property
    def rows_title(self) -> str:
        return {"day": _("Figures by day"), "week": _("Figures by week"), "month": _("Figures by month")}[
            self.chart.unit
        ]

    @property
    def row_label(self) -> str:
        return {"day": _("Day (UTC)"), "week": _("Week (UTC)"), "month": _("Month (UTC)")}[self.chart.unit]

    # The choices

    @property
    def presets(self) -> list[Option]:
        return [Option(str(label), self.choice.link(range=name), self.choice.preset == name) for name, label in PRESETS]

    @property
    def breakdowns(self) -> list[Option]:
        return [
            Option(str(label), self.choice.link(by=name), self.choice.by == name)
            for name, (label, _dimensions) in BREAKDOWNS.items()
        ]

    @property
    def measures(self) -> list[Option]:
        return [
            Option(str(label), self.choice.link(show=name), self.choice.measure == name)
            for name, label in MEASURES.items()
        ]

    @property
    def by_label(self) -> str:
        return str(BREAKDOWNS[self.choice.by][0])


def _look(slug: str, place: int) -> str:
    """CSS classes of its colour; neighbours also differ in lightness, because providers may have similar hues."""
    spec = spec_or_none(slug)
    return f"shade-{place % 3}" + (f" hue-{hue_step(spec.hue)}" if spec else "")
