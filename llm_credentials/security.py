"""The security page and API: what can open the account, where it is signed in, and what happened lately."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from allauth.mfa.models import Authenticator
from allauth.usersessions.models import UserSession
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.utils import timezone

from llm_credentials.audit import Action
from llm_credentials.audit.history import Seen, seen_by
from llm_credentials.models import AuditEvent, PersonalAccessToken

EVENTS_LATELY: Final = 6
SHOWN_LATELY: Final = (
    *(Action.LOGIN, Action.LOGIN_FAILED, Action.PASSWORD_CHANGE, Action.FACTOR_ADD, Action.FACTOR_REMOVE),
    *(Action.CREDENTIAL_CREATE, Action.CREDENTIAL_REPLACE, Action.CREDENTIAL_DELETE, Action.CREDENTIAL_RESTORE),
    *(Action.TOKEN_CREATE, Action.TOKEN_REVOKE, Action.ACCOUNT_EXPORT, Action.ACCESS_DENIED),
)
"""What somebody who wonders whether it was they would look for."""
FACTORS: Final = (Authenticator.Type.TOTP, Authenticator.Type.WEBAUTHN)


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    factors: list[str]
    """``Authenticator.Type``: of the second factors that are set up."""
    sessions: list[UserSession]
    """Where the account is open now, newest first."""
    tokens: int
    """That are usable."""
    events: list[Seen]


def standing(user: User) -> Standing:
    """Four queries."""
    alive = Session.objects.filter(expire_date__gt=timezone.now()).values("session_key")
    found = set(Authenticator.objects.filter(user=user).values_list("type", flat=True))
    events = AuditEvent.objects.for_user(user).filter(action__in=SHOWN_LATELY).recent_first()
    return Standing(
        factors=[kind.value for kind in FACTORS if kind in found],
        sessions=list(UserSession.objects.filter(user=user, session_key__in=alive).order_by("-created_at")),
        tokens=PersonalAccessToken.objects.for_user(user).usable().count(),
        events=[seen_by(user, event) for event in events[:EVENTS_LATELY]],
    )
