"""Authenticates callers by personal access tokens of scope "gateway", in ``Authorization: Bearer`` or ``x-api-key``."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth.base_user import AbstractBaseUser

from llm_credentials.audit.denials import note_program
from llm_credentials.factory import RoutedClient, client_for
from llm_credentials.gateway.errors import Refused
from llm_credentials.gateway.http import Request
from llm_credentials.gateway.naming import Named
from llm_credentials.live import tokens
from llm_credentials.models import PersonalAccessToken

CLIENTS_MAX = 2000
VIEW = "gateway"
"""The gateway's name in the audit trail."""


@dataclass(frozen=True, slots=True)
class Caller:
    user: AbstractBaseUser
    token: PersonalAccessToken = field(repr=False)


async def authenticate(request: Request) -> Caller:
    """Raises Refused."""
    secret = _secret(request)
    token = tokens.look(secret)
    if token is None and secret:
        token = await sync_to_async(tokens.authenticate)(secret)
    if token is None:
        if secret:
            await sync_to_async(note_program)(ip=_ip(request), view=VIEW)
        message = "Send a valid Keyswitch token as «Authorization: Bearer …» or «x-api-key»."
        raise Refused(401, "invalid_token", message)
    if not token.allows(PersonalAccessToken.Scope.GATEWAY):
        await sync_to_async(note_program)(ip=_ip(request), view=VIEW, user_id=token.user_id)
        raise Refused(403, "scope_missing", "This token lacks the scope «gateway».")
    return Caller(user=token.user, token=token)


def client_of(caller: Caller, named: Named) -> RoutedClient:
    """A client on the user's keys, within what the token allows. No I/O. Raises Refused."""
    token, place = caller.token, (caller.token.id, named.task, named.provider, named.model)
    made = _made.get(place)
    if made is not None and made[0] is token and made[1] is caller.user:
        return made[2]
    if named.provider and not token.allows_provider(named.provider):
        raise Refused(403, "provider_not_allowed", "This token may not reach this provider.", param="model")
    client = client_for(caller.user, task=named.task, provider=named.provider, model=named.model, token=token)
    if len(_made) >= CLIENTS_MAX:
        _made.clear()
    _made[place] = token, caller.user, client
    return client


_made: dict[tuple[Any, ...], tuple[PersonalAccessToken, AbstractBaseUser, RoutedClient]] = {}
"""Valid for these very objects, which are replaced as soon as anything about them changes. The clients hold no keys."""


def _ip(request: Request) -> str:
    """The client's address as Django's views see it: behind trusted proxies, what the outermost one saw."""
    proxies = settings.ALLAUTH_TRUSTED_PROXY_COUNT
    if not proxies:
        return str((request.scope.get("client") or ("",))[0])
    forwarded = [part.strip() for part in request.header(b"x-forwarded-for").split(",")]
    return forwarded[-proxies] if len(forwarded) >= proxies else ""


def _secret(request: Request) -> str:
    """Empty if there is none, or if two headers disagree."""
    scheme, _, bearer = request.header(b"authorization").partition(" ")
    bearer = bearer.strip() if scheme.lower() == "bearer" else ""
    key = request.header(b"x-api-key").strip()
    if bearer and key and not hmac.compare_digest(bearer.encode(), key.encode()):
        return ""
    return bearer or key
