"""Caches the routing snapshots of active users, so that their next call needs no database query.

A snapshot is used as long as the process is sure that nothing in it has changed (``llm_credentials.live``). Inside a
transaction the cache is neither read nor filled, because nobody else may see uncommitted writes.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from django.db import connection, models
from django.utils.functional import LazyObject, empty

from llm_credentials.live import changes, listener
from llm_credentials.live.changes import Holder, subject_of
from llm_credentials.models import EnvironmentCredential, SystemCredential, UserCredential
from llm_credentials.routing import snapshot
from llm_credentials.routing.snapshot import Loaded, Person, Row, Site
from llm_credentials.wall import acting_for
from llm_credentials.wall.standing import known_user

KEPT_S = 45.0
"""At most. Measured values that trigger no change, such as latencies, can be this old."""
USERS_MAX = 5000


@dataclass(frozen=True, slots=True)
class _Kept:
    loaded: Loaded
    read_at: float
    until: float


_kept: OrderedDict[Any, _Kept] = OrderedDict()
_site: tuple[Site, float, float] | None = None
"""The site's data, when it was read, and its expiry."""


def find(user: Person) -> Loaded | None:
    """The cached snapshot if it is still valid, without I/O; else None."""
    if isinstance(user, LazyObject) and user._wrapped is empty:
        return None
    kept = _kept.get(user.pk)
    if kept is None or time.monotonic() >= kept.until or not listener.is_sure(kept.read_at):
        return None
    return kept.loaded


def is_current(loaded: Loaded) -> bool:
    """Whether this very snapshot is still valid, as far as is known without I/O."""
    kept = _kept.get(loaded.user_id)
    return kept is not None and kept.loaded is loaded and listener.is_sure(kept.read_at)


def redacted(text: str) -> str:
    """The text without the cached keys of the current user and of the site.

    For log lines: no I/O, no decryption.
    """
    user_id = known_user()
    kept = _kept.get(subject_of(user_id)) if user_id else None
    if kept is not None:
        return kept.loaded.tripwire.redacted(text)
    return _site[0].tripwire.redacted(text) if _site is not None else text


def load(user: Person) -> Loaded:
    """The cached snapshot if valid, else read from the database. Synchronous."""
    if connection.in_atomic_block:
        return snapshot.load(user, snapshot.load_site())
    if (found := find(user)) is not None:
        return found
    if KEPT_S > 0:
        listener.ensure()
    mark, now = changes.mark(), time.monotonic()
    site, site_read_at = _load_site()
    loaded = snapshot.load(user, site)
    with changes.lock:
        if changes.unchanged_since(mark, loaded.user_id):
            _kept[loaded.user_id] = _Kept(loaded, min(now, site_read_at), now + KEPT_S)
            _kept.move_to_end(loaded.user_id)
            while len(_kept) > USERS_MAX:
                _kept.popitem(last=False)
    return loaded


def row_now(row: Row) -> Row | None:
    """The current state of a snapshot's row; None if it was disabled or its address changed. Synchronous."""
    if isinstance(row, EnvironmentCredential):
        return row
    rows: models.QuerySet[Any] = type(row)._default_manager.filter(pk=row.pk, is_active=True)
    with acting_for(row.user_id) if isinstance(row, UserCredential) else nullcontext():
        now: UserCredential | SystemCredential | None = rows.first()
    if now is None or (now.provider, now.base_url) != (row.provider, row.base_url) or now.needs_reentry:
        return None
    return now


def _load_site() -> tuple[Site, float]:
    """With the time at which it is known to be valid."""
    global _site
    now = time.monotonic()
    if (kept := _site) is not None and now < kept[2] and listener.is_sure(kept[1]):
        return kept[0], listener.sure_at(kept[1])
    mark = changes.mark()
    site = snapshot.load_site()
    with changes.lock:
        if changes.unchanged_since(mark):
            _site = (site, now, now + KEPT_S)
    return site, now


def forget(user_id: Any = None) -> None:
    """Drop one user's snapshot, or everything."""
    global _site
    with changes.lock:
        if user_id is None:
            _kept.clear()
            _site = None
        else:
            _kept.pop(user_id, None)


def _is_holding() -> bool:
    """Also drops expired snapshots."""
    now = time.monotonic()
    with changes.lock:
        for user_id in [user_id for user_id, kept in _kept.items() if now >= kept.until]:
            del _kept[user_id]
    return bool(_kept)


changes.remember(Holder(forget=forget, is_holding=_is_holding))
