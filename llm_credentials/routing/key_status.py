"""Updates the status of a key from the outcome of real calls.

A success proves the key: whatever an earlier test or call had said, it counts as valid again. Only what clearly
concerns the key changes its status: a refusal makes it invalid, a spent account an error, a value that does not open
needs re-entry. "Not allowed" leaves a note and nothing else. Every change holds only for the version that was used: a
key that was entered anew meanwhile is not blamed for the old one.
"""

from __future__ import annotations

from typing import TypeAlias
from uuid import UUID

import structlog

from llm_credentials.models import SystemCredential, UserCredential
from llm_credentials.models.sealed import LLMCredential
from llm_credentials.notices import alerts
from llm_credentials.providers import (
    AuthenticationFailed,
    CredentialUnreadable,
    LLMError,
    PermissionDenied,
    QuotaExhausted,
)
from llm_credentials.routing.snapshot import Row

log = structlog.get_logger(__name__)

Status = LLMCredential.Status
Verdict: TypeAlias = tuple[LLMCredential.Status | None, str]
"""The status, or None for "as it was"; the words beside it."""


def key_of(row: Row) -> tuple[type[LLMCredential], UUID] | None:
    """Whose counters move when this key is used; None for one that has none."""
    return (type(row), row.pk) if isinstance(row, UserCredential | SystemCredential) else None


def verdict(row: Row, error: LLMError | None, *, answered: bool) -> Verdict | None:
    """What an attempt says about its key that is not known yet. ``answered``: the provider accepted it."""
    if not isinstance(row, UserCredential | SystemCredential):
        return None
    if isinstance(error, CredentialUnreadable) and row.is_lost:
        # Its encryption key is not on the ring of this process: lists say so by themselves. Perhaps it is on another's,
        # because a new key is just being rolled out; then a mark would put a good key out of use everywhere.
        return None
    found = (Status.VALID, "") if answered else _verdict(error)
    return None if found is None or (row.status, row.status_detail) == found else found


def note(row: Row, found: Verdict) -> None:
    """Write it down. Synchronous; one UPDATE, or two."""
    assert isinstance(row, UserCredential | SystemCredential)
    status, detail = found
    same_key = type(row)._default_manager.filter(pk=row.pk, version=row.version)
    if status is None:
        if same_key.exclude(status_detail=detail).update(status_detail=detail) and isinstance(row, UserCredential):
            alerts.key_limited(row, detail)
    elif same_key.exclude(status=status).update(status=status, status_detail=detail):
        log.info("credential_status_changed", credential=str(row.pk), status=str(status))
        if isinstance(row, UserCredential):
            alerts.key_changed(row, status)
    else:
        same_key.update(status_detail=detail)
    # The row may be used for further calls before it is read again.
    row.status, row.status_detail = status or row.status, detail


def _verdict(error: LLMError | None) -> Verdict | None:
    """None when it says nothing about the key."""
    match error:
        case AuthenticationFailed():
            return Status.INVALID, f"{error.user_message}{_code(error)}"
        case QuotaExhausted():
            return Status.ERROR, f"{error.user_message}{_code(error)}"
        case CredentialUnreadable():
            return Status.NEEDS_REENTRY, error.user_message
        case PermissionDenied():
            return None, f"{error.user_message}{_code(error)}"
        case _:
            return None


def _code(error: LLMError) -> str:
    return f" ({error.status_code})" if error.status_code else ""
