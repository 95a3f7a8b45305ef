"""``/api/providers/comparison``: every model beside the others, by what it would cost the caller."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any, Literal

from ninja import Query, Router, Schema
from pydantic import Field

from llm_credentials import comparison
from llm_credentials.api.auth import ApiRequest, only
from llm_credentials.api.errors import REFUSALS
from llm_credentials.comparison import Row

router = Router()
Capability = Literal["vision", "tools", "json", "reasoning", "embeddings"]


class CompareIn(Schema):
    can: list[Capability] = Field([], max_length=10, description="What a model must be able to do, all of it.")
    sort: Literal["cost", "context", "speed", "measured", "provider"] = "cost"


class SampleOut(Schema):
    requests: int
    input_tokens: int = Field(description="Of one request.")
    output_tokens: int
    own: bool = Field(description="True: the caller's own last 30 days; false: a typical use.")


class ComparedOut(Schema):
    provider: str
    model: str
    label: str
    cost_usd: Decimal | None = Field(description="Of the sample; null: unknown.")
    price_source: str
    context_window: int | None
    speed: str
    measured_ms: int | None = Field(description="Half of the caller's own requests took no longer.")
    measured_count: int
    capabilities: list[str]
    is_default: bool
    free_tier: bool
    self_hosted: bool
    best_for: str
    has_key: bool
    refusal: str = Field(description="Why the organisation does not allow it; empty if it does.")


class AdviceOut(Schema):
    task: str
    provider: str
    model: str
    cost_usd: Decimal | None
    is_measured: bool


class Comparison(Schema):
    sample: SampleOut
    items: list[ComparedOut]
    count: int
    advice: list[AdviceOut]
    as_of: date | None = Field(description="The day of the oldest fact.")


@router.get("/comparison", response={200: Comparison, **REFUSALS}, url_name="provider_compare", auth=only("read"))
def provider_compare(request: ApiRequest, where: Query[CompareIn]) -> dict[str, Any]:
    """What the caller's last 30 days would cost with each model, what it can, and what to take for which task."""
    every, sample = comparison.rows_for(request.user)
    shown = comparison.in_order(comparison.filtered(every, where.can), where.sort)
    return {
        "sample": {name: getattr(sample, name) for name in SampleOut.model_fields},
        "items": [_compared(row) for row in shown],
        "count": len(shown),
        "advice": [
            {
                "task": each.task,
                "provider": each.row.spec.slug,
                "model": each.row.facts.id,
                "cost_usd": each.row.cost_usd,
                "is_measured": each.is_measured,
            }
            for each in comparison.advice(every)
        ],
        "as_of": comparison.as_of(shown),
    }


def _compared(row: Row) -> dict[str, Any]:
    own = ("cost_usd", "price_source", "measured_ms", "measured_count", "is_default", "has_key", "refusal")
    spec = {name: getattr(row.spec, name) for name in ("free_tier", "self_hosted", "best_for")}
    facts = {name: getattr(row.facts, name) for name in ("label", "context_window", "speed")}
    return {
        **{name: getattr(row, name) for name in own},
        **spec,
        **facts,
        "provider": row.spec.slug,
        "model": row.facts.id,
        "capabilities": row.abilities,
    }
