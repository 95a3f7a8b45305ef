"""Records refusals: access to somebody else's objects, and invalid tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog
from django.db import DatabaseError, models
from django.http import HttpRequest

from llm_credentials import limits
from llm_credentials.audit.chain import AuditUnavailable
from llm_credentials.audit.context import acting, network, network_of
from llm_credentials.audit.recording import note
from llm_credentials.audit.words import Action, target_of
from llm_credentials.wall import owner_of

log = structlog.get_logger(__name__)

RATE = "30/m"
"""Refusals recorded per caller, so that a scan does not flood the trail."""
REFUSALS = (401, 403, 404)

_owners: dict[str, Callable[[Any], models.QuerySet[Any, Any]]] = {}


def know_owner(argument: str, owner: Callable[[Any], models.QuerySet[Any, Any]]) -> None:
    """``owner(value)``: a queryset of the owner's user id for the URL argument of that name."""
    _owners[argument] = owner


def note_refusal(request: HttpRequest, status: int) -> None:
    """Synchronous; never fails the request."""
    try:
        _note(request, status)
    except (DatabaseError, AuditUnavailable) as error:
        log.error("refusal_not_recorded", status=status, error=type(error).__name__)


def note_program(*, ip: str, view: str, user_id: Any = None) -> None:
    """For programs that bypass Django (the gateway): the token is invalid, or valid but not allowed to do this.

    Synchronous; never fails the request.
    """
    actor = "" if user_id is None else str(user_id)
    action, result = (Action.ACCESS_DENIED, "403") if actor else (Action.TOKEN_REFUSED, "401")
    try:
        with acting(actor=actor, ip=ip, channel="gateway"):
            if _within_limit(actor or network(ip) or "unknown"):
                note(action=action, actor=actor, target=target_of("view", view), result=result)
    except (DatabaseError, AuditUnavailable) as error:
        log.error("refusal_not_recorded", status=result, error=type(error).__name__)


def _note(request: HttpRequest, status: int) -> None:
    match = request.resolver_match
    user: Any = request.user
    view = target_of("view", match.view_name if match else None)
    if status == 401 and request.headers.get("Authorization"):
        if _within_limit(network_of(request) or "unknown"):
            note(action=Action.TOKEN_REFUSED, actor="", target=view, result="401")
    elif status == 403 and user.is_authenticated:
        if _within_limit(str(user.pk)):
            note(action=Action.ACCESS_DENIED, actor=str(user.pk), target=view, result="403")
    elif status == 404 and match is not None and _owners.keys() & match.kwargs.keys() and user.is_authenticated:
        _note_reached_for_others(str(user.pk), match.kwargs)


def _note_reached_for_others(caller: str, arguments: dict[str, Any]) -> None:
    for name, value in arguments.items():
        owner = owner_of(_owners[name](value)) if name in _owners else None
        if owner is None or str(owner) == caller or not _within_limit(caller):
            continue
        target = target_of(name.removesuffix("_id"), str(value))
        note(action=Action.ACCESS_DENIED, actor=caller, subject=str(owner), target=target, result="404")


def _within_limit(caller: str) -> bool:
    try:
        limits.use("audit-refusals", caller, RATE)
    except limits.LimitReached:
        return False
    return True
