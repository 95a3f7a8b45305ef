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
    """Input and output of all steps together, as the providers count them."""
    max_seconds: float = 300.0
    """Of work; while a run waits for its user, no time passes."""
    max_cost_usd: Decimal | None = None
    """Of all steps together. A call whose worst case does not fit any more is not made; one whose price nobody knows
    counts as nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spent:
    """What counts against the limits so far."""

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
    """What a tool says about its work (``agents.progress.say``)."""

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
    """One model call has ended. Comes once a step, before its tools run."""

    type: ClassVar = "receipt"
    step: int
    response: LLMResponse
    receipt: Any
    """The router's Receipt; None with a client that keeps none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pending:
    """A call that is made only if the user says yes."""

    call: ToolCall
    description: str
    """What its tool says of itself."""
    access: Access


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    type: ClassVar = "done"
    response: LLMResponse
    messages: tuple[LLMMessage, ...]
    """What the loop added to the conversation: answers, tool results, the final answer."""
    output: BaseModel | None = None
    """The answer in the shape that was asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stopped:
    """A limit was reached, or the user is asked. The text so far counts; it is the last message where there is any."""

    type: ClassVar = "stopped"
    reason: StopReason
    messages: tuple[LLMMessage, ...]
    """With ``approval`` the last one is the model's, with the calls; none of them has been made."""
    pending: tuple[Pending, ...] = ()
    spent: Spent = NOTHING_SPENT


Event: TypeAlias = Text | Reasoning | Progress | ToolStart | ToolEnd | StepReceipt | Done | Stopped
