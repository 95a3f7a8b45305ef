"""Receipts and errors as the JSON that stands in rows and goes to pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from llm_credentials.providers import LLMError, LLMResponse, Usage
from llm_credentials.providers.usage import add

MAX_ATTEMPTS = 50


def receipt_json(responses: Sequence[LLMResponse], receipts: Sequence[Any]) -> dict[str, Any] | None:
    """Of one answer, all its model calls together; the last one names provider and model. None without any call.

    ``{"provider", "model", "key_owner", "finish_reason", "steps", "usage": {"input_tokens", …}, "cost_usd": str|None,
    "price_source", "reason", "attempts": [{"provider", "model", "credential_id", "key_owner", "outcome",
    "latency_ms"}]}``
    """
    known = [receipt for receipt in receipts if receipt is not None]
    attempts = [attempt for receipt in known for attempt in attempts_json(receipt)]
    if not responses:
        return {"attempts": attempts} if attempts else None
    last = responses[-1]
    return {
        "provider": last.provider,
        "model": last.model,
        "key_owner": next((a["key_owner"] for a in reversed(attempts) if a["outcome"] == "ok"), None),
        "finish_reason": last.finish_reason,
        "steps": len(responses),
        "usage": usage_json(response.usage for response in responses),
        "cost_usd": _total_cost(known) if len(known) == len(responses) else None,
        "price_source": getattr(known[-1], "price_source", None) if known else None,
        "reason": str(getattr(known[-1], "reason", "") or "") if known else "",
        "attempts": attempts[-MAX_ATTEMPTS:],
    }


def attempts_json(receipt: Any) -> list[dict[str, Any]]:
    return [
        {
            "provider": attempt.provider,
            "model": attempt.model,
            "credential_id": None if attempt.credential_id is None else str(attempt.credential_id),
            "key_owner": attempt.key_owner,
            "outcome": attempt.outcome,
            "latency_ms": attempt.latency_ms,
        }
        for attempt in receipt.attempts
    ]


def _total_cost(receipts: Iterable[Any]) -> str | None:
    """Exact, as text; None as soon as one part is unknown."""
    total = Decimal(0)
    for receipt in receipts:
        if receipt.cost_usd is None:
            return None
        total += Decimal(str(receipt.cost_usd))
    return str(total)


def usage_json(usages: Iterable[Usage]) -> dict[str, int | None]:
    every = list(usages)
    names = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")
    return {name: add(*(getattr(usage, name) for usage in every)) for name in names}


def error_json(error: LLMError) -> dict[str, Any]:
    """The fields of an error as every surface shows them. Our own words only: nothing of what the provider sent."""
    return {
        "class": type(error).__name__,
        "message": str(error),
        "user_message": error.user_message,
        "provider": error.provider,
        "status_code": error.status_code,
        "request_id": error.request_id,
        "retry_after_s": error.retry_after_s,
        "retryable": error.retryable,
    }


INTERNAL_ERROR: dict[str, Any] = {
    "class": "InternalError",
    "message": "Something went wrong on this site.",
    "user_message": "Something went wrong on this site. What was written is kept; try again.",
    "provider": None,
    "status_code": None,
    "request_id": None,
    "retry_after_s": None,
    "retryable": True,
}
