"""The failover table: for each error, whether to retry the same key, try the next one, or stop."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from llm_credentials.providers import (
    AuthenticationFailed,
    BadProviderResponse,
    ConnectionFailed,
    ContextLengthExceeded,
    CredentialUnreadable,
    DeadlineExceeded,
    EgressBlocked,
    LLMError,
    ModelNotFound,
    PermissionDenied,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
    StreamInterrupted,
    UnsupportedContent,
)
from llm_credentials.routing.values import Candidate

Again: TypeAlias = Literal["never", "once", "if soon"]

RETRY_AFTER_S = (0.05, 0.15)
"""The pause before retrying the same candidate, drawn uniformly from this range."""
SOON_S = 2.0
BLAMED_FROM_S = 10.0
"""A missed deadline counts against a destination only if it had at least this long."""


@dataclass(frozen=True, slots=True)
class Rule:
    again: Again
    next: bool
    health: Literal["breaker", "cooldown"] | None = None


STOP = Rule("never", next=False)
RULES: Mapping[type[LLMError], Rule] = {
    LLMError: STOP,
    ProviderUnavailable: Rule("once", next=True, health="breaker"),
    ConnectionFailed: Rule("once", next=True, health="breaker"),
    DeadlineExceeded: Rule("never", next=True, health="breaker"),
    BadProviderResponse: Rule("once", next=True, health="breaker"),
    RateLimited: Rule("if soon", next=True, health="cooldown"),
    QuotaExhausted: Rule("never", next=True),
    AuthenticationFailed: Rule("never", next=True),
    CredentialUnreadable: Rule("never", next=True),
    PermissionDenied: Rule("never", next=True),
    ModelNotFound: Rule("never", next=True),
    UnsupportedContent: Rule("never", next=True),
    ContextLengthExceeded: Rule("never", next=True),
}
NEVER_SENT = (CredentialUnreadable, EgressBlocked)
PERHAPS_CHARGED = (DeadlineExceeded, BadProviderResponse, StreamInterrupted)
"""The provider may have done the work, and may charge for it, without a proper answer."""


def perhaps_charged(error: LLMError) -> bool:
    """Includes an answer that was cut off before any content: the model may have been thinking."""
    return isinstance(error, PERHAPS_CHARGED) or (isinstance(error, ConnectionFailed) and error.answered)


def rule(error: LLMError) -> Rule:
    return next(RULES[cls] for cls in type(error).__mro__ if cls in RULES)


def pause_after(verdict: Rule, error: LLMError) -> float | None:
    """How long to wait before retrying the same candidate; None: do not retry."""
    match verdict.again:
        case "once":
            return random.uniform(*RETRY_AFTER_S)  # noqa: S311 (spreads retries; no secret)
        case "if soon" if error.retry_after_s is not None and error.retry_after_s <= SOON_S:
            return max(error.retry_after_s, 0.0)
        case _:
            return None


def can(other: Candidate, failed: Candidate, error: LLMError) -> bool:
    """Whether another candidate may succeed where this one could not."""
    if not isinstance(error, ModelNotFound | UnsupportedContent | ContextLengthExceeded):
        return True
    if (other.key.destination, other.model) == (failed.key.destination, failed.model):
        # Another key may have access to a model that this one lacks; no key enlarges a model's context.
        return isinstance(error, ModelNotFound) and other.key.ref != failed.key.ref
    if not isinstance(error, ContextLengthExceeded):
        return True
    window = other.facts.context_window if other.facts else None
    too_small = failed.facts.context_window if failed.facts else None
    return window is None or too_small is None or window > too_small


def stayed_here(error: LLMError | None) -> bool:
    """Whether the request was rejected before it was sent."""
    return isinstance(error, NEVER_SENT) or (isinstance(error, RequestRejected) and error.status_code is None)
