"""Which hosts beyond the public internet this site may call: those in its settings, and those that staff allow at
runtime.

Rows are cached only while the process is sure that they are unchanged (``llm_credentials.live``), so a revoked
allowance takes effect everywhere within one second. Clients and connections belong to the policy under which they were
made; after a change none of them is reused.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import structlog
from asgiref.sync import sync_to_async
from django.db import connection

from llm_credentials import conf
from llm_credentials.live import changes, listener
from llm_credentials.live.changes import Holder
from llm_credentials.models import EgressAllowance
from llm_credentials.providers import EgressBlocked, EgressPolicy
from llm_credentials.providers.egress import allowance

log = structlog.get_logger(__name__)

Surface: TypeAlias = Literal["providers", "tools"]
"""Calls with keys, or pages that agents read: a page must not be able to direct a model to the key-holding servers."""
Allowed: TypeAlias = Mapping[Surface, frozenset[str]]

KEPT_S = 45.0

_kept: tuple[Allowed, float] | None = None
"""The rows, and when they were read."""


def policy(surface: Surface = "providers") -> EgressPolicy:
    """Synchronous. Raises DatabaseError."""
    return _policy(surface, _found() or _load())


async def apolicy(surface: Surface = "providers") -> EgressPolicy:
    """As ``policy``; stays on the event loop when the rows are cached."""
    return _policy(surface, _found() or await sync_to_async(_load)())


_made: dict[Surface, tuple[tuple[str, ...], frozenset[str], EgressPolicy]] = {}
"""Each surface's last policy, with the inputs it was built from."""


def _policy(surface: Surface, allowed: Allowed) -> EgressPolicy:
    # LLM_EGRESS_ALLOW applies only to calls with keys.
    listed, given = conf.egress_allow() if surface == "providers" else (), allowed[surface]
    made = _made.get(surface)
    if made is None or made[0] != listed or made[1] != given:
        made = _made[surface] = (listed, given, EgressPolicy(allow=(*listed, *given)))
    return made[2]


def _found() -> Allowed | None:
    kept = _kept
    if kept is None or time.monotonic() >= kept[1] + KEPT_S or not listener.is_sure(kept[1]):
        return None
    return kept[0]


def _load() -> Allowed:
    global _kept
    if connection.in_atomic_block:
        return _read()
    if KEPT_S > 0:
        listener.ensure()
    mark, now = changes.mark(), time.monotonic()
    allowed = _read()
    with changes.lock:
        if changes.unchanged_since(mark):
            _kept = (allowed, now)
    return allowed


def _read() -> Allowed:
    providers, tools = set(), set()
    rows = EgressAllowance.objects.values_list("host", "port", "for_providers", "for_tools")
    for host, port, for_providers, for_tools in rows:
        try:
            entry = allowance(host, port)
        except EgressBlocked:
            # Written without the form, or by an older version with weaker validation.
            log.error("egress_allowance_ignored", host=host, port=port)
            continue
        if for_providers:
            providers.add(entry)
        if for_tools:
            tools.add(entry)
    return {"providers": frozenset(providers), "tools": frozenset(tools)}


def _forget(user_id: Any) -> None:
    global _kept
    if user_id is None:
        _kept = None


def _is_holding() -> bool:
    kept = _kept
    return kept is not None and time.monotonic() < kept[1] + KEPT_S


changes.remember(Holder(forget=_forget, is_holding=_is_holding))
