"""``/api/user/key-order``, ``…/removed-credentials``, ``…/budget``: the caller's keys as a whole and their cost."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from django.urls import reverse
from ninja import Router, Schema
from pydantic import Field

from llm_credentials import removal, services
from llm_credentials.api.auth import ApiRequest, only
from llm_credentials.api.body import StrictSchema
from llm_credentials.api.credentials import default_of
from llm_credentials.api.errors import REFUSALS, ApiError, ErrorOut
from llm_credentials.api.schemas import CredentialOut, credential_out
from llm_credentials.api.values import Budget, Flag, Provider
from llm_credentials.ledger import budgets
from llm_credentials.models import LLMSettings, UserCredential

router = Router()
MAX_KEYS: Final = 500


class KeyRef(StrictSchema):
    provider: Provider
    name: str = Field("default", max_length=40)


class KeyOrderIn(StrictSchema):
    items: list[KeyRef] = Field(max_length=MAX_KEYS, description="First the one that is to answer first.")


class KeyOrderOut(Schema):
    items: list[KeyRef]
    count: int


def _order(request: ApiRequest) -> dict[str, Any]:
    rows = UserCredential.objects.for_user(request.user).in_order()
    items = [{"provider": row.provider, "name": row.name} for row in rows]
    return {"items": items, "count": len(items)}


@router.get("/key-order", response={200: KeyOrderOut, **REFUSALS}, url_name="key_order_get", auth=only("read"))
def key_order_get(request: ApiRequest) -> dict[str, Any]:
    """The order in which the caller's keys are asked, where nothing else is settled."""
    return _order(request)


@router.put(
    "/key-order",
    response={200: KeyOrderOut, **REFUSALS, 409: ErrorOut},
    url_name="key_order_set",
    auth=only("credentials"),
)
def key_order_set(request: ApiRequest, payload: KeyOrderIn) -> dict[str, Any]:
    """Let the keys answer in this order; those that are not named come after them as they stood."""
    ids = {(row.provider, row.name): row.pk for row in UserCredential.objects.for_user(request.user)}
    named = [(each.provider, each.name) for each in payload.items]
    if len(set(named)) < len(named):
        raise ApiError(409, "named_twice", "A key is named twice.", "body.items")
    if unknown := [number for number, key in enumerate(named) if key not in ids]:
        raise ApiError(404, "not_found", "You have no such key.", f"body.items.{unknown[0]}")
    services.chain_order(user=request.user, credentials=[ids[key] for key in named])
    return _order(request)


# Removed keys


class RemovedOut(Schema):
    id: UUID
    provider: str
    name: str
    last4: str
    removed_at: datetime
    seconds_left: int = Field(description="Until it is destroyed.")
    undo_url: str


class RemovedList(Schema):
    items: list[RemovedOut]
    count: int


@router.get("/removed-credentials", response={200: RemovedList, **REFUSALS}, url_name="removed_list", auth=only("read"))
def removed_list(request: ApiRequest) -> dict[str, Any]:
    """Keys that were removed a moment ago and can still be brought back."""
    removal.destroy_due(request.user)
    rows = UserCredential.with_removed.for_user(request.user).filter(removed_at__isnull=False).order_by("removed_at")
    items = [
        {name: getattr(row, name) for name in ("provider", "name", "last4", "removed_at")}
        | {"id": row.pk, "seconds_left": removal.seconds_left(row)}
        | {"undo_url": reverse("api:credential_undo", kwargs={"credential_id": row.pk})}
        for row in rows
    ]
    return {"items": items, "count": len(items)}


@router.post(
    "/removed-credentials/{uuid:credential_id}/undo",
    response={200: CredentialOut, **REFUSALS, 409: ErrorOut},
    url_name="credential_undo",
    auth=only("credentials"),
)
def credential_undo(request: ApiRequest, credential_id: UUID) -> dict[str, Any]:
    """Bring a removed key back as it was; twice is the same as once. It needs no proof: the removal had one."""
    try:
        row = removal.undo(user=request.user, credential_id=credential_id)
    except removal.UndoRefused as refused:
        raise ApiError(409, "undo_refused", str(refused)) from None
    return credential_out(row, default_of(request))


# The budget


class BudgetOut(Schema):
    monthly_budget_usd: Decimal | None = Field(description="For the caller's own keys; null: none.")
    stops: bool = Field(description="Whether calls end when it is used up; else the caller is only told.")
    spent_usd: Decimal = Field(description="This month, with what is reserved for calls under way.")
    percent: int | None = Field(description="Rounded down; null: no budget.")
    warns: bool = Field(description="80 % are used.")
    is_used_up: bool


class BudgetIn(StrictSchema):
    monthly_budget_usd: Budget | None = Field(description="Null: none.")
    stops: Flag = Field(True, description="Left out: calls end when it is used up.")


def _budget_out(settings: LLMSettings) -> dict[str, Any]:
    standing = budgets.standing(settings.user_id, settings.monthly_budget_usd)
    return {
        "monthly_budget_usd": settings.monthly_budget_usd,
        "stops": settings.budget_stops,
        "spent_usd": standing.spent_usd if standing else budgets.spent_usd("own", settings.user_id),
        "percent": standing.percent if standing else None,
        "warns": standing is not None and standing.warns,
        "is_used_up": standing is not None and standing.is_used_up,
    }


@router.get("/budget", response={200: BudgetOut, **REFUSALS}, url_name="budget_get", auth=only("read"))
def budget_get(request: ApiRequest) -> dict[str, Any]:
    """The monthly budget and how far it is used."""
    return _budget_out(LLMSettings.of(request.user))


@router.put("/budget", response={200: BudgetOut, **REFUSALS}, url_name="budget_set", auth=only("credentials"))
def budget_set(request: ApiRequest, payload: BudgetIn) -> dict[str, Any]:
    settings = services.settings_update(
        user=request.user, monthly_budget_usd=payload.monthly_budget_usd, budget_stops=payload.stops
    )
    return _budget_out(settings)
