"""The sums over attempts, defined once for both ledger rows and daily roll-ups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from django.db.models import BigIntegerField, Count, F, Q, Sum
from django.db.models.aggregates import Aggregate
from django.db.models.functions import Cast, Coalesce, Round

from llm_credentials.models import UsageRecord
from llm_credentials.models.rollups import LATENCY_BOUNDS_MS, LATENCY_FIELDS
from llm_credentials.routing.receipt import CANCELLED, OK

DIMENSIONS: Final = ("provider", "model", "task", "credential_id", "key_owner")
TOKENS: Final = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")
NAMES: Final = (
    *("requests", "errors", "estimated", "unpriced", *TOKENS, "cost_usd_e8"),
    *("latency_ms", "ttft_ms", "ttft_count", *LATENCY_FIELDS),
)
PREFIX: Final = "sum_"
"""Prefix of the sums in a query, where the plain names are columns."""
_UNITS_A_DOLLAR: Final = 10**8
_ANSWERED = Q(outcome=OK, latency_ms__isnull=False)


def _total(value: Any, **options: Any) -> Any:
    return Coalesce(Sum(value, output_field=BigIntegerField(), **options), 0)


def of_records() -> dict[str, Any]:
    """Aggregates over ledger rows that have ended."""
    cost = Cast(Round(F("cost_usd") * _UNITS_A_DOLLAR), BigIntegerField())
    sums: dict[str, Any] = {
        "requests": Count("pk"),
        "errors": Count("pk", filter=~Q(outcome__in=(OK, CANCELLED))),
        "estimated": Count("pk", filter=Q(state=UsageRecord.State.ESTIMATED)),
        "unpriced": Count("pk", filter=Q(cost_usd__isnull=True)),
        **{name: _total(name) for name in TOKENS},
        "cost_usd_e8": _total(cost),
        "latency_ms": _total("latency_ms", filter=_ANSWERED),
        "ttft_ms": _total("ttft_ms", filter=_ANSWERED),
        "ttft_count": Count("ttft_ms", filter=_ANSWERED),
    }
    lower = -1
    for name, upper in zip(LATENCY_FIELDS, (*LATENCY_BOUNDS_MS, None), strict=True):
        within = _ANSWERED & Q(latency_ms__gt=lower)
        sums[name] = Count("pk", filter=within if upper is None else within & Q(latency_ms__lte=upper))
        lower = upper if upper is not None else lower
    return {f"{PREFIX}{name}": sums[name] for name in NAMES}


def of_days(names: tuple[str, ...] = NAMES) -> dict[str, Aggregate]:
    """Aggregates over daily roll-ups. A group is never empty."""
    return {f"{PREFIX}{name}": _total(name) for name in names}


@dataclass(slots=True)
class Sums:
    """The totals of a group; the fields are named as in UsageSums."""

    values: dict[str, int]

    @classmethod
    def nothing(cls) -> Sums:
        return cls(dict.fromkeys(NAMES, 0))

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Sums:
        """From a row of ``of_records`` or ``of_days``; a sum that was not queried is 0."""
        return cls({name: int(row.get(f"{PREFIX}{name}") or 0) for name in NAMES})

    def add(self, other: Sums) -> None:
        for name, value in other.values.items():
            self.values[name] += value

    def __getattr__(self, name: str) -> int:
        if name not in NAMES:
            raise AttributeError(name)
        return self.values[name]

    @property
    def cost_usd(self) -> Decimal | None:
        """Of the requests whose cost is known; None if no cost is known."""
        if self.requests and self.unpriced == self.requests:
            return None
        return self.known_cost_usd

    @property
    def known_cost_usd(self) -> Decimal:
        return Decimal(self.values["cost_usd_e8"]).scaleb(-8)

    @property
    def answered(self) -> int:
        return sum(self.values[name] for name in LATENCY_FIELDS)

    @property
    def mean_latency_ms(self) -> float | None:
        return self.values["latency_ms"] / self.answered if self.answered else None

    @property
    def mean_ttft_ms(self) -> float | None:
        return self.values["ttft_ms"] / self.ttft_count if self.ttft_count else None

    @property
    def p50_ms(self) -> int | None:
        return self.quantile_ms(0.5)

    @property
    def p95_ms(self) -> int | None:
        return self.quantile_ms(0.95)

    def quantile_ms(self, share: float) -> int | None:
        """Estimates the latency quantile of answered requests, assuming an even spread within each class."""
        wanted = share * self.answered
        if not wanted:
            return None
        lower, before = 0, 0
        for name, upper in zip(LATENCY_FIELDS, LATENCY_BOUNDS_MS, strict=False):
            here = self.values[name]
            if before + here >= wanted:
                return round(lower + (upper - lower) * (wanted - before) / here)
            lower, before = upper, before + here
        return lower
