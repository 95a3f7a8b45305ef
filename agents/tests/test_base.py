from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User

from agents import catalog, context, registry
from agents.base import Agent
from agents.catalog.conversation import ConversationAgent
from agents.loop import Limits
from agents.tests.scripted import Answer, ScriptedClient, call
from agents.tools import tool
from llm_credentials.providers import (
    ContextLengthExceeded,
    LLMMessage,
    RateLimited,
    ReasoningPart,
    StreamInterrupted,
    TextPart,
    ToolCall,
    ToolResult,
)
from llm_credentials.routing import kinds

NOBODY: Any = User(username="nobody")

POET = """
from agents.base import Agent

class PoetAgent(Agent):
    slug = "poet"
    title = "Poet"
    description = "Writes verse."
    weight = "heavy"
    instructions = "Answer in verse."
"""


@tool
async def add(a: int, b: int) -> str:
    """Add two whole numbers."""
    return str(a + b)


class Adder(Agent):
    slug = "adder"
    title = "Adder"
    description = "Adds."
    instructions = "Use the tool."
    tools = (add,)
    limits = Limits(max_steps=2)


async def test_agent_sends_instructions_then_history_then_the_prompt() -> None:
    client = ScriptedClient("Paris.")
    history = [LLMMessage.user("Hi"), LLMMessage.assistant("Hello.")]
    result = await ConversationAgent(NOBODY, client=client).run("Capital of France?", history=history)
    (asked,) = client.asked
    assert [message.role for message in asked] == ["system", "user", "assistant", "user"]
    assert asked[0].text.startswith("You are a helpful, careful assistant")
    assert result.text == "Paris."
    assert result.messages == (*history, LLMMessage.user("Capital of France?"), LLMMessage.assistant("Paris."))
    assert result.stopped is None


async def test_agent_with_tools_gives_all_text_and_every_receipt() -> None:
    client = ScriptedClient(
        Answer(text=["Let me see."], calls=[call("add", a=1, b=1)], receipt="first"),
        Answer(text=["Two."], receipt="second"),
    )
    result = await Adder(NOBODY, client=client).run("1 + 1?")
    assert result.text == "Let me see.\n\nTwo."
    assert result.receipts == ("first", "second")
    assert result.receipt == "second"
    assert [message.role for message in result.messages] == ["user", "assistant", "tool", "assistant"]


async def test_agent_says_which_limit_ended_it() -> None:
    client = ScriptedClient(*[Answer(text=["Hm."], calls=[call("add", a=1, b=1)])] * 3)
    result = await Adder(NOBODY, client=client).run("1 + 1?")
    assert result.stopped == "steps"
    assert result.response is not None


async def test_agent_passes_a_failure_on() -> None:
    with pytest.raises(RateLimited):
        await ConversationAgent(NOBODY, client=ScriptedClient(Answer(error=RateLimited()))).run("Hi")


async def test_agent_halves_the_history_until_it_fits() -> None:
    too_long = Answer(error=ContextLengthExceeded())
    client = ScriptedClient(too_long, too_long, "Fine.")
    history = [LLMMessage.user("x" * 3000), LLMMessage.assistant("y" * 3000)] * 4
    result = await ConversationAgent(NOBODY, client=client).run("Hi", history=history)
    assert result.text == "Fine."
    assert [len(asked) for asked in client.asked] == [10, 6, 4]
    assert len(result.messages) == 10


async def test_agent_gives_up_when_the_prompt_alone_is_too_long() -> None:
    client = ScriptedClient(Answer(error=ContextLengthExceeded()))
    with pytest.raises(ContextLengthExceeded):
        await ConversationAgent(NOBODY, client=client).run("x" * 1000)


async def test_agent_never_asks_again_once_something_was_said() -> None:
    client = ScriptedClient(Answer(text=["Half"], error=StreamInterrupted()))
    with pytest.raises(StreamInterrupted):
        await ConversationAgent(NOBODY, client=client).run("Hi", history=[LLMMessage.user("a")])
    assert len(client.asked) == 1


def test_agents_are_found_in_the_catalogue() -> None:
    assert ConversationAgent in registry.agents()
    assert registry.get_agent("conversation") is ConversationAgent
    with pytest.raises(registry.UnknownAgent):
        registry.get_agent("nobody")


def test_agents_are_known_to_the_router() -> None:
    kind = kinds.get("conversation")
    assert kind is not None
    assert (kind.label, kind.weight) == ("Conversation", "light")


@pytest.fixture
def drawer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A further folder of the catalogue; the registry is read afresh before and after."""
    monkeypatch.setattr(catalog, "__path__", [*catalog.__path__, str(tmp_path)])
    registry.agents.cache_clear()
    importlib.invalidate_caches()
    yield tmp_path
    monkeypatch.undo()
    registry.agents.cache_clear()


async def test_adding_an_agent_is_one_file(drawer: Path) -> None:
    (drawer / "poet_dropped_in.py").write_text(POET)
    poet = registry.get_agent("poet")
    client = ScriptedClient("Roses are red.")
    assert (await poet(NOBODY, client=client).run("Flowers?")).text == "Roses are red."
    assert client.asked[0][0].text == "Answer in verse."


def test_two_agents_of_one_slug_are_refused(drawer: Path) -> None:
    (drawer / "twin_dropped_in.py").write_text(POET.replace('"poet"', '"conversation"'))
    with pytest.raises(ValueError, match="share the slug 'conversation'"):
        registry.agents()


@pytest.mark.parametrize("agent", registry.agents())
def test_agent_is_complete(agent: type[Agent]) -> None:
    assert agent.slug.replace("_", "").isalnum()
    assert agent.title
    assert agent.description.endswith(".")
    assert agent.examples
    assert agent.system_prompt().strip()
    assert agent.all_needs() <= kinds.NEEDS


def exchange(number: int, size: int = 300) -> list[LLMMessage]:
    return [LLMMessage.user(f"{number}" * size), LLMMessage.assistant("a" * size)]


def test_trim_keeps_the_newest_whole_exchanges() -> None:
    history = [message for number in range(5) for message in exchange(number)]
    kept = context.trim(history, max_tokens=450)
    assert kept == tuple(history[-4:])
    assert context.trim(history, max_tokens=10) == ()
    assert context.trim([], max_tokens=10) == ()


def test_trim_never_parts_a_tool_result_from_its_call() -> None:
    history = [
        *exchange(1),
        LLMMessage.user("use it"),
        LLMMessage.assistant([ToolCall(id="c", name="add", arguments={})]),
        LLMMessage.tool(ToolResult(call_id="c", name="add", content="x" * 300)),
        LLMMessage.assistant("done"),
    ]
    assert context.trim(history, max_tokens=150) == tuple(history[2:])
    assert context.trim(history, max_tokens=100) == ()


def test_size_counts_what_a_model_reads() -> None:
    assert context.size([LLMMessage.user("x" * 300)]) == 104
    assert context.size([LLMMessage.assistant([ReasoningPart(text="x" * 30), TextPart(text="y" * 30)])]) == 24
