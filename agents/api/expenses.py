"""``/api/user/expenses``: what the caller kept of receipts."""

from __future__ import annotations

import datetime as dt
from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID

from django.http import HttpResponse
from django.shortcuts import get_object_or_404
from ninja import Query, Router, Schema
from pydantic import Field

from agents.api.shared import ACTING, READING, caller
from agents.expenses import exporting, services
from agents.expenses.listing import MAX_QUERY_CHARS, Total, Wanted, totals
from agents.expenses.models import Expense
from agents.expenses.services import DIFFERENCE, DUPLICATE
from agents.expenses.values import MAX_LINES, Category
from agents.views.answers import find_run
from llm_credentials.api.auth import ApiRequest
from llm_credentials.api.body import StrictSchema
from llm_credentials.api.errors import REFUSALS, ErrorOut
from llm_credentials.api.idempotency import IdempotencyKey, once
from llm_credentials.api.pages import PageIn, PageOut, page_of
from llm_credentials.api.preconditions import IfMatch, etag_of_version, held, seen
from llm_credentials.api.values import Described, Flag

router = Router()
FILES: Final[dict[str, Any]] = {
    "responses": {200: {"content": {"text/csv": {"schema": {"type": "string"}}, "application/json": {}}}}
}
Amount = Annotated[str, Field(max_length=40, description="As text, such as `12.50`; negative for a refund.")]
Month = Annotated[str, Described(pattern="^((19|20)[0-9]{2}-(0[1-9]|1[0-2]))?$")]
_CATEGORIES: Final[dict[str, Any]] = {"enum": list(Category.values)}


class LineIn(StrictSchema):
    description: str = Field("", max_length=300)
    quantity: Amount | None = None
    unit_price: Amount | None = None
    amount: Amount


class ExpenseFields(StrictSchema):
    """What is left out stays as it is, or as the run has read it."""

    vendor: str | None = Field(None, max_length=200)
    date: dt.date | None = None
    currency: str | None = Field(None, max_length=3, description="ISO 4217, such as `EUR`.")
    total: Amount | None = None
    category: str | None = Field(None, max_length=20, json_schema_extra=_CATEGORIES)
    tax: Amount | None = None
    tax_included: Flag | None = Field(None, description="Whether the amounts of the lines contain the tax.")
    note: str | None = Field(None, max_length=2000)
    lines: list[LineIn] | None = Field(None, max_length=MAX_LINES)
    accept_difference: Flag = Field(False, description="Keep sums that differ by more than a cent.")
    accept_duplicate: Flag = Field(False, description="Keep it beside one of the same vendor, day and total.")

    def given(self) -> dict[str, Any]:
        return self.dict(exclude_unset=True, exclude={"accept_difference", "accept_duplicate", "run"})

    def accepted(self) -> set[str]:
        return {name for name in (DIFFERENCE, DUPLICATE) if getattr(self, f"accept_{name}")}


class ExpenseIn(ExpenseFields):
    run: UUID | None = Field(None, description="A run of the agent `expense` whose receipt it is.")


class ReceiptLineOut(Schema):
    description: str
    quantity: str | None
    unit_price: str | None
    amount: str


class ExpenseOut(Schema):
    id: UUID
    vendor: str
    date: dt.date
    currency: str
    total: str = Field(description="Exact, with the decimals of its currency.")
    category: str
    tax: str | None
    tax_included: bool
    note: str
    lines: list[ReceiptLineOut]
    run: UUID | None
    attachment: UUID | None = Field(description="The receipt itself, of `/api/attachments`.")
    version: int
    created_at: datetime
    updated_at: datetime


class ExpenseList(PageOut):
    items: list[ExpenseOut]


class CategoryTotal(Schema):
    category: str
    total: str


class TotalOut(Schema):
    month: str
    currency: str
    count: int
    total: str
    categories: list[CategoryTotal]


class TotalList(Schema):
    items: list[TotalOut]
    count: int


class WantedIn(Schema):
    q: str = Field("", max_length=MAX_QUERY_CHARS, description="Words that stand in vendor, lines or note.")
    month: Month = Field("", max_length=7, description="Such as `2026-11`.")
    category: str = Field("", max_length=20, json_schema_extra={"enum": ["", *Category.values]})


class FileIn(WantedIn):
    format: exporting.Form = "csv"


def _out(expense: Expense) -> ExpenseOut:
    return ExpenseOut(**exporting.as_json(expense))


