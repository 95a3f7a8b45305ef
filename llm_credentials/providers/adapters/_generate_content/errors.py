"""Maps this wire format's errors to ours."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from llm_credentials.providers.errors import (
    AuthenticationFailed,
    ContextLengthExceeded,
    LLMError,
    ModelNotFound,
    PermissionDenied,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
)
from llm_credentials.providers.usage import count
from llm_credentials.providers.wire import safe_code, status_error

# `error.details[].reason` of a google.rpc.ErrorInfo.
ERROR_REASONS: Mapping[str, type[LLMError]] = {
    "API_KEY_INVALID": AuthenticationFailed,
    "API_KEY_EXPIRED": AuthenticationFailed,
    "API_KEY_NOT_FOUND": AuthenticationFailed,
    "CREDENTIALS_MISSING": AuthenticationFailed,
    "ACCESS_TOKEN_EXPIRED": AuthenticationFailed,
    "ACCESS_TOKEN_TYPE_UNSUPPORTED": AuthenticationFailed,
    "ACCOUNT_STATE_INVALID": AuthenticationFailed,
    "API_KEY_SERVICE_BLOCKED": PermissionDenied,
    "API_KEY_HTTP_REFERRER_BLOCKED": PermissionDenied,
    "API_KEY_IP_ADDRESS_BLOCKED": PermissionDenied,
    "API_KEY_ANDROID_APP_BLOCKED": PermissionDenied,
    "API_KEY_IOS_APP_BLOCKED": PermissionDenied,
    "CONSUMER_SUSPENDED": PermissionDenied,
    "CONSUMER_INVALID": PermissionDenied,
    "SERVICE_DISABLED": PermissionDenied,
    "LOCATION_POLICY_VIOLATED": PermissionDenied,
    "BILLING_DISABLED": QuotaExhausted,
    "RESOURCE_QUOTA_EXCEEDED": QuotaExhausted,
    "RATE_LIMIT_EXCEEDED": RateLimited,
    "RESOURCE_USAGE_RESTRICTION_VIOLATED": PermissionDenied,
}
# `error.status`, where it says more than the HTTP status; the others (INVALID_ARGUMENT, INTERNAL …) only repeat it.
ERROR_STATUSES: Mapping[str, type[LLMError]] = {
    "UNAUTHENTICATED": AuthenticationFailed,
    "PERMISSION_DENIED": PermissionDenied,
    "FAILED_PRECONDITION": PermissionDenied,  # the region is not supported, or only with billing
    "NOT_FOUND": ModelNotFound,
    "RESOURCE_EXHAUSTED": RateLimited,
    "CANCELLED": ProviderUnavailable,
}
PLAIN_STATUSES = frozenset({402, 408})
"""HTTP statuses that decide the error without the status word."""
# For errors with neither a telling reason nor a telling status, only these fixed prefixes of the message exist.
ERROR_OPENINGS: tuple[tuple[str, str, type[LLMError]], ...] = (
    ("INVALID_ARGUMENT", "The input token count", ContextLengthExceeded),
    ("RESOURCE_EXHAUSTED", "Your prepayment credits are depleted", QuotaExhausted),
)


def body_error(body: object, status: int | None) -> LLMError:
    """The error in this body: by its reason, else by its status word, else by the HTTP status."""
    if isinstance(body, list) and body:
        body = body[0]
    error = body.get("error") if isinstance(body, dict) else None
    error = error if isinstance(error, dict) else {}
    details = [entry for entry in error.get("details") or () if isinstance(entry, dict)]
    word, reason = error.get("status"), next((entry["reason"] for entry in details if "reason" in entry), None)
    code = count(error.get("code"))
    status = status if status is not None else code
    found = ERROR_REASONS.get(str(reason)) or _by_opening(word, error.get("message"))
    if found in (None, RateLimited) and word == "RESOURCE_EXHAUSTED":
        found = QuotaExhausted if _is_daily(details) else RateLimited
    if found is None and status not in PLAIN_STATUSES:
        found = ERROR_STATUSES.get(str(word))
    if found is None:
        found = ProviderUnavailable if status is None else status_error(status)
    ours = found(status_code=status, code=safe_code(reason) or safe_code(word))
    ours.retry_after_s = _retry_delay_s(details)
    return ours


def _by_opening(word: object, message: object) -> type[LLMError] | None:
    if not isinstance(message, str):
        return None
    return next((found for of, opening, found in ERROR_OPENINGS if word == of and message.startswith(opening)), None)


def _is_daily(details: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a daily or permanent quota is exhausted, rather than one per minute."""
    violations = [entry for detail in details for entry in detail.get("violations") or () if isinstance(entry, dict)]
    return any("PerDay" in str(entry.get("quotaId")) or str(entry.get("quotaValue")) == "0" for entry in violations)


def _retry_delay_s(details: Sequence[Mapping[str, Any]]) -> float | None:
    for detail in details:
        delay = detail.get("retryDelay")
        if isinstance(delay, str) and re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?s", delay):
            return float(delay[:-1])
    return None
