from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest

from agents.loop import Done, Event, Limits, Reasoning, StepReceipt, Stopped, Text, ToolEnd, ToolStart, run_loop
from agents.tests.scripted import Answer, ScriptedClient, call
from agents.tools import ToolError, tool
from llm_credentials.providers import (
    LLMMessage,
    LLMStreamChunk,
    RateLimited,
    StreamInterrupted,
    ToolCall,
    ToolResult,
    Usage,
)

DEFAULT = Limits()
QUESTION = (LLMMessage.user("How much is 2 and 3?"),)


@tool
async def add(a: int, b: int) -> str:
    """Add two whole numbers."""
    return str(a + b)


@tool
async def long_text() -> str:
    """A very long text."""
    return "x" * 40_000


@tool
async def refuse() -> str:
    """Always refuses."""
    raise ToolError("Not on a Sunday.")


@tool
async def explode() -> str:
    """Fails with a secret in its exception."""
    raise RuntimeError("sk-secret")


async def events_of(client: ScriptedClient, limits: Limits = DEFAULT) -> list[Event]:
    tools = (add, long_text, refuse, explode)
    return [event async for event in run_loop(client, QUESTION, tools=tools, limits=limits)]


def results_of(events: list[Event]) -> list[ToolResult]:
    return [event.result for event in events if isinstance(event, ToolEnd)]


async def test_loop_streams_text_then_receipt_then_done() -> None:
    client = ScriptedClient(Answer(text=["Fi", "ve"], receipt="paid"))
    events = await events_of(client)
    assert events[:2] == [Text(text="Fi"), Text(text="ve")]
    assert isinstance(events[2], StepReceipt)
    assert (events[2].step, events[2].receipt) == (1, "paid")
    assert isinstance(events[3], Done)
    assert events[3].messages == (LLMMessage.assistant("Five"),)
    assert [event.type for event in events] == ["text", "text", "receipt", "done"]


async def test_loop_runs_tools_and_gives_their_results_back() -> None:
    client = ScriptedClient(Answer(text=["Let me see."], calls=[call("add", a=2, b=3)]), "Five.")
    events = await events_of(client)
    assert [event.type for event in events] == [
        *("text", "receipt", "tool_start", "tool_result"),
        *("text", "receipt", "done"),
    ]
    assert client.asked[1][-1] == LLMMessage.tool(ToolResult(call_id="c1", name="add", content="5"))
    assert isinstance(events[-1], Done)
    assert [message.role for message in events[-1].messages] == ["assistant", "tool", "assistant"]
    assert client.tools[0] is not None
    assert {definition.name for definition in client.tools[0]} == {"add", "long_text", "refuse", "explode"}


async def test_loop_keeps_the_details_of_messages() -> None:
    signed = replace(call("add", a=1, b=1), details={"gemini": {"signature": "s"}})
    client = ScriptedClient(Answer(calls=[signed]), "Two.")
    await events_of(client)
    assert client.asked[1][-2].tool_calls[0].details == {"gemini": {"signature": "s"}}


async def test_loop_runs_the_calls_of_one_answer_side_by_side() -> None:
    both = asyncio.Barrier(2)

    @tool
    async def meet(name: str) -> str:
        """Waits for the other."""
        await both.wait()
        return name

    calls = [call("meet", "c1", name="Ann"), call("meet", "c2", name="Ben")]
    client = ScriptedClient(Answer(calls=calls), "Met.")
    async with asyncio.timeout(5):
        events = [event async for event in run_loop(client, QUESTION, tools=(meet,))]
    assert [event.call.id for event in events if isinstance(event, ToolStart)] == ["c1", "c2"]
    assert [result.content for result in client.asked[1][-1].tool_results] == ["Ann", "Ben"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (call("add", a="two", b=3), "arguments do not fit: a:"),
        (call("add", a=2, b=3, c=4), "arguments do not fit: c:"),
        (call("sub", a=1, b=1), "There is no tool named 'sub'. There are: add, explode, long_text, refuse."),
        (ToolCall(id="c1", name="add", arguments={}, invalid_arguments='{"a": 2,'), "not a JSON object"),
        (call("refuse"), "Not on a Sunday."),
        (call("explode"), "The tool failed (RuntimeError)."),
    ],
    ids=["wrong type", "unknown argument", "unknown tool", "no JSON", "tool error", "exception"],
)
async def test_loop_gives_a_failing_tool_back_to_the_model(given: ToolCall, words: str) -> None:
    client = ScriptedClient(Answer(calls=[given]), "I see.")
    events = await events_of(client)
    (result,) = client.asked[1][-1].tool_results
    assert result.is_error
    assert words in result.content
    assert "sk-secret" not in result.content
    assert isinstance(events[-1], Done)


async def test_loop_cuts_a_long_tool_result() -> None:
    client = ScriptedClient(Answer(calls=[call("long_text")]), "Long.")
    (result,) = results_of(await events_of(client))
    assert result.content.endswith("\n[8000 more characters were left out]")


async def test_loop_stops_at_its_number_of_steps() -> None:
    client = ScriptedClient(*[Answer(calls=[call("add", a=1, b=1)])] * 5)
    events = await events_of(client, Limits(max_steps=2))
    assert isinstance(events[-1], Stopped)
    assert events[-1].reason == "steps"
    assert len(client.asked) == 2
    # The last calls were not run: nobody would have read their results.
    assert len(results_of(events)) == 1


