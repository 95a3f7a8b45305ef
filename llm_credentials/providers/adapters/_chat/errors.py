"""Maps a provider's status and error code to our errors, as data. Never reads messages: they may quote the request."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from llm_credentials.providers.errors import (
    AuthenticationFailed,
    BadProviderResponse,
    ContentFiltered,
    ContextLengthExceeded,
    LLMError,
    ModelNotFound,
    PermissionDenied,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
    UnsupportedContent,
)
from llm_credentials.providers.wire import safe_code, status_error

CODES: Mapping[str, type[LLMError]] = {
    # OpenAI: https://developers.openai.com/api/docs/guides/error-codes
    "invalid_api_key": AuthenticationFailed,
    "invalid_authentication": AuthenticationFailed,
    "account_deactivated": AuthenticationFailed,
    "mismatched_organization": PermissionDenied,
    "insufficient_permissions": PermissionDenied,
    "unsupported_country_region_territory": PermissionDenied,
    "ip_not_authorized": PermissionDenied,
    "model_not_found": ModelNotFound,
    "model_deprecated": ModelNotFound,
    "context_length_exceeded": ContextLengthExceeded,
    "exceed_context_size_error": ContextLengthExceeded,  # llama.cpp
    "content_filter": ContentFiltered,
    "content_policy_violation": ContentFiltered,
    "invalid_prompt": ContentFiltered,
    "cyber_policy_violation": ContentFiltered,
    "moderation_blocked": ContentFiltered,
    "insufficient_quota": QuotaExhausted,
    "billing_not_active": QuotaExhausted,
    "billing_hard_limit_reached": QuotaExhausted,
    "rate_limit_exceeded": RateLimited,
    "slow_down": RateLimited,
    "server_error": ProviderUnavailable,
    "engine_overloaded": ProviderUnavailable,
    "unsupported_image": UnsupportedContent,
    "invalid_image_format": UnsupportedContent,
    "image_content_policy_violation": ContentFiltered,
    # Azure OpenAI
    "DeploymentNotFound": ModelNotFound,
    "ModelNotFound": ModelNotFound,
    "unknown_model": ModelNotFound,
    "ResponsibleAIPolicyViolation": ContentFiltered,
    "RateLimitReached": RateLimited,
    "TooManyRequests": RateLimited,
    "NoCapacity": ProviderUnavailable,
    "Unauthorized": AuthenticationFailed,
    "PermissionDenied": PermissionDenied,
    "AuthenticationTypeDisabled": PermissionDenied,
    "InsufficientQuota": QuotaExhausted,
    # DeepSeek
    "authentication_error": AuthenticationFailed,
    "insufficient_balance": QuotaExhausted,
    # Groq: https://console.groq.com/docs/errors
    "model_decommissioned": ModelNotFound,
    "model_not_active": ModelNotFound,
    "model_permission_blocked_org": PermissionDenied,
    "model_permission_blocked_project": PermissionDenied,
    "model_terms_required": PermissionDenied,
    "organization_restricted": PermissionDenied,
    "blocked_api_access": QuotaExhausted,
    "capacity_exceeded": ProviderUnavailable,
    # Mistral
    "invalid_model": ModelNotFound,
    "1500": ModelNotFound,
    "rate_limited": RateLimited,
    "1300": RateLimited,
    "3505": ProviderUnavailable,
    "service_tier_capacity_exceeded": ProviderUnavailable,
    "3051": ContextLengthExceeded,
    "unreachable_backend": ProviderUnavailable,
    # Together
    "model_not_available": ModelNotFound,
    "credit_limit": QuotaExhausted,
    "insufficient_credits": QuotaExhausted,
    "1113": QuotaExhausted,  # Z.ai
    "rate_limit": RateLimited,
    "overloaded": ProviderUnavailable,
    # Common to several gateways
    "invalid_token": AuthenticationFailed,
    "unauthorized": AuthenticationFailed,
    "permission_denied": PermissionDenied,
    "forbidden": PermissionDenied,
    "too_many_requests": RateLimited,
    "rate_limit_error": RateLimited,
    "overloaded_error": ProviderUnavailable,
    "service_unavailable": ProviderUnavailable,
    "internal_server_error": ProviderUnavailable,
    "internal_error": ProviderUnavailable,
    "billing_error": QuotaExhausted,
}
"""By ``code``, else by ``type``."""

_STATUSES: Mapping[int, type[LLMError]] = {
    498: ProviderUnavailable,  # Groq: its flex tier is full
}
_PARAM = re.compile(r"[a-z_]{1,40}([.\[][a-z0-9_]{1,40}\]?){0,12}")
_REQUEST_ID_HEADERS = ("x-request-id", "request-id", "apim-request-id", "mistral-correlation-id", "cf-ray")


def request_id(headers: Mapping[str, str]) -> str | None:
    return next((found for name in _REQUEST_ID_HEADERS if (found := safe_code(headers.get(name)))), None)


def body_error(body: object, status: int | None = None) -> LLMError:
    """The error for an error body: an object with or without ``error`` around it, or not JSON at all.

    ``status`` is None for an error inside a 200 response; some bodies contain a status themselves.
    """
    outer = body if isinstance(body, Mapping) else {}
    said = outer.get("error", outer)
    error = said if isinstance(said, Mapping) else {}
    names = [error.get("code"), _mapping(error.get("innererror")).get("code"), error.get("type")]
    status = status or _status_in(error) or _status_in(outer)
    kind = _kind(names, status, well_formed=bool(said if status else error))
    if kind is PermissionDenied and "flagged_input" in _mapping(error.get("metadata")):
        kind = ContentFiltered  # OpenRouter: the content was rejected, not the caller
    made = kind(status_code=status, code=next((code for name in names if (code := safe_code(name))), None))
    where = error.get("param")
    if isinstance(made, RequestRejected) and isinstance(where, str) and _PARAM.fullmatch(where):
        made.param = where
    return made


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _kind(names: list[Any], status: int | None, *, well_formed: bool) -> type[LLMError]:
    if status is not None and status in _STATUSES:
        return _STATUSES[status]
    kind = next((CODES[name] for name in names if isinstance(name, str) and name in CODES), None)
    if kind is not None:
        # Groq reports a request too large to ever fit its limit as a rate limit, with status 413.
        return ContextLengthExceeded if kind is RateLimited and status == 413 else kind
    if status == 404 and well_formed:
        return ModelNotFound  # a server of this wire format answered, so the path was right
    if status is None:
        return BadProviderResponse if not well_formed else ProviderUnavailable
    return status_error(status)


def _status_in(error: Mapping[str, Any]) -> int | None:
    for name in ("status_code", "statusCode", "status", "code"):
        value = error.get(name)
        if isinstance(value, str) and len(value) == 3 and value.isdecimal():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 400 <= value < 600:
            return value
    return None
