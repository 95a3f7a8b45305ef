"""A cache of access tokens, so that a call does not query the database for its token.

``find`` does no I/O and suits event loops; ``authenticate`` may query. Both refuse a token within a second after it was
revoked or its user was deactivated, in any process, and from the moment it expires.
"""

from __future__ import annotations

import hmac
import re
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Any, TypeVar

from django.db import connection, models
from django.db.models import Q
from django.db.models.base import ModelState
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from llm_credentials.live import changes, listener
from llm_credentials.live.changes import Holder
from llm_credentials.models import PersonalAccessToken
from llm_credentials.models.tokens import TOKEN_PREFIX
from llm_credentials.wall import open_for

KEPT_S = 60.0
TOKENS_MAX = 10_000
MARKED_EVERY_S = 60.0
"""How often a token's use is recorded, so that a busy token does not write at every call."""
PREFIX_LENGTH = 8
_TOKEN = re.compile(TOKEN_PREFIX + r"[A-Za-z0-9_-]{43}")

Row = TypeVar("Row", bound=models.Model)


@dataclass(frozen=True, slots=True)
class _Kept:
    token: PersonalAccessToken
    """With its user. Only readers get this object; others get a copy, to whose user they may attach request data."""
    read_at: float
    until: float
    expires_at: float
    """Seconds since the epoch."""


_kept: OrderedDict[str, _Kept] = OrderedDict()
"""By token hash."""
_hashes: dict[Any, set[str]] = {}
"""By the user's primary key."""


@sensitive_variables()
def find(secret: str) -> PersonalAccessToken | None:
    """The token with its user if the cache has a usable one; None also if only the database can tell."""
    known = look(secret)
    if known is None:
        return None
    token = _copy(known)
    token.user = _copy(known.user)
    return token


@sensitive_variables()
def look(secret: str) -> PersonalAccessToken | None:
    """The same object for every caller, for reading only: attach nothing to it."""
    if not _TOKEN.fullmatch(secret):
        return None
    kept = _kept.get(token_hash(secret.removeprefix(TOKEN_PREFIX)))
    if kept is None or time.monotonic() >= kept.until or not listener.is_sure(kept.read_at):
        return None
    return None if time.time() >= kept.expires_at else kept.token


@sensitive_variables()
def authenticate(secret: str) -> PersonalAccessToken | None:
    """The usable token with its user, or None. Records its use once a minute."""
    if not _TOKEN.fullmatch(secret):
        return None
    if connection.in_atomic_block:
        return _ask(secret)
    if (found := find(secret)) is not None:
        return found
    if KEPT_S > 0:
        listener.ensure()
    mark, now = changes.mark(), time.monotonic()
    token = _ask(secret)
    if token is None or KEPT_S <= 0:
        return token
    with changes.lock:
        if changes.unchanged_since(mark, token.user_id):
            _keep(token, now)
    token = _copy(token)
    token.user = _copy(token.user)
    return token


def _keep(token: PersonalAccessToken, now: float) -> None:
    expires_at = token.expires_at.timestamp() if token.expires_at else float("inf")
    last_used_at = token.last_used_at
    used_ago_s = (timezone.now() - last_used_at).total_seconds() if last_used_at else MARKED_EVERY_S
    # Expires when the next use is due to be recorded.
    until = now + min(KEPT_S, MARKED_EVERY_S - used_ago_s)
    _kept[token.hash] = _Kept(token, now, until, expires_at)
    _kept.move_to_end(token.hash)
    _hashes.setdefault(token.user_id, set()).add(token.hash)
    while len(_kept) > TOKENS_MAX:
        _drop(next(iter(_kept)))


def _drop(hashed: str) -> None:
    kept = _kept.pop(hashed)
    of_user = _hashes[kept.token.user_id]
    of_user.discard(hashed)
    if not of_user:
        del _hashes[kept.token.user_id]


@sensitive_variables()
def _ask(secret: str) -> PersonalAccessToken | None:
    with open_for("who calls with this token"):
        return _found(secret.removeprefix(TOKEN_PREFIX))


@sensitive_variables()
def _found(random_part: str) -> PersonalAccessToken | None:
    wanted = token_hash(random_part)
    candidates = PersonalAccessToken.objects.usable().filter(prefix=random_part[:PREFIX_LENGTH])
    for token in candidates.select_related("user"):
        if hmac.compare_digest(token.hash, wanted):
            _mark_used(token)
            return token
    return None


def _mark_used(token: PersonalAccessToken) -> None:
    now = timezone.now()
    due = now - timedelta(seconds=MARKED_EVERY_S)
    if token.last_used_at is not None and token.last_used_at > due:
        return
    stale = Q(last_used_at__isnull=True) | Q(last_used_at__lte=due)
    PersonalAccessToken.objects.filter(stale, pk=token.pk).update(last_used_at=now)
    token.last_used_at = now


@sensitive_variables()
def token_hash(random_part: str) -> str:
    return sha256(random_part.encode()).hexdigest()


def _copy(row: Row) -> Row:
    """The same row as a separate object, as it was read: without its relations."""
    fresh = row.__class__.__new__(row.__class__)
    fresh.__dict__.update(row.__dict__)
    fresh._state = ModelState()
    fresh._state.adding, fresh._state.db = False, row._state.db
    return fresh


def forget(user_id: Any = None) -> None:
    """Drop one user's tokens, or everything."""
    with changes.lock:
        if user_id is None:
            _kept.clear()
            _hashes.clear()
        else:
            for hashed in list(_hashes.get(user_id, ())):
                _drop(hashed)


def _is_holding() -> bool:
    now = time.monotonic()
    with changes.lock:
        for hashed in [hashed for hashed, kept in _kept.items() if now >= kept.until]:
            _drop(hashed)
    return bool(_kept)


changes.remember(Holder(forget=forget, is_holding=_is_holding))
