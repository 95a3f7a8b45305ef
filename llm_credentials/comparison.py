"""Compares every provider's models: the cost of a sample workload, speed and capabilities.

A sample is a number of requests of one size. It costs today's price of one such request times the number of requests.
Savings from a provider's prompt cache are left out, because they depend on usage and not on the model.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.utils import timezone
from django.utils.translation import gettext as _

from llm_credentials.ledger import prices
from llm_credentials.ledger.aggregates import Sums
from llm_credentials.ledger.prices import Price
from llm_credentials.ledger.reports import Report, Span, today
from llm_credentials.models import UserCredential
from llm_credentials.policies import policy_of
from llm_credentials.providers import ProviderSpec, Usage
from llm_credentials.providers.registry import specs
from llm_credentials.providers.spec import ModelFacts

SAMPLE_DAYS: Final = 30
SPEEDS: Final = ("very_fast", "fast", "medium")
CAPABILITIES: Final = ("vision", "tools", "json", "reasoning", "embeddings")
SORTS: Final = ("cost", "context", "speed", "measured", "provider")
LONG_CONTEXT: Final = 1_000_000
MEASURED_FROM: Final = 5
"""Minimum number of the user's own requests for a latency figure."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    requests: int
    input_tokens: int
    """Per request."""
    output_tokens: int
    own: bool = False


TYPICAL: Final = Sample(requests=300, input_tokens=2_000, output_tokens=500)
"""Ten questions with some text to read, every day for a month."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    spec: ProviderSpec
    facts: ModelFacts
    cost_usd: Decimal | None
    price_source: str
    measured_ms: int | None
    """Median latency of the user's own requests."""
    measured_count: int
    has_key: bool
    refusal: str = ""
    """Why the organisation forbids it; empty if it is allowed."""

    @property
    def id(self) -> str:
        return f"{self.spec.slug}:{self.facts.id}"

    @property
    def is_default(self) -> bool:
        return self.facts.id == self.spec.default_model

    @property
    def abilities(self) -> list[str]:
        return [name for name in CAPABILITIES if name in self.facts.capabilities]


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    task: str
    row: Row
    is_measured: bool = False


def sample_of(report_total: Sums) -> Sample:
    """The user's own usage, or a typical one if there is none."""
    answered = report_total.requests - report_total.errors
    if answered <= 0 or not report_total.input_tokens:
        return TYPICAL
    return Sample(
        requests=answered,
        input_tokens=max(1, round(report_total.input_tokens / answered)),
        output_tokens=max(1, round(report_total.output_tokens / answered)),
        own=True,
    )


def own_use(user_id: Any) -> dict[tuple[str, str], Sums]:
    """Usage of the last 30 days by (provider, model)."""
    last = today()
    groups = Report(Span(last - timedelta(days=SAMPLE_DAYS - 1), last), user_id).grouped("provider", "model")
    return {(provider, model): sums for (provider, model), sums in groups.items()}


def rows_for(user: AbstractBaseUser | AnonymousUser) -> tuple[list[Row], Sample]:
    """All models, costed by this user's usage, with what the organisation forbids; anonymous users get the typical
    sample.
    """
    if not user.is_authenticated:
        return rows_of(specs(), TYPICAL), TYPICAL
    used = own_use(user.pk)
    total = Sums.nothing()
    for sums in used.values():
        total.add(sums)
    sample, policy = sample_of(total), policy_of(user)
    rows = rows_of(
        specs(),
        sample,
        measured=used,
        with_key=set(UserCredential.objects.for_user(user).values_list("provider", flat=True)),
        refusal=lambda spec, model: policy.refusal_of_provider(spec) or policy.refusal_of_model(spec.slug, model),
    )
    return rows, sample


