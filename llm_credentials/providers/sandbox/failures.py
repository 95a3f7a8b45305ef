"""The error table: each error's names in the three wire formats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from llm_credentials.providers.sandbox.asks import Refused


@dataclass(frozen=True, slots=True)
class Failure:
    """One row: the HTTP status, and the error's names by format."""

    status: int
    message: str
    chat_type: str
    chat_code: str | None
    messages_type: str
    generate_status: str
    messages_status: int | None = None
    """The messages format's status, if different."""
    generate_http: int | None = None
    messages_message: str = ""
    generate_message: str = ""
    """In both formats some errors differ only in the start of their message."""
    reason: str = ""
    """generateContent: the reason in the details."""
    quota_id: str = ""
    """generateContent: the exhausted quota."""
    param: str = ""
    """The field at fault."""
    retry_after: str = ""
    """Seconds, as in the header."""


_BAD = "invalid_request_error"

FAILURES: dict[str, Failure] = {
    "400": Failure(400, "The request is not valid.", _BAD, None, _BAD, "INVALID_ARGUMENT"),
    "401": Failure(401, "The key is not accepted.", _BAD, "invalid_api_key", "authentication_error", "UNAUTHENTICATED"),
    "no_key": Failure(401, "No key was sent.", _BAD, None, "authentication_error", "UNAUTHENTICATED"),
    "bad_key": Failure(
        401,
        "The key is not accepted.",
        _BAD,
        "invalid_api_key",
        "authentication_error",
        "INVALID_ARGUMENT",
        generate_http=400,
        reason="API_KEY_INVALID",
    ),
    "402": Failure(402, "The balance is used up.", "unknown_error", _BAD, "billing_error", "FAILED_PRECONDITION"),
    "quota": Failure(
        429,
        "The quota of this key is used up; check its plan and billing.",
        "insufficient_quota",
        "insufficient_quota",
        _BAD,
        "RESOURCE_EXHAUSTED",
        messages_status=400,
        messages_message="Your credit balance is too low to use the sandbox with this key.",
        quota_id="GenerateRequestsPerDayPerProjectPerModel-FreeTier",
    ),
    "403": Failure(
        403,
        "This is not allowed here.",
        "permission_error",
        "permission_denied",
        "permission_error",
        "PERMISSION_DENIED",
    ),
    "404": Failure(404, "The model does not exist.", _BAD, "model_not_found", "not_found_error", "NOT_FOUND"),
    "path": Failure(404, "There is nothing at this address.", _BAD, "unknown_url", "not_found_error", "NOT_FOUND"),
    "405": Failure(405, "Not with this method.", _BAD, "method_not_allowed", _BAD, "UNIMPLEMENTED"),
    "408": Failure(
        408, "The request took too long.", "timeout", "request_timeout", "timeout_error", "DEADLINE_EXCEEDED"
    ),
    "409": Failure(409, "The request came in between another.", "conflict", "conflict", "conflict_error", "ABORTED"),
    "413": Failure(
        413, "The request is too large.", _BAD, "request_too_large", "request_too_large", "INVALID_ARGUMENT"
    ),
    "422": Failure(422, "The request cannot be processed.", _BAD, "unprocessable", _BAD, "INVALID_ARGUMENT"),
    "429": Failure(
        429,
        "Too many requests.",
        "requests",
        "rate_limit_exceeded",
        "rate_limit_error",
        "RESOURCE_EXHAUSTED",
        quota_id="GenerateRequestsPerMinutePerProjectPerModel",
    ),
    "500": Failure(500, "Something went wrong.", "server_error", None, "api_error", "INTERNAL"),
    "502": Failure(502, "Bad gateway.", "server_error", None, "api_error", "UNAVAILABLE"),
    "503": Failure(503, "Temporarily unavailable.", "server_error", "unavailable", "api_error", "UNAVAILABLE"),
    "504": Failure(504, "The answer took too long.", "server_error", "timeout", "timeout_error", "DEADLINE_EXCEEDED"),
    "529": Failure(529, "Overloaded.", "server_error", "overloaded", "overloaded_error", "UNAVAILABLE"),
    "context": Failure(
        400,
        "The prompt is longer than the context window of this model.",
        _BAD,
        "context_length_exceeded",
        _BAD,
        "INVALID_ARGUMENT",
        messages_message="prompt is too long for the context window of this model",
        generate_message="The input token count exceeds the maximum number of tokens allowed.",
    ),
    "prompt-refused": Failure(
        400,
        "The prompt was refused by the content filter.",
        _BAD,
        "content_filter",
        _BAD,
        "INVALID_ARGUMENT",
    ),
}


def failure_of(refused: Refused) -> Failure:
    row = FAILURES[refused.kind]
    return replace(
        row, message=refused.message or row.message, param=refused.param or "", retry_after=refused.retry_after or ""
    )


def _http_date(offset_s: int) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=offset_s), usegmt=True)


# Faults that are a 429 with an unusual retry header: its name and value.
RETRY_HEADERS: dict[str, Callable[[], tuple[str, str]]] = {
    "429-date": lambda: ("retry-after", _http_date(30)),
    "429-past": lambda: ("retry-after", _http_date(-3600)),
    "429-negative": lambda: ("retry-after", "-5"),
    "429-text": lambda: ("retry-after", "soon"),
    "429-huge": lambda: ("retry-after", "1000000000"),
    "429-ms": lambda: ("retry-after-ms", "1500"),
    "429-bare": lambda: ("x-no-retry-after", "1"),
}
