"""The loop between a model and its tools: call the model, run the tools it calls, return their results, until it
answers. Django-free.

Works with any client that has LLMClient's interface. Yields events; a failing provider raises LLMError. Closing the
generator, or cancelling the task that reads it, closes the provider's stream and ends running tools.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol, assert_never, runtime_checkable

from pydantic import BaseModel, ValidationError

from agents.calling import MAX_TOOL_RESULT_CHARS, Guard, ToolContext, pending, tool_turn
from agents.deadlines import Deadline
from agents.events import (
    NOTHING_SPENT,
    USUAL_LIMITS,
    Done,
    Event,
    Limits,
    Pending,
    Progress,
    Reasoning,
    Spent,
    StepReceipt,
    Stopped,
    StopReason,
    Text,
    ToolEnd,
    ToolStart,
)
from agents.tools import Tool, faults
from llm_credentials.providers import (
    BudgetExceeded,
    LLMMessage,
    LLMResponse,
    LLMStreamChunk,
    ToolCall,
    ToolDefinition,
    ToolResult,
    Usage,
)
from llm_credentials.routing.run_budget import RUN_BUDGET

__all__ = [
    "MAX_TOOL_RESULT_CHARS",
    "NOTHING_SPENT",
    "ChatClient",
    "Done",
    "Event",
    "Guard",
    "Guarded",
    "Limits",
    "Pending",
    "Progress",
    "Reasoning",
    "Spent",
    "StepReceipt",
    "StopReason",
    "Stopped",
    "Text",
    "ToolEnd",
    "ToolStart",
    "estimated_tokens",
    "joined_text",
    "run_loop",
    "tokens_used",
]

BYTES_PER_TOKEN = 3
"""For estimates, if a provider reports no usage; low, so that an estimate errs towards more tokens."""
FENCED = re.compile(r"^```(?:json)?\s*\n(.*)\n```$", re.DOTALL)
"""Models without a JSON mode often wrap their JSON in a code fence."""


class ChatClient(Protocol):
    def stream(
        self,
        messages: Sequence[LLMMessage],
        *,
        tools: Sequence[ToolDefinition] | None = None,
        response_schema: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[LLMStreamChunk, None]: ...


@runtime_checkable
class Guarded(Protocol):
    """A client that knows its user's secrets."""

    async def tripwire(self) -> Guard: ...


@dataclass
class _Work:
    """State of a running loop."""

    deadline: float
    limits: Limits
    tools: Sequence[Tool]
    output: type[BaseModel] | None
    guard: Guard | None
    steps: int
    tokens: int
    cost_usd: Decimal
    added: list[LLMMessage] = field(default_factory=list)
    correction: tuple[LLMMessage, ...] = ()
    """An answer of the wrong shape and what is wrong with it; sent to the model, but not kept in the conversation."""
    text: list[str] = field(default_factory=list)
    """Text of the current answer so far."""
    response: LLMResponse | None = None

    def tool_context(self, approvals: Mapping[str, bool | None] | None = None) -> ToolContext:
        tools = {tool.name: tool for tool in self.tools}
        return ToolContext(tools=tools, deadline=self.deadline, guard=self.guard, approvals=approvals)

    @property
    def spent(self) -> Spent:
        return Spent(steps=self.steps, tokens=self.tokens, cost_usd=self.cost_usd)

    def count(self, response: LLMResponse, conversation: Sequence[LLMMessage]) -> None:
        self.steps += 1
        self.tokens += tokens_used(response.usage, conversation, response.message)
        cost = getattr(getattr(response, "receipt", None), "cost_usd", None)
        self.cost_usd += cost or Decimal(0)

    def used_up(self) -> StopReason | None:
        limits = self.limits
        if self.tokens >= limits.max_tokens:
            return "tokens"
        if limits.max_cost_usd is not None and self.cost_usd >= limits.max_cost_usd:
            return "cost"
        return "steps" if self.steps >= limits.max_steps else None

    def stopped(self, reason: StopReason, asked: tuple[Pending, ...] = ()) -> Stopped:
        partial = "".join(self.text)
        if partial:
            self.added.append(LLMMessage.assistant(partial))
        return Stopped(reason=reason, messages=tuple(self.added), pending=asked, spent=self.spent)


async def run_loop(
    client: ChatClient,
    messages: Sequence[LLMMessage],
    *,
    tools: Sequence[Tool] = (),
    limits: Limits = USUAL_LIMITS,
    guard: Guard | None = None,
    output: type[BaseModel] | None = None,
    approvals: Mapping[str, bool | None] | None = None,
    spent: Spent = NOTHING_SPENT,
) -> AsyncGenerator[Event, None]:
    """Ends with Done or Stopped. Raises LLMError if the model cannot be called or its answer breaks off.

    ``output``: the shape of the final answer; an answer that does not fit is sent back once with the fault.
    ``approvals`` resumes a conversation that stopped for approval (its last message has the calls); ``spent`` is the
    usage up to then.
    """
    clock = asyncio.get_running_loop().time
    work = _Work(
        deadline=clock() + limits.max_seconds,
        limits=limits,
        tools=tools,
        output=output,
        guard=guard,
        steps=spent.steps,
        tokens=spent.tokens,
        cost_usd=spent.cost_usd,
    )
    calls: tuple[ToolCall, ...] = messages[-1].tool_calls if approvals is not None and messages else ()
    while True:
        if calls:
            results: dict[int, ToolResult] = {}
            async with aclosing(tool_turn(calls, work.tool_context(approvals), results)) as turn:
                async for tool_event in turn:
                    yield tool_event
            work.added.append(LLMMessage.tool(results[index] for index in sorted(results)))
            approvals = None
            if clock() >= work.deadline:
                yield work.stopped("seconds")
                return
        if reason := work.used_up():
            yield work.stopped(reason)
            return
        async with aclosing(_model_turn(client, messages, work)) as answer:
            async for event in answer:
                yield event
                if isinstance(event, Done | Stopped):
                    return
        calls = work.response.tool_calls if work.response is not None else ()


