"""One conversation that changes its provider after every turn of a tool loop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import permutations
from typing import Any

import pytest

from llm_credentials.providers import (
    EgressPolicy,
    ImagePart,
    LLMClient,
    LLMMessage,
    LLMResponse,
    ReasoningPart,
    ToolDefinition,
    ToolResult,
    build_client,
    transport,
)
from llm_credentials.providers.calls import make_call
from llm_credentials.providers.sandbox.running import running_sandbox
from llm_credentials.providers.sandbox.server import SandboxOptions
from llm_credentials.providers.sandbox.wires.messages import signature

WIRES = {"openai": "/v1", "anthropic": "", "gemini": ""}
TURNS = 6
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x02\x00\x00\x00\x02\x08\x02\x00\x00\x00" + b"\0" * 16
WEATHER = ToolDefinition(
    name="get_weather",
    description="The weather of a city",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
TIME = ToolDefinition(name="get_time", description="The time", parameters={"type": "object", "properties": {}})
SIGNATURE = signature("Panes.", "sandbox-reasoner")
THOUGHTS = [
    ReasoningPart(text="A window.", details={"openai": {"field": "reasoning_content"}}),
    ReasoningPart(text="Panes.", details={"anthropic": {"signature": SIGNATURE}}),
    ReasoningPart(text="Glass.", details={"gemini": {"signature": "c2ln"}}),
]
"""What each of them thought once; the sandbox refuses a thought in this format that it did not sign."""


@pytest.fixture
async def sandbox() -> AsyncIterator[str]:
    async with running_sandbox(options=SandboxOptions(delay_ms=0, slow_s=0)) as url:
        yield url
        await transport.close_connections()


def client_of(provider: str, sandbox: str) -> LLMClient:
    return build_client(
        provider,
        api_key="sbx-good-0123456789",
        model="sandbox-reasoner",
        base_url=sandbox + WIRES[provider],
        egress=EgressPolicy(allow=frozenset({sandbox.removeprefix("http://")})),
    )


async def answer(client: LLMClient, history: list[LLMMessage], *, stream: bool, **more: Any) -> LLMResponse:
    if not stream:
        return await client.complete(history, **more)
    last = [chunk async for chunk in client.stream(history, **more)][-1].response
    assert last is not None
    return last


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("first", "second"), list(permutations(WIRES, 2)))
async def test_tool_loop_goes_on_when_the_provider_changes_after_every_turn(
    first: str, second: str, stream: bool, sandbox: str
) -> None:
    clients = [client_of(first, sandbox), client_of(second, sandbox)]
    history = [
        LLMMessage.system("You help with the weather."),
        LLMMessage.user("Here is my window."),
        LLMMessage.assistant([*THOUGHTS, *LLMMessage.assistant("A nice window.").parts]),
        LLMMessage.user([*LLMMessage.user("Call get_weather and get_time").parts, image()]),
    ]
    for turn in range(TURNS - 1):
        response = await answer(
            clients[turn % 2], history, stream=stream, tools=[WEATHER, TIME], tool_choice="required"
        )
        assert response.finish_reason == "tool_calls"
        assert [call.name for call in response.tool_calls] == ["get_weather", "get_time"]
        results = [
            ToolResult(call_id=call.id, name=call.name, content=f"turn {turn}: {call.name}", is_error=turn == 2)
            for call in response.tool_calls
        ]
        history += [response.message, LLMMessage.tool(results)]
        assert_details_stay_at_home(history, {first, second})
    response = await answer(clients[(TURNS - 1) % 2], history, stream=stream, tools=[WEATHER, TIME])
    assert response.finish_reason == "stop"
    assert f"turn {TURNS - 2}: get_weather" in response.text


def image() -> ImagePart:
    return ImagePart(data=PNG, media_type="image/png")


def assert_details_stay_at_home(history: list[LLMMessage], providers: set[str]) -> None:
    for message in history:
        for part in message.parts:
            assert part in THOUGHTS or set(getattr(part, "details", {})) <= providers


SIGNED = {"anthropic": SIGNATURE, "gemini": "c2ln"}


@pytest.mark.parametrize("provider", WIRES)
def test_signatures_go_to_their_own_provider_only(provider: str) -> None:
    client = build_client(provider, api_key="sbx-good-0123456789", model="sandbox-reasoner")
    history = [
        LLMMessage.user("Hello"),
        LLMMessage.assistant([*THOUGHTS, *LLMMessage.assistant("Hi.").parts]),
        LLMMessage.user("Again"),
    ]
    call = make_call(
        client,
        history,
        tools=None,
        tool_choice=None,
        response_schema=None,
        model=None,
        max_tokens=None,
        temperature=None,
        top_p=None,
        stop=None,
        seed=None,
    )
    body = str(client.encode(call, stream=False)[1])
    assert {owner for owner, value in SIGNED.items() if value in body} == {provider} & SIGNED.keys()
