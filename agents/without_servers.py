"""Caches which users have no tool servers, which is nearly all of them: their next turn needs no query for tools."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from django.db import connection

from agents.servers import MCPServer
from llm_credentials.live import changes, listener
from llm_credentials.live.changes import Holder
from llm_credentials.routing import snapshot_cache

if TYPE_CHECKING:
    from django.contrib.auth.models import User

USERS_MAX = 20_000
_without: dict[Any, float] = {}
"""User → when that was read, on the monotonic clock."""


def is_known(user: User) -> bool:
    """Whether the cache knows that this user has none."""
    read_at = _without.get(user.pk)
    return read_at is not None and time.monotonic() < read_at + snapshot_cache.KEPT_S and listener.is_sure(read_at)


def look(user: User) -> bool:
    """Whether this user has none, from the database; cached if so. Synchronous."""
    remembering = snapshot_cache.KEPT_S > 0 and not connection.in_atomic_block
    if remembering:
        listener.ensure()
    mark, now = changes.mark(), time.monotonic()
    if MCPServer.objects.for_user(user).exists():
        return False
    with changes.lock:
        if remembering and len(_without) < USERS_MAX and changes.unchanged_since(mark, user.pk):
            _without[user.pk] = now
    return True


def _forget(user_id: Any) -> None:
    if user_id is None:
        _without.clear()
    else:
        _without.pop(user_id, None)


def _is_holding() -> bool:
    """Drops expired entries."""
    end = time.monotonic() - snapshot_cache.KEPT_S
    with changes.lock:
        for user_id in [user_id for user_id, read_at in _without.items() if read_at <= end]:
            del _without[user_id]
    return bool(_without)


changes.remember(Holder(forget=_forget, is_holding=_is_holding))
