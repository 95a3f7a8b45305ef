"""Caches clients that hold a key, by event loop and version of the key.

A client is dropped when its key is replaced, turned off or removed, and after ``CLIENT_KEPT_S`` at the latest. Dropping
does not close it, because a call may still be using it; it is freed when that call ends.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

from django.db import models

from llm_credentials.live import changes, listener
from llm_credentials.live.changes import Holder
from llm_credentials.models import EnvironmentCredential, SystemCredential, UserCredential
from llm_credentials.providers import LLMClient
from llm_credentials.wall import open_for

CLIENT_KEPT_S = 300.0
CLIENTS_MAX = 1000
"""Per event loop."""

Kept: TypeAlias = UserCredential | SystemCredential | EnvironmentCredential
Place: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class _Open:
    client: LLMClient
    credential: type[Kept]
    id: Any
    version: int
    user_id: Any
    until: float


_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, OrderedDict[Place, _Open]] = WeakKeyDictionary()
_questioned: set[Any] = set()
"""Users (None: the site) whose keys may have changed."""


def find(place: Place) -> LLMClient | None:
    clients = _clients_here()
    found = clients.get(place)
    if found is None:
        return None
    if time.monotonic() >= found.until:
        clients.pop(place, None)
        return None
    with suppress(KeyError):  # the listener thread may have just dropped it
        clients.move_to_end(place)
    return found.client


def keep(place: Place, client: LLMClient, credential: Kept, mark: int) -> None:
    """``mark``: the value of ``changes.mark()`` from before the key was opened."""
    user_id = credential.user_id if isinstance(credential, UserCredential) else None
    listener.ensure(wait_s=0)
    clients = _clients_here()
    with changes.lock:
        if not changes.unchanged_since(mark, user_id):
            return
        until = time.monotonic() + CLIENT_KEPT_S
        clients[place] = _Open(client, type(credential), credential.pk, credential.version, user_id, until)
        while len(clients) > CLIENTS_MAX:
            clients.popitem(last=False)


def forget() -> None:
    """Drop every client of this process. Calls in progress keep theirs until they end."""
    _clients.clear()


def _clients_here() -> OrderedDict[Place, _Open]:
    return _clients.setdefault(asyncio.get_running_loop(), OrderedDict())


def _question(user_id: Any) -> None:
    """Only records the user; the listener thread looks up which keys changed."""
    _questioned.add(user_id)


def _everywhere() -> Iterator[tuple[OrderedDict[Place, _Open], Place, _Open]]:
    for clients in list(_clients.values()):
        for place, found in list(clients.items()):
            yield clients, place, found


def _is_holding() -> bool:
    now = time.monotonic()
    holds = False
    with changes.lock:
        for clients, place, found in _everywhere():
            if now >= found.until:
                clients.pop(place, None)
            else:
                holds = True
    return holds


@open_for("which kept keys are in use still")
def _look() -> None:
    """Drop clients whose key changed or is no longer active."""
    with changes.lock:
        users = set(_questioned)
        _questioned.clear()
    if not users:
        return
    try:
        _drop_stale(users)
    except Exception:
        _questioned.update(users)
        raise


def _drop_stale(users: set[Any]) -> None:
    asked = [each for each in _everywhere() if each[2].user_id in users or None in users]
    for model in (UserCredential, SystemCredential):
        ids = {found.id for _, _, found in asked if found.credential is model}
        versions = _versions(model, ids) if ids else {}
        for clients, place, found in asked:
            if found.credential is model and versions.get(found.id) != found.version:
                with changes.lock:
                    if clients.get(place) is found:
                        clients.pop(place, None)


def _versions(model: type[UserCredential] | type[SystemCredential], ids: set[Any]) -> dict[Any, int]:
    rows: models.QuerySet[Any] = model._default_manager.filter(pk__in=ids, is_active=True)
    return dict(rows.values_list("pk", "version"))


changes.remember(Holder(forget=_question, is_holding=_is_holding, look=_look))
