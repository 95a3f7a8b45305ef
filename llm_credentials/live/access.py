"""Decides which running work may continue, with a few queries for all of it at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, TypeAlias
from uuid import UUID

from django.conf import settings
from django.contrib.auth import HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.utils.crypto import constant_time_compare

from llm_credentials.models import PersonalAccessToken, SystemCredential, UserCredential
from llm_credentials.wall import open_for

Reason: TypeAlias = Literal["user", "session", "token", "key"]

WORDS: Mapping[Reason, str] = {
    "user": "The account was deactivated or deleted; nothing more is asked for it.",
    "session": "You were signed out, so this was ended. Sign in to go on.",
    "token": "The access token was revoked or has expired, so this was ended.",
    "key": "The key was removed or turned off, so this was ended; nothing more is sent with it.",
}


@dataclass(frozen=True, slots=True)
class Right:
    """What running work depends on. An empty field: no such dependency."""

    user_id: Any
    key: tuple[Literal["user", "system"], UUID] | None = None
    token_id: UUID | None = None
    session_key: str | None = None


@open_for("what may go on of all that is under way")
def lost(rights: Collection[Right]) -> dict[Right, Reason]:
    """The rights that no longer hold, and why. Replacing a key does not revoke it. Synchronous; a few queries."""
    users = get_user_model()._default_manager.filter(is_active=True).in_bulk({right.user_id for right in rights})
    token_ids = {right.token_id for right in rights if right.token_id is not None}
    usable = PersonalAccessToken.objects.usable().filter(pk__in=token_ids)
    tokens = set(usable.values_list("pk", flat=True)) if token_ids else set()
    keys = _active_keys({right.key for right in rights if right.key is not None})
    sessions = _sessions({right.session_key for right in rights if right.session_key is not None})

    def why(right: Right) -> Reason | None:
        user = users.get(right.user_id)
        if user is None:
            return "user"
        if right.session_key is not None and not _is_of(sessions.get(right.session_key, {}), user):
            return "session"
        if right.token_id is not None and right.token_id not in tokens:
            return "token"
        return "key" if right.key is not None and right.key not in keys else None

    return {right: reason for right in rights if (reason := why(right)) is not None}


def may_see(user_id: Any, session_key: str | None) -> bool:
    """Whether this user is active and, if there is a session, still signed in with it."""
    return not lost([Right(user_id, session_key=session_key)])


def _active_keys(keys: Collection[tuple[str, UUID]]) -> set[tuple[str, UUID]]:
    found: set[tuple[str, UUID]] = set()
    own = {pk for owner, pk in keys if owner == "user"}
    system = {pk for owner, pk in keys if owner == "system"}
    if own:
        rows = UserCredential.objects.active().filter(pk__in=own)
        found |= {("user", pk) for pk in rows.values_list("pk", flat=True)}
    if system:
        site_rows = SystemCredential.objects.active().filter(pk__in=system)
        found |= {("system", pk) for pk in site_rows.values_list("pk", flat=True)}
    return found


def _sessions(session_keys: Collection[str]) -> dict[str, Mapping[str, Any]]:
    """The session data: in one query if sessions are stored in the database, else one by one."""
    if not session_keys:
        return {}
    store: Any = import_module(settings.SESSION_ENGINE).SessionStore
    if settings.SESSION_ENGINE != "django.contrib.sessions.backends.db":
        return {key: store(key).load() for key in session_keys}
    from django.contrib.sessions.models import Session
    from django.utils import timezone

    rows = Session.objects.filter(pk__in=session_keys, expire_date__gt=timezone.now())
    return {row.pk: row.get_decoded() for row in rows}


def _is_of(session: Mapping[str, Any], user: Any) -> bool:
    if session.get(SESSION_KEY) != str(user.pk):
        return False
    given = session.get(HASH_SESSION_KEY, "")
    expected = [user.get_session_auth_hash(), *user.get_session_auth_fallback_hash()]
    return any(constant_time_compare(given, one) for one in expected)