async def _model_turn(
    client: ChatClient, messages: Sequence[LLMMessage], work: _Work
) -> AsyncGenerator[Text | Reasoning | StepReceipt | Done | Stopped, None]:
    """One answer of the model; unless it yields Done or Stopped, the loop continues with tools or another answer."""
    conversation = (*messages, *work.added, *work.correction)
    async with aclosing(_answer(client, conversation, work)) as pieces:
        async for event in pieces:
            yield event
            if isinstance(event, Stopped):
                return
    response = work.response
    assert response is not None, "a stream ended without its done chunk"
    work.count(response, conversation)
    yield StepReceipt(step=work.steps, response=response, receipt=getattr(response, "receipt", None))
    work.text.clear()
    if response.tool_calls:
        work.added.append(response.message)
        if reason := work.used_up():
            yield work.stopped(reason)
        elif asked := pending(response.tool_calls, work.tool_context()):
            yield work.stopped("approval", asked)
        return
    output, fault = _read(response, work.output)
    if not fault:
        work.added.append(response.message)
        yield Done(response=response, messages=tuple(work.added), output=output)
    elif work.correction:
        work.added.append(response.message)
        yield work.stopped("output")
    else:
        work.correction = (response.message, LLMMessage.user(f"{fault} Give the whole answer again, as fitting JSON."))


def _read(response: LLMResponse, output: type[BaseModel] | None) -> tuple[BaseModel | None, str]:
    """The parsed answer, or what is wrong with it."""
    if output is None:
        return None, ""
    text = response.text.strip()
    if fenced := FENCED.match(text):
        text = fenced[1]
    try:
        return output.model_validate_json(text), ""
    except ValidationError as error:
        return None, f"That answer does not have the shape that was asked for: {faults(error)}."


async def _answer(
    client: ChatClient, conversation: Sequence[LLMMessage], work: _Work
) -> AsyncGenerator[Text | Reasoning | Stopped, None]:
    """Streams the model's answer into ``work``."""
    work.response = None
    definitions = [tool.definition for tool in work.tools] or None
    seconds_left = work.deadline - asyncio.get_running_loop().time()
    schema = {} if work.output is None else {"response_schema": work.output.model_json_schema()}
    # Our own deadline must come first: reaching a limit is not the provider's failure.
    chunks = client.stream(conversation, tools=definitions, timeout_s=seconds_left + 5, **schema)
    room_bytes = (work.limits.max_tokens - work.tokens) * BYTES_PER_TOKEN
    deadline = Deadline(work.deadline)
    try:
        while True:
            try:
                with deadline:
                    chunk = await anext(chunks, None)
            except TimeoutError:
                yield work.stopped("seconds")
                return
            except BudgetExceeded as refusal:
                if refusal.code != RUN_BUDGET:
                    raise
                yield work.stopped("cost")
                return
            if chunk is None:
                return
            if chunk.type == "done":
                work.response = chunk.response
                return
            if event := _event_of(chunk):
                text = event.text
                if event.type == "text":
                    work.text.append(text)
                yield event
                room_bytes -= len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
            if room_bytes < 0:
                yield work.stopped("tokens")
                return
    finally:
        deadline.close()
        await chunks.aclose()


def _event_of(chunk: LLMStreamChunk) -> Text | Reasoning | None:
    match chunk.type:
        case "delta":
            return Text(text=chunk.text)
        case "reasoning":
            return Reasoning(text=chunk.text)
        case "tool_call" | "done":
            return None  # read from the complete response
    assert_never(chunk.type)


def tokens_used(usage: Usage, conversation: Sequence[LLMMessage], answer: LLMMessage) -> int:
    """Input and output tokens of one call; estimated if the provider reported none."""
    sent, got = usage.input_tokens, usage.output_tokens
    if sent is None:
        sent = sum(estimated_tokens(message) for message in conversation)
    return sent + (estimated_tokens(answer) if got is None else got)


def estimated_tokens(message: LLMMessage) -> int:
    """A rough estimate that errs upwards: bytes of text over three, a thousand for an image, a few for the frame."""
    size = 0
    for part in message.parts:
        if hasattr(part, "text"):
            size += len(part.text.encode("utf-8", "replace"))
        elif isinstance(part, ToolCall):
            size += len(part.name) + len(repr(part.arguments)) + len(part.invalid_arguments or "")
        elif isinstance(part, ToolResult):
            size += len(part.content.encode("utf-8", "replace"))
        else:
            size += 1000 * BYTES_PER_TOKEN
    return size // BYTES_PER_TOKEN + 4


def joined_text(messages: Sequence[LLMMessage]) -> str:
    """The visible text of these answers: no tool traffic, no reasoning; a blank line between steps."""
    texts = [message.text for message in messages if message.role == "assistant"]
    return "\n\n".join(text for text in texts if text.strip())
