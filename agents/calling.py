"""Executes the tool calls of one answer concurrently. Django-free."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from agents.events import Pending, Progress, ToolEnd, ToolStart
from agents.progress import listener
from agents.tools import Tool, ToolError
from llm_credentials.providers import ToolCall, ToolResult

MAX_TOOL_RESULT_CHARS = 32_000
MAX_SAID = 200
"""Progress lines per turn; further ones are dropped."""
GRACE_S = 2.0
"""How long a cancelled tool may take to end."""

DENIED = "The user said no to this call; it was not made. Do not ask for it again: go on without it."
UNSURE = (
    "This call was begun and then broke off: it may have been made or not. Do not make it again; tell the user to look."
)


class Guard(Protocol):
    """Knows secrets that must neither be passed to tools nor returned to a model."""

    def name_in(self, text: str) -> str | None:
        """Name of the first secret in the text; None if there is none."""
        ...

    def redacted(self, text: str) -> str: ...


@dataclass(frozen=True, kw_only=True)
class ToolContext:
    """What tool calls need to run."""

    tools: Mapping[str, Tool]
    deadline: float
    guard: Guard | None = None
    approvals: Mapping[str, bool | None] | None = None
    """The user's decisions by call id; ``None`` for a call that an earlier attempt may have made. A missing one is a
    no.
    """

    def secret_in(self, call: ToolCall) -> str | None:
        if self.guard is None:
            return None
        return self.guard.name_in(json.dumps(call.arguments, default=str, ensure_ascii=False))

    def asks(self, call: ToolCall) -> bool:
        """Whether the user has to approve it first. False for calls that are refused anyway."""
        tool = self.tools.get(call.name)
        if tool is None or not tool.needs_approval or call.invalid_arguments is not None:
            return False
        return tool.fits(call.arguments) and self.secret_in(call) is None


def pending(calls: Sequence[ToolCall], context: ToolContext) -> tuple[Pending, ...]:
    """The calls that need the user's approval."""
    asked = [call for call in calls if context.asks(call)]
    tools = context.tools
    return tuple(
        Pending(call=call, description=tools[call.name].definition.description, access=tools[call.name].access)
        for call in asked
    )


async def tool_turn(
    calls: Sequence[ToolCall], context: ToolContext, results: dict[int, ToolResult]
) -> AsyncGenerator[ToolStart | ToolEnd | Progress, None]:
    """Run all calls concurrently; ``results`` receives each answer under the index of its call."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    happened: asyncio.Queue[ToolEnd | Progress] = asyncio.Queue()
    listener_of_turn = _listener(happened, context, loop)
    twice = {call_id for call_id, times in Counter(call.id for call in calls).items() if times > 1}

    async def work(index: int, call: ToolCall) -> None:
        listener.set(listener_of_turn)
        try:
            result = await _run_tool(call, context, is_twice=call.id in twice)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            result = _failed(call, "The tool failed (CancelledError).")  # the tool cancelled itself
        results[index] = result
        happened.put_nowait(ToolEnd(result=result, latency_ms=round((loop.time() - began) * 1000)))

    tasks: list[asyncio.Task[None]] = []
    try:
        for index, call in enumerate(calls):
            yield ToolStart(call=call)
            tasks.append(asyncio.create_task(work(index, call)))
        left = len(calls)
        while left:
            try:
                async with asyncio.timeout_at(max(context.deadline, began) + GRACE_S):
                    event = await happened.get()
            except TimeoutError:
                break  # cancelled, but still running
            left -= isinstance(event, ToolEnd)
            yield event
        for index, call in enumerate(calls):
            if index not in results:
                results[index] = _failed(call, "The tool did not finish in the time that was left.")
                yield ToolEnd(result=results[index], latency_ms=round((loop.time() - began) * 1000))
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=GRACE_S)


def _listener(
    happened: asyncio.Queue[ToolEnd | Progress], context: ToolContext, loop: asyncio.AbstractEventLoop
) -> Callable[[str], None]:
    room = MAX_SAID

    def put(text: str) -> None:
        nonlocal room
        if room > 0:
            room -= 1
            happened.put_nowait(Progress(text=context.guard.redacted(text) if context.guard else text))

    def hear(text: str) -> None:
        try:
            here = asyncio.get_running_loop() is loop
        except RuntimeError:
            here = False
        if here:
            put(text)
        elif not loop.is_closed():
            loop.call_soon_threadsafe(put, text)

    return hear


async def _run_tool(call: ToolCall, context: ToolContext, *, is_twice: bool) -> ToolResult:
    """The tool's answer, or an error message for the model. Raises nothing but cancellation."""
    guard = context.guard
    try:
        if secret := context.secret_in(call):
            raise ToolError(f"The arguments contain {secret}; the tool was not called. Call it without that.")
        if context.asks(call):
            _check_approval(call, context, is_twice=is_twice)
        answer = await _tool_answer(call, context)
        return ToolResult(call_id=call.id, name=call.name, content=guard.redacted(answer) if guard else answer)
    except ToolError as error:
        text = str(error)
    except TimeoutError:
        text = "The tool did not finish in the time that was left."
    except Exception as error:  # show its class only: its text may hold secrets
        text = f"The tool failed ({type(error).__name__})."
    return _failed(call, guard.redacted(text) if guard else text)


def _failed(call: ToolCall, text: str) -> ToolResult:
    return ToolResult(call_id=call.id, name=call.name, content=text, is_error=True)


def _check_approval(call: ToolCall, context: ToolContext, *, is_twice: bool) -> None:
    """Raises ToolError unless the user approved this very call."""
    answers: Mapping[str, Any] = context.approvals or {}
    answer = answers.get(call.id, False)
    if is_twice:
        raise ToolError("Two calls of one answer have the same id, so neither can be approved. Make one at a time.")
    if answer is None:
        raise ToolError(UNSURE)
    if answer is not True:
        raise ToolError(DENIED)


async def _tool_answer(call: ToolCall, context: ToolContext) -> str:
    if call.name not in context.tools:
        names = ", ".join(sorted(context.tools)) or "none"
        raise ToolError(f"There is no tool named {call.name!r}. There are: {names}.")
    if call.invalid_arguments is not None:
        raise ToolError("The arguments were not a JSON object. Call the tool again with valid JSON.")
    async with asyncio.timeout_at(context.deadline):
        answer = await context.tools[call.name](call.arguments)
    if len(answer) > MAX_TOOL_RESULT_CHARS:
        cut = len(answer) - MAX_TOOL_RESULT_CHARS
        return f"{answer[:MAX_TOOL_RESULT_CHARS]}\n[{cut} more characters were left out]"
    return answer
