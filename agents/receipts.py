"""Receipts and errors as the JSON that rows store and pages show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from agents.loop import StopReason
from llm_credentials.audit import AuditUnavailable
from llm_credentials.providers import LLMError, LLMResponse, Usage
from llm_credentials.providers.usage import add
from llm_credentials.routing.receipt import CANCELLED, OK, Receipt

MAX_ATTEMPTS = 50


def receipt_json(responses: Sequence[LLMResponse], receipts: Sequence[Receipt | None]) -> dict[str, Any] | None:
    """One receipt for all model calls of an answer; provider and model are the last call's. None without any call.

    ``{"provider", "model", "key_owner", "finish_reason", "steps", "usage": {"input_tokens", …}, "cost_usd": str|None,
    "price_source", "reason", "estimated", "attempts": [{"provider", "model", "credential_id", "key_owner", "outcome",
    "latency_ms"}]}``
    """
    known = [receipt for receipt in receipts if receipt is not None]
    attempts = [attempt.as_json() for receipt in known for attempt in receipt.attempts]
    if not responses:
        return {"attempts": attempts} if attempts else None
    last = responses[-1]
    return {
        "provider": last.provider,
        "model": last.model,
        "key_owner": next((a["key_owner"] for a in reversed(attempts) if a["outcome"] in (OK, CANCELLED)), None),
        "finish_reason": last.finish_reason,
        "steps": len(responses),
        "usage": usage_json(response.usage for response in responses),
        "cost_usd": _total_cost(known) if len(known) == len(responses) else None,
        "price_source": known[-1].price_source if known else None,
        "reason": known[-1].reason if known else "",
        "estimated": any(receipt.estimated for receipt in known),
        "attempts": attempts[-MAX_ATTEMPTS:],
    }


def _total_cost(receipts: Iterable[Receipt]) -> str | None:
    """Exact, as text; None if any part is unknown."""
    total = Decimal(0)
    for receipt in receipts:
        if receipt.cost_usd is None:
            return None
        total += receipt.cost_usd
    return str(total)


def merged_receipt(before: dict[str, Any] | None, after: dict[str, Any] | None) -> dict[str, Any] | None:
    """One receipt for an answer or run that was interrupted and continued."""
    if before is None or after is None:
        return after or before
    costs = [Decimal(part["cost_usd"]) for part in (before, after) if part.get("cost_usd") is not None]
    usages = [part["usage"] for part in (before, after) if part.get("usage")]
    merged = {**before, **after}
    merged["attempts"] = [*before.get("attempts", ()), *after.get("attempts", ())][-MAX_ATTEMPTS:]
    merged["steps"] = before.get("steps", 0) + after.get("steps", 0)
    merged["usage"] = {name: add(*(usage[name] for usage in usages)) for name in usages[0]} if usages else None
    merged["cost_usd"] = str(sum(costs, Decimal(0))) if len(costs) == 2 else None
    merged["estimated"] = bool(before.get("estimated") or after.get("estimated"))
    return merged


def usage_json(usages: Iterable[Usage]) -> dict[str, int | None]:
    every = list(usages)
    names = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")
    return {name: add(*(getattr(usage, name) for usage in every)) for name in names}


def error_json(error: LLMError) -> dict[str, Any]:
    """The fields of an error as every surface shows them. Uses our own words only, never the provider's text."""
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


def site_error(name: str, words: str) -> dict[str, Any]:
    """The same fields for errors that are not the provider's."""
    nothing = dict.fromkeys(("provider", "status_code", "request_id", "retry_after_s"))
    return {"class": name, "message": words, "user_message": words, **nothing, "retryable": True}


_LIMIT_WORDS: Mapping[StopReason, str] = {
    "steps": gettext_noop("An answer may not take as many steps as this one would have; it was ended here."),
    "tokens": gettext_noop("An answer may not use as many tokens as this one would have; it was ended here."),
    "seconds": gettext_noop("An answer may not take as long as this one would have; it was ended here."),
    "cost": gettext_noop("The next call would have cost more than was left; it was ended here."),
    "output": gettext_noop(
        "The model answered twice in a shape that this agent cannot use. Try again, or with another model."
    ),
}
_LIMIT_CLASSES: Mapping[StopReason, str] = {"output": "OutputInvalid"}


def limit_error(reason: StopReason) -> dict[str, Any]:
    return site_error(_LIMIT_CLASSES.get(reason, "LimitReached"), _(_LIMIT_WORDS[reason]))


AUDIT_UNAVAILABLE = site_error("AuditUnavailable", AuditUnavailable.user_message)
INTERNAL_ERROR = site_error(
    "InternalError", gettext_noop("Something went wrong on this site. What was written is kept; try again.")
)
