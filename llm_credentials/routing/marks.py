"""What real use says about a key: its counters and its live status.

A success proves the key: whatever an earlier test or call had said, it counts as valid again. Only what clearly
concerns the key changes its status: a refusal makes it invalid, a spent account an error, a value that does not open
needs re-entry. "Not allowed" leaves a note and nothing else. Every change holds only for the version that was used: a
key that was entered anew meanwhile is not blamed for the old one.
"""

from __future__ import annotations

import structlog
from django.db.models import F
from django.utils import timezone

from llm_credentials.models import SystemCredential, UserCredential
from llm_credentials.models.sealed import LLMCredential
from llm_credentials.notices import health as notices
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


def note(row: Row, error: LLMError | None, *, sent: bool, answered: bool) -> None:
    """Write down one attempt with this key. ``sent``: it left for the provider; ``answered``: the provider accepted it.

    One UPDATE, a second one when the status changes.
    """
    if not isinstance(row, UserCredential | SystemCredential):
        return
    rows = type(row)._default_manager.filter(pk=row.pk)
    if sent:
        rows.update(request_count=F("request_count") + 1, last_used_at=timezone.now())
    verdict = (Status.VALID, "") if answered else _verdict(error)
    if verdict is None or (row.status, row.status_detail) == verdict:
        return
    if isinstance(error, CredentialUnreadable) and row.is_lost:
        # Its encryption key is not on the ring of this process: lists say so by themselves. Perhaps it is on another's,
        # because a new key is just being rolled out; then a mark would put a good key out of use everywhere.
        return
    status, detail = verdict
    same_key = rows.filter(version=row.version)
    if status is None:
        same_key.update(status_detail=detail)
    elif same_key.exclude(status=status).update(status=status, status_detail=detail):
        log.info("credential_status_changed", credential=str(row.pk), status=str(status))
        if isinstance(row, UserCredential):
            notices.credential_changed(row, status)
    else:
        same_key.update(status_detail=detail)


def _verdict(error: LLMError | None) -> tuple[LLMCredential.Status | None, str] | None:
    """(the status, or None for "as it was"; the words beside it), or None when it says nothing about the key."""
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
