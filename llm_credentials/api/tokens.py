"""``/api/user/tokens``: the caller's own access tokens. A new one is in the answer that makes it, and never again."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.http import Http404, HttpResponse
from ninja import Router, Schema
from ninja.responses import Status
from pydantic import Field

from llm_credentials import services
from llm_credentials.api.auth import ApiRequest, only, require_proof
from llm_credentials.api.body import StrictSchema
from llm_credentials.api.errors import REFUSALS
from llm_credentials.api.values import Budget, Line, Moment, Provider, Scope
from llm_credentials.models import PersonalAccessToken
from llm_credentials.models.tokens import TOKEN_PREFIX

router = Router()
MAX_LISTED = 100


class TokenIn(StrictSchema):
    name: Line = ""
    scopes: list[Scope] = Field(
        min_length=1, max_length=MAX_LISTED, description="Of `read`, `credentials`, `agents`, `gateway`."
    )
    expires_at: Moment | None = Field(None, description="Left out: it does not expire.")
    budget_usd: Budget | None = Field(None, description="What calls with it may cost a month. Left out: no limit.")
    providers: list[Provider] = Field(
        [], max_length=MAX_LISTED, description="That calls with it may reach. Empty: all."
    )


class TokenOut(Schema):
    id: UUID
    name: str
    prefix: str = Field(description="How the token begins.")
    scopes: list[str]
    providers: list[str]
    budget_usd: Decimal | None
    expires_at: datetime | None
    is_usable: bool
    created_at: datetime
    last_used_at: datetime | None


class TokenMade(TokenOut):
    token: str = Field(description="Shown only now.")


class TokenList(Schema):
    items: list[TokenOut]
    count: int


def token_out(token: PersonalAccessToken) -> dict[str, Any]:
    names = [name for name in TokenOut.model_fields if name != "prefix"]
    return {name: getattr(token, name) for name in names} | {"prefix": TOKEN_PREFIX + token.prefix}


@router.get("", response={200: TokenList, **REFUSALS}, url_name="token_list", auth=only("read"))
def token_list(request: ApiRequest) -> dict[str, Any]:
    """Newest first, without those that were revoked."""
    items = [token_out(token) for token in PersonalAccessToken.objects.for_user(request.user).listed()]
    return {"items": items, "count": len(items)}


@router.post("", response={201: TokenMade, **REFUSALS}, url_name="token_create", auth=only("credentials"))
def token_create(request: ApiRequest, payload: TokenIn, response: HttpResponse) -> Any:
    """Make a token: with a session in which you confirmed lately that it is you, or a token of the scope `credentials`.

    A token made by a token gets no further than that one: in scopes, providers, budget and days. What is left out is
    taken from it.
    """
    require_proof(request)
    token, secret = services.token_create(user=request.user, **payload.dict(), parent=request.token)
    response["Cache-Control"] = "no-store"
    return Status(201, token_out(token) | {"token": secret})


@router.delete("/{uuid:token_id}", response={204: None, **REFUSALS}, url_name="token_revoke", auth=only("credentials"))
def token_revoke(request: ApiRequest, token_id: UUID) -> Any:
    """Revoke it, everywhere and for good. Twice is the same as once."""
    try:
        services.token_revoke(user=request.user, token_id=token_id)
    except PersonalAccessToken.DoesNotExist:
        raise Http404 from None
    return HttpResponse(status=204)
