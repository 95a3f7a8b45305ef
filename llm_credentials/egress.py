"""Where this site may call beyond the public internet: what its settings list, and what staff allow while it runs.

The rows are read again after less than half a second, so that an allowance that is taken back holds nowhere for longer
than one second. Clients and connections belong to the policy that they were made under: a changed policy uses none of
them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import structlog
from asgiref.sync import sync_to_async
from django.db.models.signals import post_delete, post_save

from llm_credentials import conf
from llm_credentials.models import EgressAllowance
from llm_credentials.providers import EgressBlocked, EgressPolicy
from llm_credentials.providers.egress import allowance

log = structlog.get_logger(__name__)

Surface: TypeAlias = Literal["providers", "tools"]
"""Calls with keys, or pages that agents read: what a page says must not lead a model to the servers of keys."""
Allowed: TypeAlias = Mapping[Surface, frozenset[str]]

KEPT_S = 0.45

_kept: tuple[Allowed | None, float] = (None, 0.0)
_lock = threading.Lock()
_changes = 0
"""Counts what was forgotten: what was read before a change is not kept after it."""


def policy(surface: Surface = "providers") -> EgressPolicy:
    """Synchronous. Raises DatabaseError."""
    return _policy(surface, _found() or _load())


async def apolicy(surface: Surface = "providers") -> EgressPolicy:
    """The same; without leaving the event loop when the rows were read a moment ago."""
    return _policy(surface, _found() or await sync_to_async(_load)())


def forget() -> None:
    """Read the rows again at the next question."""
    global _kept, _changes
    with _lock:
        _changes += 1
        _kept = (None, 0.0)


def _policy(surface: Surface, allowed: Allowed) -> EgressPolicy:
    # What the operator lists in the settings is for the servers of keys.
    listed = conf.egress_allow() if surface == "providers" else ()
    return EgressPolicy(allow=(*listed, *allowed[surface]))


def _found() -> Allowed | None:
    allowed, until = _kept
    return allowed if time.monotonic() < until else None


def _load() -> Allowed:
    global _kept
    changes = _changes
    rows = EgressAllowance.objects.values_list("host", "port", "for_providers", "for_tools")
    allowed = _sorted(list(rows))
    with _lock:
        if changes == _changes:
            _kept = (allowed, time.monotonic() + KEPT_S)
    return allowed


def _sorted(rows: list[tuple[str, int, bool, bool]]) -> Allowed:
    providers, tools = set(), set()
    for host, port, for_providers, for_tools in rows:
        try:
            entry = allowance(host, port)
        except EgressBlocked:
            # Written past the form, or by an older version that knew less.
            log.error("egress_allowance_ignored", host=host, port=port)
            continue
        if for_providers:
            providers.add(entry)
        if for_tools:
            tools.add(entry)
    return {"providers": frozenset(providers), "tools": frozenset(tools)}


def _changed(sender: Any, **kwargs: Any) -> None:
    forget()


for signal in (post_save, post_delete):
    signal.connect(_changed, sender=EgressAllowance)
