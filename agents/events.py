"""Events of the loop between a model and its tools, as values. Django-free."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar, Literal, TypeAlias

from pydantic import BaseModel

from agents.tools import Access
from llm_credentials.providers import LLMMessage, LLMResponse, ToolCall, ToolResult

StopReason: TypeAlias = Literal["steps", "tokens", "seconds", "cost", "output", "approval"]
"""The first four are limits; ``output``: the answer had the wrong shape twice; ``approval``: the user is asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    max_steps: int = 8
    """Model calls."""
    max_tokens: int = 200_000
    """Input and output of all steps together, as reported by the providers."""
    max_seconds: float = 300.0
    """Working time; waiting for the user does not count."""
    max_cost_usd: Decimal | None = None
    """For all steps together. A call whose worst case would exceed it is not made; a call of unknown price counts as
    zero.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class Spent:
    """Usage so far that counts against the limits."""

    steps: int = 0
    tokens: int = 0
    cost_usd: Decimal = Decimal(0)


USUAL_LIMITS = Limits()
NOTHING_SPENT = Spent()


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    type: ClassVar = "text"
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Reasoning:
    type: ClassVar = "reasoning"
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """A tool's progress message (``agents.progress.say``)."""

    type: ClassVar = "progress"
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolStart:
    type: ClassVar = "tool_start"
    call: ToolCall


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolEnd:
    type: ClassVar = "tool_result"
    result: ToolResult
    latency_ms: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReceipt:
    """A model call has ended. Sent once per step, before its tools run."""

    type: ClassVar = "receipt"
    step: int
    response: LLMResponse
    receipt: Any
    """The router's Receipt; None if the client has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pending:
    """A call that needs the user's approval."""

    call: ToolCall
    description: str
    """The tool's own description."""
    access: Access


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    type: ClassVar = "done"
    response: LLMResponse
    messages: tuple[LLMMessage, ...]
    """Messages added to the conversation: answers, tool results, the final answer."""
    output: BaseModel | None = None
    """The answer in the requested shape."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stopped:
    """A limit was reached, or the user is asked. Any text so far is kept as the last message."""

    type: ClassVar = "stopped"
    reason: StopReason
    messages: tuple[LLMMessage, ...]
    """With ``approval``, the last one is the model's message with the calls; none of them has been made."""
    pending: tuple[Pending, ...] = ()
    spent: Spent = NOTHING_SPENT


Event: TypeAlias = Text | Reasoning | Progress | ToolStart | ToolEnd | StepReceipt | Done | Stopped
