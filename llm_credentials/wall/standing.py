"""Whose rows are open in this context: one user's, everybody's for a stated purpose, or nobody's.

A context variable, so it follows a call through ``await``, ``sync_to_async`` and the bridge, and is isolated between
threads, tasks and requests. New threads start with nothing open.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Any, Final, TypeAlias

from django.db.models import QuerySet
from django.http import HttpRequest

EVERYBODY: Final = "*"
NOBODY: Final = ""
"""Somebody who owns no rows, such as an anonymous caller."""
_ID = re.compile(r"[A-Za-z0-9-]{1,64}")


class WallClosed(RuntimeError):
    """A statement on users' rows without an open wall: a bug in this site, never a user's error."""


class _OfRequest:
    """Evaluated when a statement runs: by then the user is known, from session or token."""

    def __init__(self, request: HttpRequest) -> None:
        self.request = request

    def whose(self) -> str | None:
        # Reuse the user that an asynchronous view has already loaded.
        user: Any = getattr(self.request, "_acached_user", None) or getattr(self.request, "user", None)
        if user is None or not user.is_authenticated:
            return None
        match = self.request.resolver_match
        if match is not None and "admin" in match.app_names and user.is_active and user.is_staff:
            return EVERYBODY
        return str(user.pk)


_Standing: TypeAlias = str | _OfRequest | None
# The bridge copies variables with this prefix to its own loop.
_standing: ContextVar[_Standing] = ContextVar("wall_standing", default=None)
_unsaid: str | None = None
"""The process-wide default where no context sets one."""


def whose() -> str | None:
    """The id of the user whose rows are open, EVERYBODY, NOBODY, or None when nothing was declared."""
    standing = _standing.get()
    if standing is None:
        return _unsaid
    return standing.whose() if isinstance(standing, _OfRequest) else standing


def known_user() -> str | None:
    """The id of the user whose rows are open, if it is known without loading the user; else None."""
    standing = _standing.get()
    if isinstance(standing, _OfRequest):
        request = standing.request
        user = getattr(request, "_cached_user", None) or getattr(request, "_acached_user", None)
        return str(user.pk) if user is not None and user.pk is not None else None
    return standing if standing not in (EVERYBODY, NOBODY) else None


@contextmanager
def acting_for(user_id: Any) -> Iterator[None]:
    """Open this user's rows (None: nobody's). Raises WallClosed where another user's rows are open.

    Not around a ``yield`` to a caller: an asynchronous generator shares its caller's context.
    """
    wanted = NOBODY if user_id is None else str(user_id)
    if wanted and not _ID.fullmatch(wanted):
        raise ValueError("This is no user's id.")
    now = whose()
    if now not in (None, EVERYBODY, wanted) and wanted != NOBODY:
        raise WallClosed("What is done for one user cannot reach another's rows.")
    token = _standing.set(wanted)
    try:
        yield
    finally:
        _standing.reset(token)


@contextmanager
def open_for(purpose: str) -> Iterator[None]:
    """Open everybody's rows: for sweeps, rotation, staff, and code that must first find a row's owner."""
    assert purpose, "say what for"
    token = _standing.set(EVERYBODY)
    try:
        yield
    finally:
        _standing.reset(token)


def open_process_for(purpose: str) -> None:
    """Open everybody's rows by default in all threads of this process: for operator scripts, never for a process that
    serves users.
    """
    global _unsaid
    assert purpose, "say what for"
    _unsaid = EVERYBODY


def owner_of(user_ids: QuerySet[Any, Any]) -> Any:
    """The first of these ``values_list("user_id", flat=True)``, whoever's row it is; None if empty. For jobs, which get
    the id of a row and continue ``acting_for`` its owner.
    """
    with open_for("whose row it is"):
        return user_ids.first()


def nothing() -> Token[_Standing]:
    """Nothing open, as in a new thread: for code that starts afresh in an existing context."""
    return _standing.set(None)


def begin_request(request: HttpRequest) -> Token[_Standing]:
    return _standing.set(_OfRequest(request))


def end_request(token: Token[_Standing]) -> None:
    _standing.reset(token)
