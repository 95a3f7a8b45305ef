"""Who calls: a personal access token of scope "gateway", as ``Authorization: Bearer`` or ``x-api-key``."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

from asgiref.sync import sync_to_async
from django.contrib.auth.base_user import AbstractBaseUser

from llm_credentials import services
from llm_credentials.gateway.errors import Refused
from llm_credentials.gateway.http import Request
from llm_credentials.models import PersonalAccessToken


@dataclass(frozen=True, slots=True)
class Caller:
    user: AbstractBaseUser
    token: PersonalAccessToken = field(repr=False)


async def authenticate(request: Request) -> Caller:
    """Raises Refused."""
    secret = _secret(request)
    token = await sync_to_async(services.token_authenticate)(secret) if secret else None
    if token is None:
        message = "Send a valid Keyswitch token as «Authorization: Bearer …» or «x-api-key»."
        raise Refused(401, "invalid_token", message)
    if not token.allows(PersonalAccessToken.Scope.GATEWAY):
        raise Refused(403, "scope_missing", "This token lacks the scope «gateway».")
    return Caller(user=token.user, token=token)


def _secret(request: Request) -> str:
    """Empty when there is none, or when two headers name two."""
    scheme, _, bearer = request.header(b"authorization").partition(" ")
    bearer = bearer.strip() if scheme.lower() == "bearer" else ""
    key = request.header(b"x-api-key").strip()
    if bearer and key and not hmac.compare_digest(bearer.encode(), key.encode()):
        return ""
    return bearer or key
