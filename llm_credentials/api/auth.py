"""Who calls: a personal access token in the Authorization header, else the session of a browser."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias, cast
from uuid import UUID

from django.contrib.auth.base_user import AbstractBaseUser
from django.http import HttpRequest
from django.urls import reverse
from ninja.security import APIKeyCookie, HttpBearer
from ninja.security.session import SessionAuth

from llm_credentials import limits, services, stepup
from llm_credentials.api.errors import ApiError

if TYPE_CHECKING:
    from llm_credentials.models import PersonalAccessToken


class ApiRequest(HttpRequest):
    """A request past authentication."""

    user: AbstractBaseUser  # type: ignore[assignment]
    token: PersonalAccessToken | None
    """None for a session."""
    rate_usage: limits.Usage | None


Admit: TypeAlias = Callable[[ApiRequest], None]
"""Raises ApiError for a caller who may not do this."""


def _everybody(request: ApiRequest) -> None:
    return None


class TokenUser(HttpBearer):
    def __init__(self, admit: Admit = _everybody) -> None:
        super().__init__()
        self.admit = admit

    def __call__(self, request: HttpRequest) -> AbstractBaseUser | None:
        """The token's owner; None without the header. A header that is no valid token is refused, session or not."""
        header = request.headers.get("Authorization")
        if not header:
            return None
        scheme, _, secret = header.partition(" ")
        user = self.authenticate(request, secret.strip()) if scheme.lower() == "bearer" else None
        if user is None:
            raise ApiError(401, "not_authenticated", "This token is not valid.", headers={"WWW-Authenticate": "Bearer"})
        return user

    def authenticate(self, request: HttpRequest, token: str) -> AbstractBaseUser | None:
        row = services.token_authenticate(token)
        if row is None:
            return None
        caller = cast("ApiRequest", request)
        caller.token = row
        caller.user = row.user
        caller.rate_usage = limits.admit("api", row.user, token_id=row.pk)
        self.admit(caller)
        return row.user


class SessionUser(SessionAuth):
    """Stands behind ``TokenUser``, which refuses a bad token whatever session comes with it."""

    def __init__(self, admit: Admit = _everybody) -> None:
        super().__init__()
        self.admit = admit

    def __call__(self, request: HttpRequest) -> AbstractBaseUser | None:
        if not request.user.is_authenticated:
            # Nobody, thus 401; CSRF is a question only for those who have a session.
            return None
        return cast("AbstractBaseUser | None", APIKeyCookie.__call__(self, request))

    def authenticate(self, request: HttpRequest, key: str | None) -> AbstractBaseUser | None:
        user = request.user
        if not user.is_authenticated or not user.is_active:
            return None
        caller = cast("ApiRequest", request)
        caller.token = None
        caller.rate_usage = limits.admit("api", user)
        self.admit(caller)
        return user


def token_id_of(request: ApiRequest) -> UUID | None:
    """Of the token that asks; None for a session."""
    return request.token.pk if request.token is not None else None


def require_scope(request: ApiRequest, *scopes: str) -> None:
    """Raises 403 if the caller's token has none of the scopes; a session has all."""
    if request.token is not None and not any(request.token.allows(scope) for scope in scopes):
        wanted = " or ".join(f"«{scope}»" for scope in scopes)
        raise ApiError(403, "scope_missing", f"This token lacks the scope {wanted}.")


def only(*scopes: str, also: Admit = _everybody) -> list[TokenUser | SessionUser]:
    """``auth`` of an operation: who lacks all of these scopes is refused before anything is read of what was sent."""

    def admit(request: ApiRequest) -> None:
        require_scope(request, *scopes)
        also(request)

    return [TokenUser(admit), SessionUser(admit)]


def require_proof(request: ApiRequest) -> None:
    """Raises 401 for a session without a recent proof of who is there; a token was made behind one.

    ``where`` of the error is the page that asks for it.
    """
    if request.token is None and not stepup.is_recent(request):
        raise ApiError(
            401,
            "reauthentication_required",
            "Confirm that it is you on the page that «where» names, then send this again; or use a token.",
            reverse("llm_credentials:step-up"),
        )
