"""Maps this wire format's errors to ours."""

from __future__ import annotations

from collections.abc import Mapping

from llm_credentials.providers.errors import (
    AuthenticationFailed,
    ContentFiltered,
    ContextLengthExceeded,
    LLMError,
    ModelNotFound,
    PermissionDenied,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
)
from llm_credentials.providers.wire import safe_code, status_error

# More specific than the type: `error.details.error_code`.
ERROR_CODES: Mapping[str, type[LLMError]] = {
    "contract_spend_limit_reached": QuotaExhausted,
    "enforced_spend_limit_reached": QuotaExhausted,
    "linked_organization_billing_unavailable": QuotaExhausted,
    "linked_organization_spend_limit_reached": QuotaExhausted,
    "ramp_limit_exceeded": RateLimited,
    "organization_on_hold": PermissionDenied,
    "organization_type_not_supported": PermissionDenied,
    "cmek_key_disabled": PermissionDenied,
    "cmek_key_network_blocked": PermissionDenied,
    "file_expired": RequestRejected,
    "thread_not_found": RequestRejected,
}
# `error.type`. For the general ones (invalid_request_error, api_error, timeout_error) the status decides.
ERROR_TYPES: Mapping[str, type[LLMError]] = {
    "authentication_error": AuthenticationFailed,
    "billing_error": QuotaExhausted,
    "permission_error": PermissionDenied,
    "not_found_error": ModelNotFound,
    "request_too_large": RequestRejected,
    "rate_limit_error": RateLimited,
    "overloaded_error": ProviderUnavailable,
    "conflict_error": ProviderUnavailable,
}
# A 400 of type invalid_request_error has no code in this format; only these fixed prefixes of the message exist.
ERROR_OPENINGS: tuple[tuple[str, type[LLMError]], ...] = (
    ("Your credit balance is too low", QuotaExhausted),
    ("You have reached your specified API usage limits", QuotaExhausted),
    ("Output blocked by content filtering policy", ContentFiltered),
    ("prompt is too long", ContextLengthExceeded),
    ("input length and `max_tokens` exceed context limit", ContextLengthExceeded),
)


def body_error(body: object, status: int | None, *, request_id: str | None = None) -> LLMError:
    """The error in this body: by its code, else by its type, else by the status."""
    error = body.get("error") if isinstance(body, dict) else None
    error = error if isinstance(error, dict) else {}
    kind, details = error.get("type"), error.get("details")
    code = details.get("error_code") if isinstance(details, dict) else None
    found = ERROR_CODES.get(str(code)) or ERROR_TYPES.get(str(kind)) or _by_opening(kind, error.get("message"))
    if found is None:
        found = status_error(status) if status is not None else ProviderUnavailable
        if status is None and kind == "invalid_request_error":
            found = RequestRejected
    return found(status_code=status, code=safe_code(code) or safe_code(kind), request_id=safe_code(request_id))


def _by_opening(kind: object, message: object) -> type[LLMError] | None:
    if kind != "invalid_request_error" or not isinstance(message, str):
        return None
    return next((found for opening, found in ERROR_OPENINGS if message.startswith(opening)), None)