async def test_loop_stops_when_its_tokens_are_used() -> None:
    client = ScriptedClient(
        *[Answer(calls=[call("add", a=1, b=1)], usage=Usage(input_tokens=90, output_tokens=20))] * 5
    )
    events = await events_of(client, Limits(max_tokens=100))
    assert isinstance(events[-1], Stopped)
    assert events[-1].reason == "tokens"
    assert len(client.asked) == 1


async def test_loop_estimates_tokens_that_nobody_counted() -> None:
    client = ScriptedClient(*[Answer(text=["x" * 260], calls=[call("add", a=1, b=1)], usage=Usage())] * 5)
    events = await events_of(client, Limits(max_tokens=100))
    assert isinstance(events[-1], Stopped)
    assert len(client.asked) == 1


async def test_loop_stops_an_answer_without_end() -> None:
    client = ScriptedClient(Answer(text=["x" * 100] * 50, hangs=True))
    events = await events_of(client, Limits(max_tokens=300))
    assert isinstance(events[-1], Stopped)
    assert events[-1].reason == "tokens"
    assert events[-1].messages[-1].text == "x" * 1000
    assert client.closed == 1


async def test_loop_stops_when_its_time_is_up_and_keeps_the_text() -> None:
    client = ScriptedClient(Answer(text=["So far"], hangs=True))
    events = await events_of(client, Limits(max_seconds=0.05))
    assert events[-1] == Stopped(reason="seconds", messages=(LLMMessage.assistant("So far"),))
    assert client.closed == 1


async def test_loop_ends_a_tool_that_outlasts_its_time() -> None:
    @tool
    async def sleep() -> str:
        """Never ends."""
        await asyncio.Event().wait()
        return ""

    client = ScriptedClient(Answer(calls=[call("sleep")]), "never asked")
    events = [event async for event in run_loop(client, QUESTION, tools=(sleep,), limits=Limits(max_seconds=0.05))]
    assert "did not finish in the time" in results_of(events)[0].content
    assert isinstance(events[-1], Stopped)
    assert len(client.asked) == 1


async def test_loop_passes_provider_errors_on() -> None:
    client = ScriptedClient(Answer(error=RateLimited(retry_after_s=3)))
    with pytest.raises(RateLimited):
        await events_of(client)


async def test_loop_passes_a_cut_stream_on_after_its_text() -> None:
    seen: list[Event] = []
    client = ScriptedClient(Answer(text=["Half an"], error=StreamInterrupted()))
    with pytest.raises(StreamInterrupted):
        async for event in run_loop(client, QUESTION):
            seen.append(event)
    assert seen == [Text(text="Half an")]


async def test_loop_shows_reasoning_apart() -> None:
    class Thinker(ScriptedClient):
        async def stream(self, messages, *, tools=None, timeout_s=None):  # type: ignore[no-untyped-def]
            yield LLMStreamChunk(type="reasoning", text="Hmm")
            yield LLMStreamChunk(type="done", response=self._response(Answer(text=["Five"])))

    events = await events_of(Thinker())
    assert events[0] == Reasoning(text="Hmm")


async def test_loop_closed_in_mid_answer_closes_the_stream() -> None:
    client = ScriptedClient(Answer(text=["one", "two"], hangs=True))
    async with aclosing(run_loop(client, QUESTION)) as events:
        assert await anext(events) == Text(text="one")
    assert client.closed == 1


async def test_loop_cancelled_while_waiting_closes_the_stream() -> None:
    client = ScriptedClient(Answer(hangs=True))

    async def read() -> None:
        async for _ in run_loop(client, QUESTION):
            pass

    task = asyncio.create_task(read())
    await client.hanging.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert client.closed == 1


async def test_loop_closed_while_tools_run_cancels_them() -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    @tool
    async def wait() -> str:
        """Waits."""
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return ""

    async def read() -> None:
        async for _ in run_loop(ScriptedClient(Answer(calls=[call("wait")])), QUESTION, tools=(wait,)):
            pass

    task = asyncio.create_task(read())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled.is_set()


def test_tool_describes_itself_by_signature_and_docstring() -> None:
    assert add.definition.name == "add"
    assert add.definition.description == "Add two whole numbers."
    assert add.definition.parameters["properties"]["a"]["type"] == "integer"
    assert add.definition.parameters["required"] == ["a", "b"]


def test_tool_refuses_a_function_that_says_too_little() -> None:
    async def silent(a: int) -> str:
        return str(a)

    async def untyped(a) -> str:  # type: ignore[no-untyped-def]
        """Has no type."""
        return str(a)

    with pytest.raises(TypeError, match="docstring"):
        tool(silent)
    with pytest.raises(TypeError, match="parameter a"):
        tool(untyped)


async def test_tool_default_arguments_may_be_left_out() -> None:
    @tool
    async def greet(name: str, greeting: str = "Hello") -> str:
        """Greet."""
        return f"{greeting} {name}"

    assert await greet({"name": "Ann"}) == "Hello Ann"
    assert greet.definition.parameters["required"] == ["name"]
