"""Snapshots of the users who are calling just now, so that the next call of the same moment asks no database.

What is a user's and what is the site's are each read again after less than half a second: a change made in any process
holds in all of them within one second, whatever becomes of messages between them. A change made in this process through
the rows themselves holds at once.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db.models.signals import m2m_changed, post_delete, post_save
from django.utils.functional import LazyObject, empty

from llm_credentials.models import (
    GroupPolicy,
    LLMSettings,
    SystemConfig,
    SystemCredential,
    TaskOverride,
    UserAllowance,
    UserCredential,
)
from llm_credentials.routing import snapshot
from llm_credentials.routing.snapshot import Loaded, Person, Site

KEPT_S = 0.45
USERS_MAX = 5000

_kept: OrderedDict[Any, tuple[Loaded, float]] = OrderedDict()
_site: tuple[Site | None, float] = (None, 0.0)
_lock = threading.Lock()
_changes = 0
"""Counts what was forgotten: what was read before a change is not kept after it."""


def find(user: Person) -> Loaded | None:
    """What was read a moment ago, without asking anybody; None when there is nothing."""
    if isinstance(user, LazyObject) and user._wrapped is empty:
        return None
    loaded, until = _kept.get(user.pk, (None, 0.0))
    return loaded if time.monotonic() < until else None


def load(user: Person) -> Loaded:
    """What was read a moment ago, else what the database says. Synchronous."""
    if (found := find(user)) is not None:
        return found
    changes = _changes
    loaded = snapshot.load(user, _load_site())
    with _lock:
        if changes == _changes:
            _kept[loaded.user_id] = (loaded, time.monotonic() + KEPT_S)
            _kept.move_to_end(loaded.user_id)
            while len(_kept) > USERS_MAX:
                _kept.popitem(last=False)
    return loaded


def _load_site() -> Site:
    global _site
    site, until = _site
    if site is not None and time.monotonic() < until:
        return site
    changes = _changes
    site = snapshot.load_site()
    with _lock:
        if changes == _changes:
            _site = (site, time.monotonic() + KEPT_S)
    return site


def forget(user_id: Any = None) -> None:
    """One user's, or everybody's."""
    global _changes, _site
    with _lock:
        _changes += 1
        if user_id is None:
            _kept.clear()
            _site = (None, 0.0)
        else:
            _kept.pop(user_id, None)


def _of_a_user(sender: Any, instance: Any, **kwargs: Any) -> None:
    forget(instance.user_id)


def _of_all(sender: Any, **kwargs: Any) -> None:
    forget()


def _user_itself(sender: Any, instance: Any, **kwargs: Any) -> None:
    forget(instance.pk)


for signal in (post_save, post_delete):
    for owned in (UserCredential, LLMSettings, TaskOverride, UserAllowance):
        signal.connect(_of_a_user, sender=owned)
    for shared in (SystemCredential, SystemConfig, GroupPolicy):
        signal.connect(_of_all, sender=shared)
    signal.connect(_user_itself, sender=settings.AUTH_USER_MODEL)
m2m_changed.connect(_of_all, sender=get_user_model().groups.through)
