"""The loop between a model and its tools: ask, run what it calls, give it the results, until it answers. Django-free.

Works on any client with LLMClient's surface. What happens is yielded as events; a failing provider raises LLMError, as
everywhere. Closing the generator, or cancelling the task that reads it, closes the provider's stream and ends tools.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, assert_never, runtime_checkable

from agents.tools import Tool, ToolError
from llm_credentials.providers import (
    LLMMessage,
    LLMResponse,
    LLMStreamChunk,
    ToolCall,
    ToolDefinition,
    ToolResult,
    Usage,
)

BYTES_PER_TOKEN = 3
"""For estimates only, where a provider does not count; low, so that an estimate errs towards more tokens."""
MAX_TOOL_RESULT_CHARS = 32_000

StopReason: TypeAlias = Literal["steps", "tokens", "seconds"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    max_steps: int = 8
    """Model calls."""
    max_tokens: int = 200_000
    """Input and output of all steps together, as the providers count them."""
    max_seconds: float = 300.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    type: ClassVar = "text"
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Reasoning:
    type: ClassVar = "reasoning"
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
class Done:
    type: ClassVar = "done"
    response: LLMResponse
    messages: tuple[LLMMessage, ...]
    """What the loop added to the conversation: answers, tool results, the final answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stopped:
    """A limit was reached. The text so far counts; it is the last message where there is any."""

    type: ClassVar = "stopped"
    reason: StopReason
    messages: tuple[LLMMessage, ...]


Event: TypeAlias = Text | Reasoning | ToolStart | ToolEnd | StepReceipt | Done | Stopped


