"""Updates the status of a key from the outcome of real calls.

A success makes the key valid, whatever an earlier test or call said. A failure changes the status only if it clearly
concerns the key: a rejected key becomes invalid, an exhausted account an error, a value that cannot be decrypted needs
re-entry. "Not allowed" only leaves a note. Each change applies only to the version of the key that was used, so a key
that was replaced meanwhile is not blamed for its predecessor.
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
"""The status, or None to leave it unchanged; and the detail text."""


def key_of(row: Row) -> tuple[type[LLMCredential], UUID] | None:
    """The key whose usage counters are updated; None for a key without counters."""
    return (type(row), row.pk) if isinstance(row, UserCredential | SystemCredential) else None


def verdict(row: Row, error: LLMError | None, *, answered: bool) -> Verdict | None:
    """What an attempt newly reveals about its key. ``answered``: the provider accepted the key."""
    if not isinstance(row, UserCredential | SystemCredential):
        return None
    if isinstance(error, CredentialUnreadable) and row.is_lost:
        # This process lacks the key's encryption key; lists show that without a status. Another process may have it,
        # for instance during a rollout of a new encryption key, so a status would disable a good key everywhere.
        return None
    found = (Status.VALID, "") if answered else _verdict(error)
    return None if found is None or (row.status, row.status_detail) == found else found


def note(row: Row, found: Verdict) -> None:
    """Store the verdict. Synchronous; one or two UPDATEs."""
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
    # The row may serve further calls before it is read again.
    row.status, row.status_detail = status or row.status, detail


def _verdict(error: LLMError | None) -> Verdict | None:
    """None if the error says nothing about the key."""
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
