"""The ledger's pen: one row for every attempt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from llm_credentials.models import UsageRecord
from llm_credentials.providers import Usage
from llm_credentials.routing.receipt import KeyOwner

State = UsageRecord.State


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One attempt, as it is known before it is made."""

    id: UUID = field(default_factory=uuid4)
    call_id: UUID
    user_id: Any
    task: str
    provider: str
    model: str
    credential_id: UUID | None
    key_owner: KeyOwner


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How it ended. ``state`` says how far the numbers can be trusted."""

    state: UsageRecord.State
    outcome: str
    latency_ms: int
    ttft_ms: int | None = None
    usage: Usage


def settle(entry: Entry, outcome: Outcome) -> None:
    """Write the attempt's row."""
    usage = outcome.usage
    UsageRecord.objects.create(
        id=entry.id,
        call_id=entry.call_id,
        user_id=entry.user_id,
        task=entry.task,
        provider=entry.provider,
        model=entry.model,
        credential_id=entry.credential_id,
        key_owner=entry.key_owner,
        state=outcome.state,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        latency_ms=outcome.latency_ms,
        ttft_ms=outcome.ttft_ms,
        outcome=outcome.outcome,
    )
