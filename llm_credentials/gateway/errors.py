"""Maps a failed call to a status that the client understands, a code and a message."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from django.db import DatabaseError

from llm_credentials.audit import AuditUnavailable
from llm_credentials.providers import (
    AccessWithdrawn,
    AuthenticationFailed,
    BadProviderResponse,
    BudgetExceeded,
    ConnectionFailed,
    ContentFiltered,
    ContextLengthExceeded,
    CredentialUnreadable,
    DeadlineExceeded,
    EgressBlocked,
    LLMError,
    ModelNotFound,
    NotConfigured,
    PermissionDenied,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
    SecretInRequest,
    SiteUnavailable,
    StreamInterrupted,
    UnsupportedContent,
)

KEY_AT_FAULT = 424
"""The stored key is at fault, not the caller's token, as a 401 would suggest; clients do not retry this status."""

_KINDS: Mapping[type[LLMError], tuple[int, str]] = {
    NotConfigured: (400, "not_configured"),
    CredentialUnreadable: (KEY_AT_FAULT, "key_unreadable"),
    EgressBlocked: (403, "address_not_allowed"),
    SiteUnavailable: (503, "database_unavailable"),
    BudgetExceeded: (402, "budget_exceeded"),
    QuotaExhausted: (402, "insufficient_quota"),
    ModelNotFound: (404, "model_not_found"),
    ContextLengthExceeded: (400, "context_length_exceeded"),
    ContentFiltered: (400, "content_filter"),
    UnsupportedContent: (400, "unsupported_content"),
    SecretInRequest: (400, "secret_in_request"),
    RequestRejected: (400, "invalid_request"),
    AuthenticationFailed: (KEY_AT_FAULT, "key_refused"),
    PermissionDenied: (403, "permission_denied"),
    RateLimited: (429, "rate_limit_exceeded"),
    DeadlineExceeded: (504, "timeout"),
    ConnectionFailed: (502, "connection_failed"),
    ProviderUnavailable: (503, "provider_unavailable"),
    BadProviderResponse: (502, "bad_provider_response"),
    # Must not be retried, as clients do with a 502.
    AccessWithdrawn: (403, "access_withdrawn"),
    StreamInterrupted: (502, "stream_interrupted"),
    LLMError: (502, "provider_error"),
}


class Refused(Exception):
    """The gateway's own response, before any call was made."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.problem = Problem(status, code, message, param, retry_after_s, headers)


@dataclass(frozen=True, slots=True)
class Problem:
    status: int
    code: str
    message: str
    param: str | None = None
    retry_after_s: float | None = None
    headers: Mapping[str, str] | None = None


def problem(error: Exception) -> Problem:
    """Echoes no input: every message is our own text."""
    match error:
        case Refused():
            return error.problem
        case LLMError():
            status, code = next(_KINDS[cls] for cls in type(error).__mro__ if cls in _KINDS)
            return Problem(status, code, str(error), getattr(error, "param", None), error.retry_after_s)
        case AuditUnavailable():
            return Problem(503, "audit_unavailable", error.user_message, None, 5.0)
        case DatabaseError():
            return Problem(503, "database_unavailable", "This site's database is away. Nothing was sent.", None, 5.0)
        case _:
            return Problem(500, "internal_error", "Something went wrong on this site. Nothing was lost; try again.")
