"""What is sent on the generateContent wire."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest

from llm_credentials.providers import (
    ImagePart,
    LLMMessage,
    ReasoningPart,
    RequestRejected,
    TextPart,
    ToolCall,
    ToolDefinition,
    ToolResult,
    UnsupportedContent,
    build_client,
    get_spec,
)
from llm_credentials.providers.adapters._generate_content.encode import UNSIGNED
from llm_credentials.providers.tests.answering import Answering, answering, of_json

OLD, CURRENT = "gemini-2.5-flash", "gemini-3.8-flash"
PNG = b"\x89PNG\r\n\x1a\n"
HELLO = [LLMMessage.user("Hello")]
SCHEMA = {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "properties": {"n": {}}}
PLAIN_SCHEMA = {"type": "object", "properties": {"n": {}}}
WEATHER = ToolDefinition(name="get_weather", description="Weather of a city", parameters=PLAIN_SCHEMA)
ANSWER = {
    "candidates": [{"content": {"parts": [{"text": "Hi."}], "role": "model"}, "finishReason": "STOP", "index": 0}],
    "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2},
    "modelVersion": "the-model",
    "responseId": "r-1",
}


@pytest.fixture
async def server() -> AsyncIterator[Answering]:
    async with answering(of_json(ANSWER)) as server:
        yield server


async def sent(server: Answering, messages: list[LLMMessage], model: str = CURRENT, **more: Any) -> Any:
    await server.client("gemini", model=model).complete(messages, **more)
    return server.asked[-1].json


async def test_request_has_address_and_key(server: Answering) -> None:
    await server.client("gemini", model=CURRENT).complete(HELLO)
    asked = server.asked[-1]
    assert (asked.method, asked.path) == ("POST", "/v1beta/models/gemini-3.8-flash:generateContent")
    assert asked.headers["x-goog-api-key"] == "key-of-alice"
    assert asked.headers["content-type"] == "application/json"
    assert "key" not in asked.query
    assert asked.json == {
        "contents": [{"role": "user", "parts": [{"text": "Hello"}]}],
        "generationConfig": {"thinkingConfig": {"includeThoughts": True}},
    }


async def test_thoughts_are_asked_for_only_where_the_model_is_known_to_think(server: Answering) -> None:
    assert "generationConfig" not in await sent(server, HELLO, "gemini-2.0-flash")
    assert "generationConfig" not in await sent(server, HELLO, "not-in-the-catalogue")


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("models/gemini-3.8-flash", "/v1beta/models/gemini-3.8-flash:generateContent"),
        ("tunedModels/mine-1", "/v1beta/tunedModels/mine-1:generateContent"),
        ("a:b@c", "/v1beta/models/a:b@c:generateContent"),
    ],
)
async def test_model_is_part_of_the_path(server: Answering, model: str, path: str) -> None:
    await sent(server, HELLO, model)
    assert server.asked[-1].path == path


@pytest.mark.parametrize(
    "model", ["../../../admin", "..%2f", "a?x=1", "a#f", "a b\r\nX: 1", "models/../../x", "x" * 10_000]
)
async def test_model_that_would_leave_the_path_is_refused(server: Answering, model: str) -> None:
    with pytest.raises(RequestRejected):
        await sent(server, HELLO, model)
    assert not server.asked


async def test_system_messages_stand_apart(server: Answering) -> None:
    body = await sent(server, [LLMMessage.system("Be brief."), *HELLO, LLMMessage.system("Be kind.")])
    assert body["systemInstruction"] == {"parts": [{"text": "Be brief.\n\nBe kind."}]}
    assert len(body["contents"]) == 1


async def test_system_prompt_alone_is_refused_before_anything_is_sent(server: Answering) -> None:
    with pytest.raises(RequestRejected):
        await sent(server, [LLMMessage.system("Be brief.")])
    assert not server.asked


async def test_tool_traffic_keeps_its_ids_names_and_errors(server: Answering) -> None:
    body = await sent(
        server,
        [
            *HELLO,
            LLMMessage.assistant(
                [
                    ToolCall(
                        id="c1", name="get_weather", arguments={"city": "Oslo"}, details={"gemini": {"signature": "s"}}
                    ),
                    ToolCall(id="c2", name="get_time", arguments={}),
                ]
            ),
            LLMMessage.tool(ToolResult(call_id="c1", name="get_weather", content="18 °C")),
            LLMMessage.tool(ToolResult(call_id="c2", name="", content="no clock", is_error=True)),
            LLMMessage.user("Go on"),
        ],
        tools=[WEATHER],
    )
    assert body["contents"][1:] == [
        {
            "role": "model",
            "parts": [
                {
                    "functionCall": {"id": "c1", "name": "get_weather", "args": {"city": "Oslo"}},
                    "thoughtSignature": "s",
                },
                {"functionCall": {"id": "c2", "name": "get_time", "args": {}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"id": "c1", "name": "get_weather", "response": {"output": "18 °C"}}},
                {"functionResponse": {"id": "c2", "name": "get_time", "response": {"error": "no clock"}}},
            ],
        },
        {"role": "user", "parts": [{"text": "Go on"}]},
    ]


@pytest.mark.parametrize(("model", "expected"), [(CURRENT, UNSIGNED), (OLD, None), ("gemini-4-argon", UNSIGNED)])
async def test_call_that_another_provider_made_passes_the_signature_check(
    server: Answering, model: str, expected: str | None
) -> None:
    calls = [ToolCall(id="a", name="x", arguments={}), ToolCall(id="b", name="y", arguments={})]
    body = await sent(server, [*HELLO, LLMMessage.assistant(calls)], model)
    first, second = body["contents"][1]["parts"]
    assert first.get("thoughtSignature") == expected
    assert "thoughtSignature" not in second


async def test_signatures_go_back_on_the_very_parts_they_came_with(server: Answering) -> None:
    parts = [
        {"text": "Hm.", "thought": True},
        {"text": "One", "thoughtSignature": "t1"},
        {"text": " two"},
        {"thoughtSignature": "alone"},
        {"functionCall": {"id": "c1", "name": "get_weather", "args": {}}, "thoughtSignature": "f1"},
        {"executableCode": {"language": "PYTHON", "code": "1"}},
        {"text": "", "thoughtSignature": "t2"},
    ]
    answer = {**ANSWER, "candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}]}
    async with answering(of_json(answer)) as other:
        response = await other.client("gemini").complete(HELLO, model=CURRENT)
    body = await sent(server, [*HELLO, response.message])
    assert body["contents"][1] == {"role": "model", "parts": parts}


async def test_signatures_of_another_model_stay_behind(server: Answering) -> None:
    call = {"functionCall": {"id": "c1", "name": "get_weather", "args": {}}}
    signed = [{"text": "Hm.", "thought": True}, {"text": "One", "thoughtSignature": "t1"}]
    parts = [*signed, {**call, "thoughtSignature": "f1"}]
    answer = {**ANSWER, "candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}]}
    async with answering(of_json(answer)) as other:
        response = await other.client("gemini").complete(HELLO, model="gemini-4-argon")
    body = await sent(server, [*HELLO, response.message])
    assert body["contents"][1]["parts"] == [{"text": "One"}, {**call, "thoughtSignature": UNSIGNED}]


async def test_details_of_another_provider_are_not_sent(server: Answering) -> None:
    foreign = LLMMessage.assistant(
        [
            ReasoningPart(text="Secretly", details={"anthropic": {"signature": "x"}}),
            TextPart(text="Hi.", details={"anthropic": {"citations": []}}),
            TextPart(text="", details={"anthropic": {"block": {"type": "server_tool_use"}}}),
        ]
    )
    body = await sent(server, [*HELLO, foreign])
    assert body["contents"][1]["parts"] == [{"text": "Hi."}]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, None),
        ("auto", {"mode": "AUTO"}),
        ("none", {"mode": "NONE"}),
        ("required", {"mode": "ANY"}),
        ("get_weather", {"mode": "ANY", "allowedFunctionNames": ["get_weather"]}),
    ],
)
async def test_tool_choice_has_the_wires_words(server: Answering, choice: str | None, expected: Any) -> None:
    body = await sent(server, HELLO, tools=[WEATHER], tool_choice=choice)
    assert body.get("toolConfig") == (expected and {"functionCallingConfig": expected})
    assert body["tools"] == [
        {
            "functionDeclarations": [
                {"name": "get_weather", "description": "Weather of a city", "parametersJsonSchema": PLAIN_SCHEMA}
            ]
        }
    ]


async def test_tool_with_a_name_the_wire_refuses_is_unsupported(server: Answering) -> None:
    with pytest.raises(UnsupportedContent):
        await sent(server, HELLO, tools=[ToolDefinition(name="1st", description="", parameters={})])


async def test_images_go_as_bytes_or_address(server: Answering) -> None:
    data = base64.b64encode(PNG).decode()
    body = await sent(
        server,
        [
            LLMMessage.user(
                [
                    ImagePart(data=PNG, media_type="image/png"),
                    ImagePart(url="https://example.com/cat.jpg?size=2"),
                    ImagePart(url="https://example.com/cat", media_type="image/webp"),
                    ImagePart(url=f"data:image/png;base64,{data}"),
                ]
            )
        ],
    )
    inline = {"inlineData": {"mimeType": "image/png", "data": data}}
    assert body["contents"][0]["parts"] == [
        inline,
        {"fileData": {"mimeType": "image/jpeg", "fileUri": "https://example.com/cat.jpg?size=2"}},
        {"fileData": {"mimeType": "image/webp", "fileUri": "https://example.com/cat"}},
        inline,
    ]


@pytest.mark.parametrize(
    "message",
    [
        LLMMessage.user([ImagePart(data=b"GIF89a", media_type="image/gif")]),
        LLMMessage.user([ImagePart(url="http://example.com/cat.png")]),
        LLMMessage.user([ImagePart(url="https://example.com/cat")]),
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


async def test_settings_have_the_wires_names(server: Answering) -> None:
    body = await sent(server, HELLO, "gemini-1.5-pro", max_tokens=9, temperature=0.0, top_p=0.5, stop=["END"], seed=7)
    assert body["generationConfig"] == {
        "maxOutputTokens": 9,
        "temperature": 0.0,
        "topP": 0.5,
        "stopSequences": ["END"],
        "seed": 7,
    }


@pytest.mark.parametrize("tools", [None, [WEATHER]])
async def test_schema_goes_natively_where_the_model_can(server: Answering, tools: Any) -> None:
    config = (await sent(server, HELLO, tools=tools, response_schema=SCHEMA))["generationConfig"]
    assert (config["responseMimeType"], config["responseJsonSchema"]) == ("application/json", PLAIN_SCHEMA)


async def test_schema_beside_tools_becomes_a_forced_tool_elsewhere() -> None:
    call = {"functionCall": {"name": "answer", "args": {"n": 7}}}
    answer = {**ANSWER, "candidates": [{"content": {"parts": [call]}, "finishReason": "STOP"}]}
    async with answering(of_json(answer)) as server:
        client = server.client("gemini", model=OLD)
        response = await client.complete(HELLO, tools=[WEATHER], response_schema=SCHEMA)
        body = server.asked[-1].json
    assert [tool["name"] for tool in body["tools"][0]["functionDeclarations"]] == ["get_weather", "answer"]
    assert body["toolConfig"]["functionCallingConfig"] == {"mode": "ANY"}
    assert (response.text, response.finish_reason, response.tool_calls) == ('{"n":7}', "stop", ())


async def test_embeddings_go_in_batches_with_their_size() -> None:
    def page(count: int) -> Any:
        return of_json({"embeddings": [{"values": [0.5, -0.5]}] * count})

    async with answering(page(100), page(20)) as server:
        found = await server.client("gemini").embed(["x"] * 120, model="gemini-embedding-2", dimensions=2)
        first, second = server.asked
    assert found.vectors == [[0.5, -0.5]] * 120
    assert found.usage.input_tokens is None
    assert first.path == "/v1beta/models/gemini-embedding-2:batchEmbedContents"
    assert first.json["requests"][0] == {
        "model": "models/gemini-embedding-2",
        "content": {"parts": [{"text": "x"}]},
        "outputDimensionality": 2,
    }
    assert (len(first.json["requests"]), len(second.json["requests"])) == (100, 20)


async def test_embeddings_without_model_take_the_catalogues() -> None:
    async with answering(of_json({"embeddings": [{"values": [1.0]}]})) as server:
        assert (await server.client("gemini").embed(["x"])).model == "gemini-embedding-2"


@pytest.mark.parametrize("key", ["", "   ", None])
def test_empty_key_is_refused(key: str | None) -> None:
    with pytest.raises(RequestRejected):
        build_client("gemini", api_key=key, model=CURRENT)


@pytest.mark.parametrize(
    "pasted", ["https://g.example.com/v1beta/", "https://g.example.com/v1beta/models", "https://g.example.com/v1"]
)
def test_pasted_address_is_mended(pasted: str) -> None:
    assert build_client("gemini", api_key="k", model=CURRENT, base_url=pasted).base_url == "https://g.example.com"


@pytest.mark.parametrize("path", ["/v1beta/models/m:generateContent", "models/m:generateContent"])
def test_forward_has_address_and_key(path: str) -> None:
    client = build_client("gemini", api_key="key-of-alice", model=CURRENT)
    assert client.forward_url(path) == "https://generativelanguage.googleapis.com/v1beta/models/m:generateContent"
    assert client.forward_headers()["x-goog-api-key"] == "key-of-alice"


def test_every_model_of_the_documents_is_known_and_retired_ones_have_a_successor() -> None:
    spec = get_spec("gemini")
    for named in ("gemini-2.0-flash-exp", "gemini-1.5-pro", "gemini-1.5-flash", "gemini-pro", "gemini-pro-vision"):
        assert spec.model_facts(named) is not None, named
    current = {facts.id for facts in spec.models if not facts.retired}
    assert all(facts.successor in current for facts in spec.models if facts.retired)
    assert {spec.default_model, spec.cheapest_model, spec.default_embedding_model} <= current
    assert all(facts.source and facts.as_of for facts in spec.models)
