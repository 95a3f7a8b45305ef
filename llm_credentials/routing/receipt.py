"""The receipt of an answer: every attempt, its cost, and who paid."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal, TypeAlias
from uuid import UUID

from llm_credentials.providers import Embeddings, LLMResponse

KeyOwner: TypeAlias = Literal["user", "system"]
OK = "ok"
CANCELLED = "cancelled"
"""The caller left before the answer was complete."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    provider: str
    model: str
    credential_id: UUID | None
    """``None``: a key of the site from the environment."""
    key_owner: KeyOwner
    outcome: str
    """``ok``, ``cancelled`` or the error's class name."""
    latency_ms: int

    def as_json(self) -> dict[str, Any]:
        return {
            "provider": self.provider,
            "model": self.model,
            "credential_id": str(self.credential_id) if self.credential_id else None,
            "key_owner": self.key_owner,
            "outcome": self.outcome,
            "latency_ms": self.latency_ms,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    attempts: list[Attempt] = field(default_factory=list)
    """In the order in which they were made; includes keys that could not be decrypted."""
    cost_usd: Decimal | None = None
    """Of all attempts together; ``None``: unknown."""
    price_source: str | None = None
    reason: str = ""
    """Why this candidate was chosen, in words."""
    estimated: bool = False
    """Whether tokens and cost are an estimate because a provider did not report usage."""

    @property
    def answered_by(self) -> Attempt | None:
        """The attempt that answered, at least in part."""
        return self.attempts[-1] if self.attempts else None

    def as_json(self) -> dict[str, Any]:
        return {
            "attempts": [attempt.as_json() for attempt in self.attempts],
            "cost_usd": None if self.cost_usd is None else str(self.cost_usd),
            "price_source": self.price_source,
            "reason": self.reason,
            "estimated": self.estimated,
        }


@dataclass(frozen=True, kw_only=True)
class RoutedResponse(LLMResponse):
    receipt: Receipt


@dataclass(frozen=True, kw_only=True, slots=True)
class RoutedEmbeddings(Embeddings):
    receipt: Receipt


left_behind: ContextVar[list[RoutedResponse] | None] = ContextVar("left_behind", default=None)
"""A caller's list that collects answers whose reader left early: the partial answer and the receipt.

There is nobody left to return them to.
"""