class ChatClient(Protocol):
    def stream(
        self,
        messages: Sequence[LLMMessage],
        *,
        tools: Sequence[ToolDefinition] | None = None,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[LLMStreamChunk, None]: ...


class Guard(Protocol):
    """Knows secrets that tools must neither be given nor give to a model."""

    def name_in(self, text: str) -> str | None:
        """What the first secret in it is called; None when there is none."""
        ...

    def redacted(self, text: str) -> str: ...


@runtime_checkable
class Guarded(Protocol):
    """A client that knows its user's secrets."""

    async def tripwire(self) -> Guard: ...


@dataclass
class _Progress:
    """What is known while the loop runs."""

    deadline: float
    limits: Limits
    guard: Guard | None = None
    added: list[LLMMessage] = field(default_factory=list)
    tokens: int = 0
    text: list[str] = field(default_factory=list)
    """The pieces of the answer that is being read."""
    response: LLMResponse | None = None

    def stopped(self, reason: StopReason) -> Stopped:
        partial = "".join(self.text)
        if partial:
            self.added.append(LLMMessage.assistant(partial))
        return Stopped(reason=reason, messages=tuple(self.added))


async def run_loop(
    client: ChatClient,
    messages: Sequence[LLMMessage],
    *,
    tools: Sequence[Tool] = (),
    limits: Limits = Limits(),
    guard: Guard | None = None,
) -> AsyncGenerator[Event, None]:
    """Ends with Done or Stopped. Raises LLMError when the model cannot be asked or its answer breaks off."""
    clock = asyncio.get_running_loop().time
    progress = _Progress(deadline=clock() + limits.max_seconds, limits=limits, guard=guard)
    by_name = {tool.name: tool for tool in tools}
    for step in range(1, limits.max_steps + 1):
        conversation = (*messages, *progress.added)
        async with aclosing(_model_turn(client, conversation, tools, progress)) as turn:
            async for event in turn:
                yield event
                if isinstance(event, Stopped):
                    return
        response = progress.response
        assert response is not None, "a stream ended without its done chunk"
        yield StepReceipt(step=step, response=response, receipt=getattr(response, "receipt", None))
        progress.added.append(response.message)
        progress.text.clear()
        progress.tokens += tokens_used(response.usage, conversation, response.message)
        if not response.tool_calls:
            yield Done(response=response, messages=tuple(progress.added))
            return
        if step == limits.max_steps or progress.tokens >= limits.max_tokens:
            break
        results: dict[int, ToolResult] = {}
        async with aclosing(_tool_turn(response.tool_calls, by_name, progress, results)) as work:
            async for tool_event in work:
                yield tool_event
        progress.added.append(LLMMessage.tool(results[index] for index in sorted(results)))
        if clock() >= progress.deadline:
            yield progress.stopped("seconds")
            return
    yield progress.stopped("tokens" if progress.tokens >= limits.max_tokens else "steps")


async def _model_turn(
    client: ChatClient, conversation: Sequence[LLMMessage], tools: Sequence[Tool], progress: _Progress
) -> AsyncGenerator[Text | Reasoning | Stopped, None]:
    """One answer of the model, into ``progress``."""
    progress.response = None
    definitions = [tool.definition for tool in tools] or None
    seconds_left = progress.deadline - asyncio.get_running_loop().time()
    # Our own deadline comes first: a limit that is reached is no failure of the provider.
    chunks = client.stream(conversation, tools=definitions, timeout_s=seconds_left + 5)
    room_bytes = (progress.limits.max_tokens - progress.tokens) * BYTES_PER_TOKEN
    try:
        while True:
            try:
                async with asyncio.timeout_at(progress.deadline):
                    chunk = await anext(chunks, None)
            except TimeoutError:
                yield progress.stopped("seconds")
                return
            if chunk is None:
                return
            if chunk.type == "done":
                progress.response = chunk.response
                return
            if event := _event_of(chunk):
                if isinstance(event, Text):
                    progress.text.append(event.text)
                yield event
                room_bytes -= len(event.text.encode("utf-8", "replace"))
            if room_bytes < 0:
                yield progress.stopped("tokens")
                return
    finally:
        await chunks.aclose()


def _event_of(chunk: LLMStreamChunk) -> Text | Reasoning | None:
    match chunk.type:
        case "delta":
            return Text(text=chunk.text)
        case "reasoning":
            return Reasoning(text=chunk.text)
        case "tool_call" | "done":
            return None  # read from the whole response
    assert_never(chunk.type)


async def _tool_turn(
    calls: Sequence[ToolCall], tools: dict[str, Tool], progress: _Progress, results: dict[int, ToolResult]
) -> AsyncGenerator[ToolStart | ToolEnd, None]:
    """Run all calls at once; ``results`` receives each answer under the index of its call."""
    clock = asyncio.get_running_loop().time
    began = clock()
    tasks: dict[asyncio.Task[ToolResult], int] = {}
    try:
        for index, call in enumerate(calls):
            yield ToolStart(call=call)
            tasks[asyncio.create_task(_run_tool(call, tools, progress))] = index
        waiting = set(tasks)
        while waiting:
            finished, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(finished, key=lambda task: tasks[task]):
                results[tasks[task]] = task.result()
                yield ToolEnd(result=task.result(), latency_ms=round((clock() - began) * 1000))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _run_tool(call: ToolCall, tools: dict[str, Tool], progress: _Progress) -> ToolResult:
    """The tool's answer, or what went wrong, in words for the model. Never raises but for cancellation."""
    guard = progress.guard
    try:
        if guard and (secret := guard.name_in(json.dumps(call.arguments, default=str, ensure_ascii=False))):
            raise ToolError(f"The arguments contain {secret}; the tool was not called. Call it without that.")
        answer = await _tool_answer(call, tools, progress.deadline)
        return ToolResult(call_id=call.id, name=call.name, content=guard.redacted(answer) if guard else answer)
    except ToolError as error:
        text = str(error)
    except TimeoutError:
        text = "The tool did not finish in the time that was left."
    except Exception as error:  # its text may hold secrets; its class does not
        text = f"The tool failed ({type(error).__name__})."
    return ToolResult(call_id=call.id, name=call.name, content=guard.redacted(text) if guard else text, is_error=True)


async def _tool_answer(call: ToolCall, tools: dict[str, Tool], deadline: float) -> str:
    if call.name not in tools:
        raise ToolError(f"There is no tool named {call.name!r}. There are: {', '.join(sorted(tools)) or 'none'}.")
    if call.invalid_arguments is not None:
        raise ToolError("The arguments were not a JSON object. Call the tool again with valid JSON.")
    async with asyncio.timeout_at(deadline):
        answer = await tools[call.name](call.arguments)
    if len(answer) > MAX_TOOL_RESULT_CHARS:
        cut = len(answer) - MAX_TOOL_RESULT_CHARS
        return f"{answer[:MAX_TOOL_RESULT_CHARS]}\n[{cut} more characters were left out]"
    return answer


def tokens_used(usage: Usage, conversation: Sequence[LLMMessage], answer: LLMMessage) -> int:
    """Input and output tokens of one call; estimated where the provider did not say."""
    sent, got = usage.input_tokens, usage.output_tokens
    if sent is None:
        sent = sum(estimated_tokens(message) for message in conversation)
    return sent + (estimated_tokens(answer) if got is None else got)


def estimated_tokens(message: LLMMessage) -> int:
    """A rough count that errs upwards: bytes of text over three, a thousand for an image, a few for the frame."""
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
    """The text that a reader sees of these answers: no tool traffic, no reasoning; a blank line between steps."""
    texts = [message.text for message in messages if message.role == "assistant"]
    return "\n\n".join(text for text in texts if text.strip())