def rows_of(
    catalogue: Iterable[ProviderSpec],
    sample: Sample,
    *,
    measured: dict[tuple[str, str], Sums] | None = None,
    with_key: Collection[str] = (),
    refusal: Callable[[ProviderSpec, str], str | None] = lambda spec, model: None,
) -> list[Row]:
    """The current models of these providers, except providers that exist only for trials."""
    noon = timezone.now().replace(hour=12, minute=0, second=0, microsecond=0)
    found = []
    for spec in catalogue:
        if spec.site_address_setting:
            continue
        for facts in spec.models:
            if facts.retired:
                continue
            price = _price(spec, facts, sample, noon)
            own = (measured or {}).get((spec.slug, facts.id))
            found.append(
                Row(
                    spec=spec,
                    facts=facts,
                    cost_usd=price.usd,
                    price_source=price.source,
                    measured_ms=own.p50_ms if own else None,
                    measured_count=own.answered if own else 0,
                    has_key=spec.slug in with_key,
                    refusal=refusal(spec, facts.id) or "",
                )
            )
    return found


def _price(spec: ProviderSpec, facts: ModelFacts, sample: Sample, at: datetime) -> Price:
    output_tokens = sample.output_tokens if "chat" in facts.capabilities else 0
    one = prices.cost(spec, facts.id, Usage(input_tokens=sample.input_tokens, output_tokens=output_tokens), at)
    return Price(None if one.usd is None else one.usd * sample.requests, one.source)


# Filtering and sorting


def filtered(rows: Iterable[Row], abilities: Collection[str]) -> list[Row]:
    """Rows with all of these abilities; embedding models only when embeddings are asked for."""
    wanted = set(abilities) or {"chat"}
    return [row for row in rows if wanted <= row.facts.capabilities]


def in_order(rows: Iterable[Row], sort: str) -> list[Row]:
    """Unknown values last; ties by lowest cost."""
    return sorted(rows, key=lambda row: (*_place(row, sort), _dear(row), row.spec.label, row.facts.label))


def _place(row: Row, sort: str) -> tuple[Any, ...]:
    match sort:
        case "context":
            return (-(row.facts.context_window or 0),)
        case "speed":
            return (SPEEDS.index(row.facts.speed),)
        case "measured":
            return (row.measured_ms is None, row.measured_ms or 0)
        case "provider":
            return (row.spec.label.lower(),)
        case _:
            return ()


def _dear(row: Row) -> tuple[bool, Decimal]:
    return row.cost_usd is None, row.cost_usd or Decimal(0)


def advice(rows: Collection[Row]) -> list[Advice]:
    """The cheapest allowed model that suits each kind of task, among hosted models with a known price."""
    hosted = [row for row in rows if not row.refusal and not row.spec.self_hosted and row.cost_usd is not None]
    chats = [row for row in hosted if "chat" in row.facts.capabilities]
    fit: dict[str, list[Row]] = {
        _("Cheapest for everyday questions"): chats,
        _("Cheapest that can see images"): [row for row in hosted if "vision" in row.facts.capabilities],
        _("Cheapest with tools, for agents"): [
            row for row in hosted if row.is_default and {"tools", "reasoning"} <= row.facts.capabilities
        ],
        _("Cheapest for very long documents"): [
            row
            for row in hosted
            if (row.facts.context_window or 0) >= LONG_CONTEXT and "chat" in row.facts.capabilities
        ],
        _("Cheapest of the very fast"): [row for row in chats if row.facts.speed == "very_fast"],
        _("Free to begin with"): [row for row in chats if row.spec.free_tier],
        _("Cheapest for embeddings"): [row for row in hosted if "embeddings" in row.facts.capabilities],
    }
    found = [Advice(task=task, row=min(those, key=_dear)) for task, those in fit.items() if those]
    quickest = [row for row in rows if row.measured_count >= MEASURED_FROM and not row.refusal]
    if quickest:
        best = min(quickest, key=lambda row: row.measured_ms or 0)
        found.append(Advice(task=_("Quickest for you so far"), row=best, is_measured=True))
    return found


def as_of(rows: Iterable[Row]) -> date | None:
    """The date of the oldest fact shown."""
    return min((row.facts.as_of for row in rows if row.facts.as_of), default=None)
