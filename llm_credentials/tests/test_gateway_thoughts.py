"""Thoughts in a conversation go back to the model that had them, and to nobody else; the rest of their turns stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import openai
import orjson
import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.core.cache import cache

from llm_credentials import services
from llm_credentials.gateway.thoughts import Unsigned, makers
from llm_credentials.gateway.wires import thoughts
from llm_credentials.models import UserCredential
from llm_credentials.providers import build_client
from llm_credentials.tests.factories import UserCredentialFactory

ASK: Any = [{"role": "user", "content": 'use look with {"city": "Oslo"}'}]
LOOK: Any = [{"name": "look", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}]
THINKING: Any = {"type": "enabled", "budget_tokens": 1024}
THINKER = "sandbox-reasoner"
OTHER_THINKER = "sandbox-reasoner~delay=0"
"""To the sandbox these are two models: each refuses what the other has signed."""


@pytest.fixture
def key(alice: User, sandbox_url: str) -> Callable[..., UserCredential]:
    def make(provider: str, **values: Any) -> UserCredential:
        address = f"{sandbox_url}/v1" if provider == "openai" else sandbox_url
        given = {"key": "sbx-good-0123456789", "model": THINKER, "base_url": address, "name": f"k{len(made)}", **values}
        made.append(UserCredentialFactory(user=alice, provider=provider, **given))
        return made[-1]

    made: list[UserCredential] = []
    return make


@pytest.fixture
def claude(live_site: str, alice: User) -> Iterator[anthropic.Anthropic]:
    token = services.token_create(user=alice, scopes=["gateway"])[1]
    with anthropic.Anthropic(base_url=live_site, api_key=token, max_retries=0) as client:
        yield client


def _turn(claude: anthropic.Anthropic, model: str, messages: Any, *, streamed: bool = False) -> Any:
    asked: Any = {"model": model, "max_tokens": 4000, "messages": messages, "tools": LOOK, "thinking": THINKING}
    if not streamed:
        return claude.messages.create(**asked)
    with claude.messages.stream(**asked) as stream:
        return stream.get_final_message()


def _with_results(answer: Any) -> Any:
    turn = [block.model_dump(exclude_none=True) for block in answer.content]
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": "18 °C"}
        for block in answer.content
        if block.type == "tool_use"
    ]
    return [*ASK, {"role": "assistant", "content": turn}, {"role": "user", "content": results}]


@pytest.mark.parametrize("streamed", [False, True])
def test_thoughts_go_back_to_the_model_that_had_them(
    streamed: bool, claude: anthropic.Anthropic, key: Callable[..., UserCredential]
) -> None:
    key("anthropic")
    answer = _turn(claude, "auto", ASK, streamed=streamed)
    assert [block.type for block in answer.content] == ["thinking", "tool_use"]
    again = _turn(claude, "auto", _with_results(answer), streamed=streamed)
    assert again.content[0].type == "thinking"
    assert "18 °C" in again.content[-1].text


@pytest.mark.parametrize("streamed", [False, True])
def test_thoughts_stay_behind_when_another_model_of_the_wire_goes_on(
    streamed: bool, claude: anthropic.Anthropic, key: Callable[..., UserCredential]
) -> None:
    key("anthropic")
    asked = _with_results(_turn(claude, f"anthropic/{THINKER}", ASK, streamed=streamed))
    again = _turn(claude, f"anthropic/{OTHER_THINKER}", asked, streamed=streamed)
    assert "18 °C" in again.content[-1].text


def test_thoughts_of_nobody_known_stay_behind_after_a_failover(
    claude: anthropic.Anthropic, key: Callable[..., UserCredential]
) -> None:
    key("anthropic", priority=1, model=f"{THINKER}~fault=500")
    key("anthropic", priority=2, model=OTHER_THINKER)
    asked = _with_results(_turn(claude, f"anthropic/{THINKER}", ASK))
    cache.clear()
    raw = claude.messages.with_raw_response.create(
        model="auto", max_tokens=4000, messages=asked, tools=LOOK, thinking=THINKING
    )
    assert raw.headers["x-keyswitch-model"] == OTHER_THINKER
    assert int(raw.headers["x-keyswitch-attempts"]) > 1


def test_thoughts_of_another_wire_never_reach_the_one_that_signs(
    claude: anthropic.Anthropic, key: Callable[..., UserCredential]
) -> None:
    key("openai")
    key("anthropic")
    answer = _turn(claude, f"openai/{THINKER}", ASK)
    assert (answer.content[0].type, answer.content[0].signature) == ("thinking", "")
    asked = _with_results(answer)
    assert "18 °C" in _turn(claude, f"anthropic/{THINKER}", asked).content[-1].text
    signed = _with_results(_turn(claude, f"anthropic/{THINKER}", ASK))
    assert "18 °C" in _turn(claude, f"openai/{THINKER}", signed).content[-1].text


@pytest.mark.parametrize(
    ("provider", "taken"),
    [
        ("openai", set()),
        ("mistral", set()),
        ("deepseek", {"reasoning_content"}),
        ("openai_compatible", {"reasoning_content", "reasoning_details"}),
    ],
)
def test_chat_has_only_the_fields_that_its_provider_takes(provider: str, taken: set[str]) -> None:
    said = {"role": "assistant", "content": "Hm.", "reasoning_content": "Well.", "reasoning_details": [{"type": "x"}]}
    messages = [{"role": "developer", "content": "Be brief."}, *ASK, said, *ASK]

    client = build_client(provider, api_key="key-of-alice", model="a-model", base_url="https://api.example/v1")
    body: Any = client.adapt({"messages": messages, "seed": 1, "tool_choice": "required"}, model="m", stream=False)
    assert body["messages"][2].keys() - {"role", "content"} == taken
    assert body["messages"][0]["role"] == ("developer" if provider == "openai" else "system")
    odd = provider == "mistral"
    assert (body.get("random_seed" if odd else "seed"), body["tool_choice"]) == (1, "any" if odd else "required")


def test_turn_that_was_nothing_but_the_thoughts_of_others_is_left_out() -> None:
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "s"}
    hidden = {"type": "redacted_thinking", "data": "d"}
    call = {"type": "tool_use", "id": "t", "name": "look", "input": {}}
    turns = [
        *ASK,
        {"role": "assistant", "content": [thought]},
        {"role": "assistant", "content": [hidden, call]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}]},
    ]
    data = {"messages": turns, "thinking": THINKING}
    assert list(thoughts.marks_in(turns)) == ["s", "d"]
    assert thoughts.only_own(data, lambda mark: True) == data
    others = thoughts.only_own(data, lambda mark: mark == "s")
    assert others["messages"] == [*turns[:2], {"role": "assistant", "content": [call]}, turns[3]]
    assert "thinking" not in others
    assert len(thoughts.only_own(data, lambda mark: False)["messages"]) == 3
    assert thoughts.only_own({"messages": [None, "x", {"role": "assistant", "content": 7}]}, lambda mark: False)


THOUGHT = "Let me see. "


def _said(**delta: Any) -> bytes:
    return b"data: " + orjson.dumps({"choices": [{"index": 0, "delta": delta}]}) + b"\n\n"


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
@pytest.mark.parametrize("streamed", [False, True])
def test_thoughts_in_chat_are_remembered_by_who_had_them(
    provider: str, streamed: bool, live_site: str, alice: User, key: Callable[..., UserCredential]
) -> None:
    key(provider)
    token = services.token_create(user=alice, scopes=["gateway"])[1]
    with openai.OpenAI(base_url=f"{live_site}/v1", api_key=token, max_retries=0) as chat:
        asked: Any = {"model": "auto", "messages": ASK, "reasoning_effort": "high"}
        if streamed:
            deltas = [chunk.choices[0].delta for chunk in chat.chat.completions.create(**asked, stream=True)]
            thought = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
        else:
            thought = getattr(chat.chat.completions.create(**asked).choices[0].message, "reasoning_content", "")
    if provider == "openai":
        assert thought
    known = async_to_sync(makers)([thought])
    assert known == ({thought: (provider, THINKER)} if thought else {})


def test_thought_beside_the_text_is_known_in_whichever_field_it_comes_back() -> None:
    items = [{"type": "reasoning.text", "text": THOUGHT}, {"type": "reasoning.encrypted", "data": "gAAA"}]
    seen = Unsigned()
    seen.see(_said(content=None, reasoning=THOUGHT[:4], reasoning_details=[{**items[0], "text": THOUGHT[:4]}]))
    seen.see(_said(content="Hm.", reasoning=None))
    seen.see(b": a comment\n\ndata: [DONE]\n\n" + _said(reasoning=THOUGHT[4:], reasoning_details=items[1:]))
    seen.see(b'data: {"choices": [{"delta": {"reasoning": "x"\n\n' + b'data: {"choices": {"reasoning": "x"}}\n\n')
    other = Unsigned()
    other.see(_said(reasoning=THOUGHT))
    assert len(seen.fingerprints) == 2
    assert other.fingerprints[0] in seen.fingerprints

    turns = [
        {"role": "assistant", "content": "Hm.", name: value}
        for name, value in (("reasoning_content", THOUGHT), ("reasoning", THOUGHT), ("reasoning_details", items))
    ]
    assert list(thoughts.marks_in(turns)) == [THOUGHT, THOUGHT, f"{THOUGHT}gAAA"]
    assert thoughts.only_own({"messages": turns}, lambda mark: mark != THOUGHT)["messages"] == [
        *[{"role": "assistant", "content": "Hm."}] * 2,
        turns[2],
    ]
