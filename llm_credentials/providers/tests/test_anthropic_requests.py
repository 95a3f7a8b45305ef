"""What is sent on the messages wire."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest

from llm_credentials.providers import (
    ImagePart,
    LLMMessage,
    LLMResponse,
    ReasoningPart,
    RequestRejected,
    TextPart,
    ToolCall,
    ToolDefinition,
    ToolResult,
    UnsupportedContent,
    get_spec,
)
from llm_credentials.providers.tests.answering import Answering, answering, of_json

OLD, CURRENT, OTHER = "claude-sonnet-4-5", "claude-sonnet-5-5", "some-gateway-model"
PNG = b"\x89PNG\r\n\x1a\n"
HELLO = [LLMMessage.user("Hello")]
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
WEATHER = ToolDefinition(
    name="get_weather", description="Weather of a city", parameters={"type": "object", "properties": {}}
)
ANSWER = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "the-model",
    "content": [{"type": "text", "text": "Hi."}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 3, "output_tokens": 2},
}


@pytest.fixture
async def server() -> AsyncIterator[Answering]:
    async with answering(of_json(ANSWER)) as server:
        yield server


async def sent(server: Answering, messages: list[LLMMessage], model: str = OLD, **more: Any) -> Any:
    await server.client("anthropic", model=model).complete(messages, **more)
    return server.asked[-1].json


async def test_request_has_address_key_and_version(server: Answering) -> None:
    await server.client("anthropic", model=OLD).complete(HELLO)
    asked = server.asked[-1]
    assert (asked.method, asked.path) == ("POST", "/v1/messages")
    assert asked.headers["authorization"] == "Bearer key-of-alice"
    assert asked.headers["x-api-key"] == "key-of-alice"
    assert asked.headers["anthropic-version"]
    assert asked.headers["content-type"] == "application/json"


def test_official_address_gets_the_key_once_only() -> None:
    from llm_credentials.providers import build_client

    client = build_client("anthropic", api_key="key-of-alice", model=OLD)
    assert "x-api-key" not in client.forward_headers()
    assert client.forward_headers()["authorization"] == "Bearer key-of-alice"
    assert client.forward_url("/v1/messages") == "https://api.anthropic.com/v1/messages"


async def test_system_messages_stand_apart(server: Answering) -> None:
    body = await sent(server, [LLMMessage.system("Be brief."), *HELLO, LLMMessage.system("Be kind.")])
    assert body["system"] == "Be brief.\n\nBe kind."
    assert body["messages"] == [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]


async def test_neighbours_of_one_role_become_one_message(server: Answering) -> None:
    body = await sent(
        server, [LLMMessage.user("One"), LLMMessage.user("Two"), LLMMessage.assistant("A"), LLMMessage.user("Three")]
    )
    assert [(message["role"], len(message["content"])) for message in body["messages"]] == [
        ("user", 2),
        ("assistant", 1),
        ("user", 1),
    ]


async def test_blank_text_is_left_out(server: Answering) -> None:
    body = await sent(server, [LLMMessage.user("Hello"), LLMMessage.assistant(" \n"), LLMMessage.user("Again")])
    assert [block["text"] for block in body["messages"][0]["content"]] == ["Hello", "Again"]


async def test_system_prompt_alone_is_refused_before_anything_is_sent(server: Answering) -> None:
    with pytest.raises(RequestRejected):
        await sent(server, [LLMMessage.system("Be brief.")])
    assert not server.asked


async def test_tool_traffic_keeps_its_ids_and_errors(server: Answering) -> None:
    body = await sent(
        server,
        [
            *HELLO,
            LLMMessage.assistant([ToolCall(id="toolu_1", name="get_weather", arguments={"city": "Oslo"})]),
            LLMMessage.tool(
                [
                    ToolResult(call_id="toolu_1", name="get_weather", content="no such city", is_error=True),
                ]
            ),
            LLMMessage.user("Go on"),
        ],
        tools=[WEATHER],
    )
    assert body["messages"][1]["content"] == [
        {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Oslo"}}
    ]
    assert body["messages"][2]["content"] == [
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": "no such city", "is_error": True},
        {"type": "text", "text": "Go on"},
    ]


async def test_foreign_tool_ids_are_mapped_alike_in_call_and_result(server: Answering) -> None:
    body = await sent(
        server,
        [
            *HELLO,
            LLMMessage.assistant([ToolCall(id="call:0/ä", name="get_weather", arguments={})]),
            LLMMessage.tool(ToolResult(call_id="call:0/ä", name="get_weather", content="18 °C")),
        ],
        tools=[WEATHER],
    )
    wire_id = body["messages"][1]["content"][0]["id"]
    assert wire_id.startswith("toolu_")
    assert body["messages"][2]["content"][0]["tool_use_id"] == wire_id


async def test_tools_of_the_history_are_declared_when_none_are_offered(server: Answering) -> None:
    body = await sent(
        server,
        [
            *HELLO,
            LLMMessage.assistant([ToolCall(id="a", name="get_weather", arguments={})]),
            LLMMessage.tool(ToolResult(call_id="a", name="get_weather", content="18")),
        ],
    )
    assert [tool["name"] for tool in body["tools"]] == ["get_weather"]
    assert body["tool_choice"] == {"type": "none"}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, None),
        ("auto", {"type": "auto"}),
        ("none", {"type": "none"}),
        ("required", {"type": "any"}),
        ("get_weather", {"type": "tool", "name": "get_weather"}),
    ],
)
async def test_tool_choice_has_the_wires_words(server: Answering, choice: str | None, expected: Any) -> None:
    body = await sent(server, HELLO, tools=[WEATHER], tool_choice=choice)
    assert body.get("tool_choice") == expected
    assert body["tools"] == [
        {
            "name": "get_weather",
            "description": "Weather of a city",
            "input_schema": {"type": "object", "properties": {}},
        }
    ]


async def test_model_that_cannot_be_forced_is_asked_in_words(server: Answering) -> None:
    body = await sent(server, HELLO, CURRENT, tools=[WEATHER], tool_choice="get_weather")
    assert body["tool_choice"] == {"type": "auto"}
    assert "get_weather" in body["system"]


async def test_thinking_is_shown_where_the_model_thinks_anyway(server: Answering) -> None:
    shown = {"type": "adaptive", "display": "summarized"}
    assert (await sent(server, HELLO, CURRENT))["thinking"] == shown
    assert (await sent(server, HELLO, "claude-opus-5", tools=[WEATHER]))["thinking"] == shown
    assert "thinking" not in await sent(server, HELLO, "claude-opus-5", tools=[WEATHER], tool_choice="required")
    assert "thinking" not in await sent(server, HELLO, OLD)
    assert "thinking" not in await sent(server, HELLO, OTHER)


async def test_tool_with_a_name_the_wire_refuses_is_unsupported(server: Answering) -> None:
    with pytest.raises(UnsupportedContent):
        await sent(server, HELLO, tools=[ToolDefinition(name="get weather", description="", parameters={})])


async def test_images_go_as_bytes_or_address(server: Answering) -> None:
    data = base64.b64encode(PNG).decode()
    body = await sent(
        server,
        [
            LLMMessage.user(
                [
                    ImagePart(data=PNG, media_type="image/png"),
                    ImagePart(url="https://example.com/cat.png"),
                    ImagePart(url=f"data:image/png;base64,{data}"),
                ]
            )
        ],
    )
    inline = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
    assert body["messages"][0]["content"] == [
        inline,
        {"type": "image", "source": {"type": "url", "url": "https://example.com/cat.png"}},
        inline,
    ]


@pytest.mark.parametrize(
    "message",
    [
        LLMMessage.user([ImagePart(data=b"II*", media_type="image/tiff")]),
        LLMMessage.user([ImagePart(url="file:///etc/passwd")]),
        LLMMessage.assistant([ImagePart(data=PNG, media_type="image/png")]),
        LLMMessage.user([ToolCall(id="a", name="x", arguments={})]),
        LLMMessage.user([ReasoningPart(text="x")]),
        LLMMessage.assistant([ToolResult(call_id="a", name="x", content="")]),
        LLMMessage(role="tool", parts=(TextPart(text="x"),)),
        LLMMessage(role="system", parts=(ImagePart(data=PNG, media_type="image/png"),)),
    ],
)
async def test_part_that_the_wire_cannot_carry_is_unsupported(server: Answering, message: LLMMessage) -> None:
    with pytest.raises(UnsupportedContent):
        await sent(server, [*HELLO, message])
    assert not server.asked


@pytest.mark.parametrize(
    ("model", "asked_for", "expected"),
    [
        (OLD, None, 64_000),
        (OLD, 500, 500),
        ("claude-sonnet-4-5-20250929", None, 64_000),
        ("claude-3-opus-20240229", 100_000, 4_096),
        (OTHER, None, 4_096),
        (OTHER, 100_000, 100_000),
    ],
)
async def test_max_tokens_is_always_there(server: Answering, model: str, asked_for: int | None, expected: int) -> None:
    body = await sent(server, HELLO, model, max_tokens=asked_for)
    assert body["max_tokens"] == expected


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (OLD, {"temperature": 0.3}),
        (OTHER, {"temperature": 0.3}),
        (CURRENT, {}),
        ("claude-opus-4-7", {}),
        ("claude-not-yet-known", {}),
    ],
)
async def test_temperature_is_left_out_for_models_that_refuse_it(
    server: Answering, model: str, expected: dict[str, float]
) -> None:
    body = await sent(server, HELLO, model, temperature=0.3, top_p=0.9)
    assert {name: body[name] for name in ("temperature", "top_p") if name in body} == expected


async def test_temperature_ends_at_one(server: Answering) -> None:
    assert (await sent(server, HELLO, temperature=1.7))["temperature"] == 1.0


async def test_top_p_goes_alone(server: Answering) -> None:
    assert (await sent(server, HELLO, top_p=0.9))["top_p"] == 0.9


async def test_stop_sequences_are_sent(server: Answering) -> None:
    assert (await sent(server, HELLO, stop=["END", "STOP"]))["stop_sequences"] == ["END", "STOP"]


async def test_schema_goes_natively_where_the_model_can(server: Answering) -> None:
    body = await sent(server, HELLO, response_schema=SCHEMA)
    assert body["output_config"]["format"] == {
        "type": "json_schema",
        "schema": {**SCHEMA, "additionalProperties": False},
    }
    assert "tools" not in body


async def test_schema_becomes_a_forced_tool_elsewhere() -> None:
    used = {"type": "tool_use", "id": "t", "name": "answer", "input": {"n": 7}}
    async with answering(of_json({**ANSWER, "content": [used], "stop_reason": "tool_use"})) as server:
        client = server.client("anthropic", model="claude-3-opus-20240229")
        response = await client.complete(HELLO, response_schema=SCHEMA)
        body = server.asked[-1].json
    assert body["tool_choice"] == {"type": "tool", "name": "answer"}
    assert body["tools"][0]["input_schema"] == SCHEMA
    assert (response.text, response.finish_reason, response.tool_calls) == ('{"n":7}', "stop", ())


async def test_schema_tool_stands_beside_the_callers_tools(server: Answering) -> None:
    answer = ToolDefinition(name="answer", description="", parameters={"type": "object"})
    body = await sent(server, HELLO, "claude-3-opus-20240229", tools=[answer], response_schema=SCHEMA)
    assert [tool["name"] for tool in body["tools"]] == ["answer", "answer_"]
    assert body["tool_choice"] == {"type": "any"}


async def test_schema_that_does_not_fit_natively_becomes_a_tool(server: Answering) -> None:
    untyped = {"type": "object", "properties": {"n": {}}}
    body = await sent(server, HELLO, response_schema=untyped)
    assert body["tools"][0]["input_schema"] == untyped
    assert body["tool_choice"] == {"type": "tool", "name": "answer"}
    body = await sent(server, HELLO, CURRENT, response_schema=untyped)
    assert body["tool_choice"] == {"type": "auto"}
    assert "by calling the tool answer." in body["system"]


async def test_tool_schema_is_compiled_for_the_wire(server: Answering) -> None:
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$ref": "#/$defs/a", "$defs": {"a": SCHEMA}}
    body = await sent(server, HELLO, tools=[ToolDefinition(name="x", description="", parameters=schema)])
    assert body["tools"][0]["input_schema"] == SCHEMA


async def thinking_answer(*blocks: dict[str, Any]) -> LLMResponse:
    async with answering(of_json({**ANSWER, "content": [*blocks, {"type": "text", "text": "Hi."}]})) as server:
        return await server.client("anthropic", model=OLD).complete(HELLO)


async def test_thinking_goes_back_signed_to_its_own_model_only(server: Answering) -> None:
    blocks = [
        {"type": "thinking", "thinking": "Hm.", "signature": "sig=="},
        {"type": "redacted_thinking", "data": "xyz"},
    ]
    response = await thinking_answer(*blocks)
    assert response.reasoning == "Hm."
    history = [*HELLO, response.message, LLMMessage.user("Go on")]
    assert (await sent(server, history))["messages"][1]["content"] == [*blocks, {"type": "text", "text": "Hi."}]
    assert (await sent(server, history, CURRENT))["messages"][1]["content"] == [{"type": "text", "text": "Hi."}]


async def test_reasoning_of_another_provider_is_not_sent(server: Answering) -> None:
    foreign = LLMMessage.assistant(
        [
            ReasoningPart(text="Secretly", details={"gemini": {"signature": "x"}}),
            TextPart(text="Hi.", details={"gemini": {"signature": "y"}}),
            ToolCall(id="a", name="get_weather", arguments={}, details={"gemini": {"signature": "z"}}),
        ]
    )
    body = await sent(server, [*HELLO, foreign], tools=[WEATHER])
    assert body["messages"][1]["content"] == [
        {"type": "text", "text": "Hi."},
        {"type": "tool_use", "id": "a", "name": "get_weather", "input": {}},
    ]


async def test_blocks_beyond_the_vocabulary_go_back_in_their_place(server: Answering) -> None:
    blocks = [
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "code_execution", "input": {"code": "1+1"}},
        {"type": "code_execution_tool_result", "tool_use_id": "srvtoolu_1", "content": {"stdout": "2"}},
    ]
    response = await thinking_answer(*blocks)
    assert response.text == "Hi."
    body = await sent(server, [*HELLO, response.message])
    assert body["messages"][1]["content"] == [*blocks, {"type": "text", "text": "Hi."}]


async def test_half_a_surrogate_pair_is_refused_before_anything_is_sent(server: Answering) -> None:
    with pytest.raises(RequestRejected):
        await sent(server, [LLMMessage.user("\ud83d")])
    assert not server.asked


@pytest.mark.parametrize(
    "pasted", ["https://api.anthropic.com/v1/", "https://api.anthropic.com/v1/messages", "https://api.anthropic.com/"]
)
def test_pasted_address_is_mended(pasted: str) -> None:
    from llm_credentials.providers import build_client

    assert build_client("anthropic", api_key="k", model=OLD, base_url=pasted).base_url == "https://api.anthropic.com"


def test_every_model_of_the_documents_is_known_and_retired_ones_have_a_successor() -> None:
    spec = get_spec("anthropic")
    for named in (
        "claude-3-5-sonnet-20241022",
        "claude-3-5-haiku-20241022",
        "claude-3-opus-20240229",
        "claude-3-haiku-20240307",
        "claude-3-5-sonnet",
        "claude-sonnet-4-20250514",
    ):
        assert spec.model_facts(named) is not None, named
    current = {facts.id for facts in spec.models if not facts.retired}
    assert all(facts.successor in current for facts in spec.models if facts.retired)
    assert {spec.default_model, spec.cheapest_model} <= current
    assert all(facts.source and facts.as_of for facts in spec.models)
