"""``/api/usage``: what the caller used, in groups, as JSON or as CSV."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Final, Literal

from django.http import HttpResponse, HttpResponseBase
from ninja import Query, Router, Schema
from pydantic import Field, StringConstraints

from llm_credentials.api.auth import ApiRequest, only
from llm_credentials.api.errors import REFUSALS, ApiError
from llm_credentials.api.pages import MAX_PAGE, PageOut
from llm_credentials.api.values import Described, PastDay
from llm_credentials.ledger import exports, periods
from llm_credentials.ledger.aggregates import Sums
from llm_credentials.ledger.labels import Labels
from llm_credentials.ledger.reports import Report, Span

router = Router()
DIMENSIONS: Final = {
    "day": ("day",),
    "provider": ("provider",),
    "model": ("model",),
    "task": ("task",),
    "key": ("credential_id", "key_owner"),
    "key_owner": ("key_owner",),
}
CSV: Final = "text/csv"


class UsageFigures(Schema):
    requests: int = Field(description="Attempts that have ended; those under way are not counted.")
    errors: int
    estimated: int = Field(description="Of the requests: those whose numbers are an estimate.")
    unpriced: int = Field(description="Of the requests: those whose cost is unknown; they add nothing to it.")
    input_tokens: int = Field(description="Every prompt token, cached ones included.")
    output_tokens: int = Field(description="Every generated token, reasoning included.")
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    cost_usd: str | None = Field(description="Exact. Null: known of none of the requests.")
    mean_latency_ms: int | None
    p50_latency_ms: int | None = Field(description="About: latencies are counted in classes.")
    p95_latency_ms: int | None
    mean_ttft_ms: int | None = Field(description="Until the first content of streams.")


class UsageGroup(UsageFigures):
    day: date | None = None
    provider: str | None = None
    model: str | None = None
    task: str | None = None
    key: str | None = Field(None, description="The key by its name.")
    credential_id: str | None = None
    key_owner: str | None = Field(None, description="`user` or `system`: who paid.")


class UsageList(PageOut):
    items: list[UsageGroup] = Field(description="Only the fields of the asked-for groups are set.")
    total: UsageFigures
    first: date = Field(alias="from", description="Days are in UTC.")
    last: date = Field(alias="to")
    group_by: list[str]


Text = Annotated[str, StringConstraints(max_length=200)]


_GROUP = f"({'|'.join(DIMENSIONS)})"
Groups = Annotated[Text, Described(pattern=f"^({_GROUP}(,{_GROUP}){{0,11}})?$")]


class UsageIn(Schema):
    group_by: Groups = Field("day", description=f"Separated by commas: {', '.join(DIMENSIONS)}. Empty: only the total.")
    first: PastDay | None = Field(
        None, alias="from", description="A day, such as 2026-01-31. Default: this month's first."
    )
    last: PastDay | None = Field(None, alias="to", description="A day, included. Default: today. Three years at most.")
    page: int = Field(1, ge=1, le=MAX_PAGE)
    page_size: int = Field(100, ge=1, le=1000)
    format: Literal["json", "csv"] | None = Field(None, description="Or ask by `Accept: text/csv`.")


_AS_CSV: Final = {"responses": {200: {"content": {CSV: {"schema": {"type": "string"}}}}}}


@router.get(
    "",
    response={200: UsageList, **REFUSALS},
    url_name="usage_list",
    auth=only("read"),
    by_alias=True,
    openapi_extra=_AS_CSV,
)
def usage_list(request: ApiRequest, where: Query[UsageIn]) -> Any:
    """Attempts of the caller in sums; the days before today from their roll-ups, exactly. A CSV holds all groups."""
    names = _names(",".join(request.GET.getlist("group_by") or [where.group_by]))
    report = Report(_span(where), request.user.pk)
    dimensions = tuple(dict.fromkeys(column for name in names for column in DIMENSIONS[name]))
    found = report.grouped(*dimensions) if dimensions else {}
    labels = Labels.for_user(request.user)
    in_order = sorted(found.items(), key=lambda one: tuple(str(value) for value in one[0]))
    groups = [(dict(zip(dimensions, key, strict=True)), sums) for key, sums in in_order]
    if where.format == "csv" or (where.format is None and _wants_csv(request)):
        return _csv(groups, names, labels, report)
    total = Sums.nothing()
    for _key, sums in groups if dimensions else [({}, report.total())]:
        total.add(sums)
    begin = (where.page - 1) * where.page_size
    return {
        "items": [_group(key, sums, names, labels) for key, sums in groups[begin : begin + where.page_size]],
        "total": exports.figures_of(total),
        "count": len(groups),
        "page": where.page,
        "page_size": where.page_size,
        "from": report.span.first,
        "to": report.span.last,
        "group_by": names,
    }


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not set(names) <= set(DIMENSIONS):
        raise ApiError(422, "invalid_value", f"Group by any of: {', '.join(DIMENSIONS)}.", "query.group_by")
    return list(dict.fromkeys(names))


def _span(where: UsageIn) -> Span:
    try:
        first, last = (periods.day_of(text) if text is not None else None for text in (where.first, where.last))
        if first is not None and last is not None and last < first:
            first, last = last, first
        return periods.span_of(first, last)
    except ValueError as error:
        raise ApiError(422, "invalid_value", str(error), "query.from") from None


def _wants_csv(request: ApiRequest) -> bool:
    return request.get_preferred_type(["application/json", CSV]) == CSV


def _group(key: dict[str, Any], sums: Sums, names: list[str], labels: Labels) -> dict[str, Any]:
    found = exports.key_of(key, labels) | exports.figures_of(sums)
    if "key" in names:
        found["credential_id"] = str(key["credential_id"]) if key["credential_id"] else None
    return found


def _csv(groups: Any, names: list[str], labels: Labels, report: Report) -> HttpResponseBase:
    columns = [*(column for column in exports.COLUMNS[:6] if column in names), *exports.COLUMNS[6:]]
    lines = [exports.csv_line(columns)]
    for key, sums in groups:
        values = exports.key_of(key, labels) | exports.figures_of(sums)
        lines.append(exports.csv_line(values[column] for column in columns))
    name = f"usage-{report.span.first}-{report.span.last}.csv"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return HttpResponse(b"".join(lines), content_type=f"{CSV}; charset=utf-8", headers=headers)