def _told(response: HttpResponse, expense: Expense) -> ExpenseOut:
    response["ETag"] = etag_of_version(_version(expense))
    return _out(expense)


def _version(expense: Expense) -> str:
    return f"{expense.pk}-{expense.version}"


def _find(request: ApiRequest, expense_id: UUID) -> Expense:
    return get_object_or_404(Expense.objects.for_user(caller(request)), pk=expense_id)


@router.get("", response={200: ExpenseList, **REFUSALS}, url_name="expense_list", auth=READING)
def expense_list(request: ApiRequest, where: Query[PageIn], which: Query[WantedIn]) -> dict[str, Any]:
    """The newest day first."""
    found = Wanted.of(which.dict()).of_user(caller(request)).prefetch_related("lines")
    return page_of(found, where, _out)


@router.get("/totals", response={200: TotalList, **REFUSALS}, url_name="expense_totals", auth=READING)
def expense_totals(request: ApiRequest, which: Query[WantedIn]) -> dict[str, Any]:
    """By month and currency, and within them by category."""
    items = [_total_out(each) for each in totals(Wanted.of(which.dict()).of_user(caller(request)))]
    return {"items": items, "count": len(items)}


def _total_out(total: Total) -> TotalOut:
    return TotalOut(
        month=total.month.isoformat()[:7],
        currency=total.currency,
        count=total.count,
        total=format(total.total, "f"),
        categories=[CategoryTotal(category=slug, total=format(part, "f")) for slug, part in total.categories],
    )


@router.get("/export", response={200: None, **REFUSALS}, url_name="expense_export", openapi_extra=FILES, auth=READING)
def expense_export(request: ApiRequest, which: Query[FileIn]) -> HttpResponse:
    """A file with all that match: CSV (one expense a line) or JSON (with the lines of each)."""
    return exporting.exported(Wanted.of(which.dict(exclude={"format"})).of_user(caller(request)), which.format)


@router.post("", response={201: ExpenseOut, **REFUSALS, 409: ErrorOut}, url_name="expense_create", auth=ACTING)
def expense_create(
    request: ApiRequest, payload: ExpenseIn, response: HttpResponse, idempotency_key: IdempotencyKey = None
) -> Any:
    """Keep what a run has read, with your corrections, or one of your own. Sums that differ, and an expense that is
    there already, are refused with 422 (`body.difference`, `body.duplicate`) until you accept them.
    """
    run = None if payload.run is None else find_run(caller(request), payload.run)

    def keep() -> tuple[int, ExpenseOut]:
        kept = services.expense_create(
            user=caller(request), run_id=run.pk if run else None, accept=payload.accepted(), **payload.given()
        )
        return 201, _told(response, kept)

    return once(request, idempotency_key, response, keep)


@router.get("/{uuid:expense_id}", response={200: ExpenseOut, **REFUSALS}, url_name="expense_get", auth=READING)
def expense_get(request: ApiRequest, expense_id: UUID, response: HttpResponse) -> ExpenseOut:
    """With an `ETag`, which a later change may send as `If-Match`."""
    return _told(response, _find(request, expense_id))


@router.patch(
    "/{uuid:expense_id}", response={200: ExpenseOut, **REFUSALS, 412: ErrorOut}, url_name="expense_change", auth=ACTING
)
def expense_change(
    request: ApiRequest, expense_id: UUID, payload: ExpenseFields, response: HttpResponse, if_match: IfMatch = None
) -> ExpenseOut:
    """Change the fields that are named; with the header `If-Match` only if it is still the one of its `ETag`."""
    expense = _find(request, expense_id)
    version = None if seen(if_match, _version(expense)) is None else expense.version
    with held(if_match):
        changed = services.expense_update(
            user=caller(request),
            expense_id=expense.pk,
            version=version,
            accept=payload.accepted(),
            **payload.given(),
        )
    return _told(response, changed)


@router.delete(
    "/{uuid:expense_id}", response={204: None, **REFUSALS, 412: ErrorOut}, url_name="expense_delete", auth=ACTING
)
def expense_delete(request: ApiRequest, expense_id: UUID, if_match: IfMatch = None) -> HttpResponse:
    """The run and the file that it came from stay; with `If-Match` only if it is still the one of its `ETag`."""
    expense = _find(request, expense_id)
    version = None if seen(if_match, _version(expense)) is None else expense.version
    with held(if_match):
        services.expense_delete(user=caller(request), expense_id=expense.pk, version=version)
    return HttpResponse(status=204)
