"""Telling that something changed, and letting go of what was remembered of it.

Whoever remembers something registers with ``remember``. It stores only under ``lock`` and only what ``unchanged_since``
the mark that it took before it read; so nothing that was read before a change is kept after it.
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
"""How long a noted change stays in the table: longer than any process goes without a look and still trusts it."""
REMEMBERED_MAX = 20_000
"""Users whose last change is remembered one by one."""

lock = threading.RLock()
_count = 0
_last: dict[Any, int] = {}
_forgotten = 0
"""Changes up to this one are no longer remembered one by one: anybody may have been meant."""


@dataclass(frozen=True, slots=True)
class Holder:
    forget: Callable[[Any], None]
    """Drop what is a user's (their primary key), or everything (None). Called under ``lock``: quick, no I/O."""
    is_holding: Callable[[], bool]
    look: Callable[[], None] | None = None
    """Called by the listening thread after each round; may ask the database."""


holders: list[Holder] = []


def remember(holder: Holder) -> None:
    holders.append(holder)


def mark() -> int:
    """To be taken before reading what is to be remembered."""
    with lock:
        return _count


def unchanged_since(mark: int, user_id: Any = None) -> bool:
    """Whether neither this user nor the site changed since; without a user: the site."""
    return max(_forgotten, _last.get(None, 0), _last.get(user_id, 0)) <= mark


# Telling


def user_changed(user_id: Any, *, noted: bool = False) -> None:
    """Something that belongs to this user is another than before. Call it inside the change's transaction, or after.

    ``noted``: the database's own triggers have it already, so other processes need the message only to be quicker.
    """
    _tell([user_id], noted=noted)


def site_changed(*, noted: bool = False) -> None:
    """The same for what concerns every user: keys, policies, allowed addresses of the site."""
    _tell([None], noted=noted)


def _tell(subjects: list[Any], *, noted: bool) -> None:
    if not noted:
        Change.objects.bulk_create([Change(subject=text_of(subject)) for subject in subjects])
    apply(subjects)
    # Once more when others can see it: what was read in between was still the old.
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
    """Let go of what this process remembers of these users; None: of everybody."""
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
    """Remove what everybody has seen; how many rows."""
    return Change.objects.filter(at__lt=timezone.now() - KEPT_FOR).delete()[0]


def text_of(subject: Any) -> str:
    return "" if subject is None else str(subject)


def subject_of(text: str) -> Any:
    """What ``text_of`` made a text of; everybody for what is none."""
    if not text:
        return None
    try:
        return get_user_model()._meta.pk.to_python(text)
    except ValidationError:
        return None
