"""Announces changes, and invalidates what was cached.

Every cache registers with ``remember``. It stores an entry only under ``lock``, and only if ``unchanged_since`` holds
for a mark taken before reading; so nothing that was read before a change is cached after it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import redis
import structlog
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

from llm_credentials import valkey
from llm_credentials.models import Change

log = structlog.get_logger(__name__)

CHANNEL = "keyswitch:live:changes"
KEPT_FOR = timedelta(minutes=15)
"""How long a logged change stays in the table: longer than a process trusts its log position without reading."""
REMEMBERED_MAX = 20_000
"""Users whose last change is tracked individually."""

lock = threading.RLock()
_count = 0
_last: dict[Any, int] = {}
_forgotten = 0
"""Changes up to this one are no longer tracked individually: they may concern any user."""


@dataclass(frozen=True, slots=True)
class Holder:
    forget: Callable[[Any], None]
    """Drop one user's entries (by primary key), or everything (None). Called under ``lock``: quick, no I/O."""
    is_holding: Callable[[], bool]
    look: Callable[[], None] | None = None
    """Called by the listener thread after each round; may query the database."""


holders: list[Holder] = []


def remember(holder: Holder) -> None:
    holders.append(holder)


def mark() -> int:
    """Take it before reading what is to be cached."""
    with lock:
        return _count


def unchanged_since(mark: int, user_id: Any = None) -> bool:
    """Whether neither this user nor the site has changed since; without a user: the site."""
    return max(_forgotten, _last.get(None, 0), _last.get(user_id, 0)) <= mark


# Announcing


def user_changed(user_id: Any, *, noted: bool = False) -> None:
    """Announce a change to this user's data. Call it inside the change's transaction, or after.

    ``noted``: triggers have logged it already, so the message to other processes only saves time.
    """
    _tell([user_id], noted=noted)


def site_changed(*, noted: bool = False) -> None:
    """The same for what concerns every user: the site's keys, policies, allowed addresses."""
    _tell([None], noted=noted)


def _tell(subjects: list[Any], *, noted: bool) -> None:
    if not noted:
        Change.objects.bulk_create([Change(subject=text_of(subject)) for subject in subjects])
    apply(subjects)
    # Again after the commit: reads in between still saw the old state.
    transaction.on_commit(partial(_committed, subjects), robust=True)


def _committed(subjects: list[Any]) -> None:
    apply(subjects)
    try:
        server = valkey.client(settings.REDIS_URL)
        for subject in subjects:
            server.publish(CHANNEL, text_of(subject))
    except (redis.RedisError, OSError) as error:
        log.warning("change_not_published", error=type(error).__name__)


def apply(subjects: Iterable[Any]) -> None:
    """Invalidate what this process caches for these users; None: for everybody."""
    global _count, _forgotten
    with lock:
        for subject in subjects:
            _count += 1
            _last[subject] = _count
            for holder in holders:
                holder.forget(subject)
        if len(_last) > REMEMBERED_MAX:
            _last.clear()
            _forgotten = _count


def prune() -> int:
    """Delete changes that every process has seen; returns how many."""
    return Change.objects.filter(at__lt=timezone.now() - KEPT_FOR).delete()[0]


def text_of(subject: Any) -> str:
    return "" if subject is None else str(subject)


def subject_of(text: str) -> Any:
    """The inverse of ``text_of``; invalid text means everybody."""
    if not text:
        return None
    try:
        return get_user_model()._meta.pk.to_python(text)
    except ValidationError:
        return None
