"""``/api/user/security`` and ``/api/user/account``: what opens the account, and how to leave."""

from __future__ import annotations

from datetime import datetime
from typing import Any, cast
from uuid import UUID

from django.contrib.auth import logout
from django.contrib.auth.models import User
from django.http import HttpResponse, JsonResponse
from ninja import Query, Router, Schema
from pydantic import Field

from llm_credentials import leaving, security
from llm_credentials.api.audit import AuditEventOut
from llm_credentials.api.auth import ApiRequest, only, require_proof
from llm_credentials.api.errors import REFUSALS, ApiError
from llm_credentials.models import PersonalAccessToken

router = Router()
ALL_SCOPES = PersonalAccessToken.Scope.values


class SessionOut(Schema):
    id: int
    ip: str
    user_agent: str
    created_at: datetime
    last_seen_at: datetime
    is_this: bool = Field(description="The session that asks.")


class SecurityOut(Schema):
    has_password: bool
    second_factors: list[str] = Field(description="`totp`, `webauthn`.")
    sessions: list[SessionOut] = Field(description="Where the account is open, newest first.")
    tokens: int = Field(description="Access tokens that are usable.")
    events: list[AuditEventOut] = Field(description="The latest that would tell whether somebody else was there.")


class AccountOut(Schema):
    id: UUID | int
    username: str
    email: str
    is_staff: bool
    date_joined: datetime
    last_login: datetime | None
    scopes: list[str] | None = Field(description="Of the token that asks; null: a session, which may do all.")


class LeaveIn(Schema):
    confirm: str = Field("", max_length=150, description="The user name, as a confirmation.")


@router.get("/account", response={200: AccountOut, **REFUSALS}, url_name="account_get", auth=only(*ALL_SCOPES))
def account_get(request: ApiRequest) -> dict[str, Any]:
    """Who asks, and what the token may do; for a token of any scope."""
    user = _user(request)
    plain = {name: getattr(user, name) for name in AccountOut.model_fields if name != "scopes"}
    return plain | {"scopes": request.token.scopes if request.token is not None else None}


@router.get("/security", response={200: SecurityOut, **REFUSALS}, url_name="security_get", auth=only("read"))
def security_get(request: ApiRequest) -> dict[str, Any]:
    user = _user(request)
    found = security.standing(user)
    this = None if request.token is not None else request.session.session_key
    sessions = [
        {name: getattr(row, name) for name in SessionOut.model_fields if name != "is_this"}
        | {"is_this": row.session_key == this}
        for row in found.sessions
    ]
    return {
        "has_password": user.has_usable_password(),
        "second_factors": found.factors,
        "sessions": sessions,
        "tokens": found.tokens,
        "events": found.events,
    }


@router.post(
    "/account/export", response={200: dict[str, Any], **REFUSALS}, url_name="account_export", auth=only("credentials")
)
def account_export(request: ApiRequest) -> Any:
    """Everything that this site holds of the caller, never a key; they are told by mail."""
    require_proof(request)
    return JsonResponse(leaving.account_export(user=_user(request)), headers={"Cache-Control": "no-store"})


@router.delete("/account", response={204: None, **REFUSALS}, url_name="account_delete")
def account_delete(request: ApiRequest, where: Query[LeaveIn]) -> Any:
    """Delete the account with every key, token, conversation and run. In a browser's session only, after a proof."""
    if request.token is not None:
        raise ApiError(403, "session_needed", "A token deletes no account: log in and do it in the browser's session.")
    require_proof(request)
    user = _user(request)
    if where.confirm.strip() != user.get_username():
        raise ApiError(403, "not_confirmed", "Send the user name as «confirm» to delete the account.", "query.confirm")
    logout(request)
    leaving.account_delete(user=user)
    return HttpResponse(status=204)


def _user(request: ApiRequest) -> User:
    return cast("User", request.user)
