"""Compares providers and their models, for everybody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from llm_credentials import comparison
from llm_credentials.comparison import CAPABILITIES, SORTS, Row

ABILITY_LABELS: Final = {
    "vision": gettext_noop("sees images"),
    "tools": gettext_noop("uses tools"),
    "json": gettext_noop("answers in JSON"),
    "reasoning": gettext_noop("thinks first"),
    "embeddings": gettext_noop("embeds texts"),
}
SHOWN: Final = 20
SPEED_LABELS: Final = {
    "very_fast": gettext_noop("very fast"),
    "fast": gettext_noop("fast"),
    "medium": gettext_noop("medium"),
}


@require_GET
@never_cache
def provider_compare(request: HttpRequest) -> HttpResponse:
    """``can`` (repeatable): required abilities; ``sort``: the order; ``all``: show all rows."""
    wanted = [name for name in CAPABILITIES if name in request.GET.getlist("can")]
    sort = request.GET.get("sort", "")
    sort = sort if sort in SORTS else "cost"
    every, sample = comparison.rows_for(request.user)
    shown = comparison.in_order(comparison.filtered(every, wanted), sort)
    few = shown if "all" in request.GET else shown[:SHOWN]
    context = {
        "sample": sample,
        "count": len(shown),
        "rows": [_told(row) for row in few],
        "hidden": len(shown) - len(few),
        "all_query": _query(wanted, sort) + "&all=1",
        "advice": comparison.advice(every),
        "filters": [_filter(name, wanted, sort) for name in CAPABILITIES],
        "sorts": {name: {"query": _query(wanted, name), "current": name == sort} for name in SORTS},
        "providers": _providers(every),
        "price_sources": sorted({row.price_source for row in shown if row.price_source and not row.spec.self_hosted}),
        "today": timezone.now().date(),
        "as_of": comparison.as_of(shown),
        "measures": any(row.measured_ms is not None for row in every),
    }
    return render(request, "llm_credentials/provider_compare.html", context)


def _told(row: Row) -> dict[str, Any]:
    return {
        "row": row,
        "abilities": [_(ABILITY_LABELS[name]) for name in row.abilities],
        "speed": _(SPEED_LABELS[row.facts.speed]),
        "context": tokens_words(row.facts.context_window),
    }


def tokens_words(count: int | None) -> str:
    """1 M, 262 K: the usual notation for context windows."""
    if count is None:
        return ""
    return f"{count / 1_000_000:.3g} M" if count >= 1_000_000 else f"{count // 1000} K"


def _filter(name: str, wanted: Sequence[str], sort: str) -> dict[str, Any]:
    rest = [each for each in wanted if each != name]
    on = name in wanted
    return {"label": _(ABILITY_LABELS[name]), "on": on, "query": _query(rest if on else [*wanted, name], sort)}


def _query(wanted: Sequence[str], sort: str) -> str:
    return urlencode([*(("can", name) for name in wanted), ("sort", sort)])


def _providers(rows: list[Row]) -> list[dict[str, Any]]:
    """Each provider once, with its own price range in words."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        found.setdefault(row.spec.slug, {"spec": row.spec, "has_key": row.has_key, "count": 0})["count"] += 1
    return list(found.values())
