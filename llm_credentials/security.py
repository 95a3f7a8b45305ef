"""Data of the security page and API: sign-in methods, open sessions and recent events."""

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
"""Events that help a user to recognise somebody else's access."""
FACTORS: Final = (Authenticator.Type.TOTP, Authenticator.Type.WEBAUTHN)


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    factors: list[str]
    """``Authenticator.Type`` of each second factor."""
    sessions: list[UserSession]
    """Open sessions, newest first."""
    tokens: int
    """Number of usable access tokens."""
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
