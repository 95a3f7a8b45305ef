"""What goes out on the chat-completions wire, per provider."""

from __future__ import annotations

import base64
from typing import Any

import orjson
import pytest

from llm_credentials.providers import (
    ImagePart,
    LLMClient,
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
from llm_credentials.providers.calls import make_call
from llm_credentials.providers.tests.answering import answering, of_json

LOOK = ToolDefinition(name="look", description="Looks", parameters={"type": "object", "properties": {}})
HELLO = [LLMMessage.user("Hello")]
OPEN = {"type": "object", "properties": {"n": {"type": "integer"}}}
CLOSED = {**OPEN, "required": ["n"], "additionalProperties": False}
NOTHING: dict[str, Any] = dict.fromkeys(
    ("tools", "tool_choice", "response_schema", "model", "max_tokens", "temperature", "top_p", "stop", "seed")
)


def client_of(provider: str, model: str = "") -> LLMClient:
    address = {"azure_openai": "https://r.openai.azure.com", "openai_compatible": "https://x.example.com/v1"}
    spec = get_spec(provider)
    policy: Any = {"egress": _ollama()} if provider == "ollama" else {}
    return build_client(
        provider, api_key="key", model=model or spec.default_model or "m", base_url=address.get(provider), **policy
    )


def _ollama() -> Any:
    from llm_credentials.providers import EgressPolicy

    return EgressPolicy(allow=["localhost:11434"])


def body_of(
    provider: str, messages: list[LLMMessage] | None = None, *, model: str = "", stream: bool = False, **more: Any
) -> dict[str, Any]:
    client = client_of(provider, model)
    call = make_call(client, messages or HELLO, **{**NOTHING, **more})
    _, body = client.encode(call, stream=stream)
    assert orjson.loads(orjson.dumps(body)) == body
    return body


def test_conversation_of_all_roles_is_encoded_in_order() -> None:
    call = ToolCall(id="call_1", name="look", arguments={"at": "sky"})
    body = body_of(
        "openai",
        [
            LLMMessage.system("Be brief."),
            LLMMessage.user("What is above?"),
            LLMMessage.assistant([TextPart(text="I look."), call]),
            LLMMessage.tool([ToolResult(call_id="call_1", name="look", content="clouds")]),
            LLMMessage.assistant("Clouds."),
            LLMMessage.user([TextPart(text="Thanks. "), TextPart(text="And below?")]),
        ],
        tools=[LOOK],
    )
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is above?"},
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at":"sky"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "clouds"},
        {"role": "assistant", "content": "Clouds."},
        {"role": "user", "content": "Thanks. And below?"},
    ]
    assert body["tools"][0]["function"] == {"name": "look", "description": "Looks", "parameters": LOOK.parameters}
    assert "tool_choice" not in body


def test_turn_of_tool_calls_alone_has_null_for_content() -> None:
    turn = LLMMessage.assistant([ToolCall(id="a", name="look", arguments={})])
    assert body_of("openai", [*HELLO, turn])["messages"][1]["content"] is None
    assert body_of("openai", [*HELLO, LLMMessage.assistant(())])["messages"][1]["content"] == ""


def test_failed_tool_says_so_in_words() -> None:
    results = LLMMessage.tool(
        [
            ToolResult(call_id="a", name="look", content="fog", is_error=True),
            ToolResult(call_id="b", name="look", content="sun"),
        ]
    )
    assert [m["content"] for m in body_of("groq", [*HELLO, results])["messages"][1:]] == ["Error: fog", "sun"]


def test_image_goes_as_data_or_by_its_address() -> None:
    data = LLMMessage.user([TextPart(text="See"), ImagePart(data=b"\x89PNG", media_type="image/png")])
    content = body_of("openai", [data])["messages"][0]["content"]
    assert content == [
        {"type": "text", "text": "See"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(b"\x89PNG").decode()}},
    ]
    by_address = LLMMessage.user([ImagePart(url="https://example.com/a.png")])
    assert body_of("mistral", [by_address])["messages"][0]["content"][0]["image_url"] == {
        "url": "https://example.com/a.png"
    }


@pytest.mark.parametrize(
    ("provider", "model", "message"),
    [
        ("openai", "gpt-3.5-turbo", LLMMessage.user([ImagePart(url="https://example.com/a.png")])),
        ("deepseek", "deepseek-v4-pro", LLMMessage.user([ImagePart(data=b"x", media_type="image/png")])),
        ("ollama", "llava", LLMMessage.user([ImagePart(url="https://example.com/a.png")])),
        ("openai", "", LLMMessage.user([ImagePart(data=b"x", media_type="image/tiff")])),
        ("openai", "", LLMMessage.user([ImagePart(url="file:///etc/passwd")])),
        ("openai", "", LLMMessage.assistant([ImagePart(url="https://example.com/a.png")])),
        ("openai", "", LLMMessage.user([ToolResult(call_id="a", name="b", content="c")])),
        ("openai", "", LLMMessage.user([ToolCall(id="a", name="b", arguments={})])),
        ("openai", "", LLMMessage(role="system", parts=(ImagePart(url="https://example.com/a.png"),))),
        ("openai", "", LLMMessage(role="tool", parts=(TextPart(text="x"),))),
    ],
)
def test_part_that_cannot_be_carried_raises(provider: str, model: str, message: LLMMessage) -> None:
    with pytest.raises(UnsupportedContent):
        body_of(provider, [message], model=model)


def test_tool_names_are_checked() -> None:
    for name in ("", "a b", "a.b", "x" * 65, "grüße"):
        with pytest.raises(UnsupportedContent):
            body_of("openai", tools=[ToolDefinition(name=name, description="", parameters={})])


@pytest.mark.parametrize(
    ("provider", "choice", "expected"),
    [
        ("openai", "auto", "auto"),
        ("openai", "none", "none"),
        ("openai", "required", "required"),
        ("openai", "look", {"type": "function", "function": {"name": "look"}}),
        ("mistral", "required", "any"),
        ("groq", "required", "required"),
    ],
)
def test_tool_choice_in_each_ones_words(provider: str, choice: str, expected: object) -> None:
    assert body_of(provider, tools=[LOOK], tool_choice=choice)["tool_choice"] == expected


@pytest.mark.parametrize(
    ("provider", "model", "name"),
    [
        ("openai", "gpt-4o", "max_completion_tokens"),
        ("openai", "gpt-6-luna", "max_completion_tokens"),
        ("azure_openai", "gpt-4o", "max_completion_tokens"),
        ("groq", "", "max_completion_tokens"),
        ("deepseek", "", "max_tokens"),
        ("mistral", "", "max_tokens"),
        ("together", "", "max_tokens"),
        ("ollama", "", "max_tokens"),
        ("openai_compatible", "llama-3", "max_tokens"),
        ("openai_compatible", "openai/gpt-5.4-mini", "max_completion_tokens"),
        ("digitalocean", "openai-gpt-5", "max_completion_tokens"),
    ],
)
def test_token_limit_in_each_ones_words(provider: str, model: str, name: str) -> None:
    body = body_of(provider, model=model, max_tokens=5)
    assert body[name] == 5
    assert len({"max_tokens", "max_completion_tokens"} & set(body)) == 1


@pytest.mark.parametrize(
    ("provider", "model", "sent"),
    [
        ("openai", "gpt-4o", True),
        ("openai", "gpt-6-luna", False),
        ("openai", "gpt-7-not-known-yet", True),
        ("openai", "o3-mini", False),
        ("openai", "gpt-5.4", False),
        ("openai", "ft:gpt-4o-mini:acme::abc", True),
        ("openai", "ft:o4-mini:acme::abc", False),
        ("azure_openai", "o1", False),
        ("deepseek", "", True),
        ("openai_compatible", "openai/gpt-5", False),
    ],
)
def test_sampling_is_left_out_for_models_that_refuse_it(provider: str, model: str, sent: bool) -> None:
    body = body_of(provider, model=model, temperature=0.5, top_p=0.9)
    assert ("temperature" in body, "top_p" in body) == (sent, sent)


def test_parameters_in_each_ones_words() -> None:
    assert body_of("openai", model="gpt-4o", seed=7, stop=["a", "b"]).items() >= {"seed": 7, "stop": ["a", "b"]}.items()
    mistral = body_of("mistral", seed=7, temperature=2.0)
    assert mistral["random_seed"] == 7
    assert "seed" not in mistral
    assert mistral["temperature"] == 1.5
    assert set(body_of("openai", model="gpt-4o")) == {"model", "messages"}


@pytest.mark.parametrize(
    "provider", ["openai", "groq", "deepseek", "together", "ollama", "azure_openai", "digitalocean"]
)
def test_stream_asks_for_its_usage(provider: str) -> None:
    body = body_of(provider, stream=True)
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}


def test_stream_options_are_kept_from_who_does_not_know_them() -> None:
    assert "stream_options" not in body_of("mistral", stream=True)


@pytest.mark.parametrize(("schema", "strict"), [(CLOSED, True), (OPEN, False)])
def test_schema_goes_natively_and_strictly_where_it_can(schema: dict[str, Any], strict: bool) -> None:
    given = body_of("openai", response_schema=schema)["response_format"]
    assert given["type"] == "json_schema"
    assert given["json_schema"]["strict"] is strict
    assert given["json_schema"]["schema"]["type"] == schema["type"]


def test_schema_of_a_list_goes_where_the_answer_need_be_no_object() -> None:
    listed = {"type": "array", "items": OPEN}
    given = body_of("ollama", response_schema=listed)["response_format"]["json_schema"]
    assert (given["schema"]["type"], given["strict"]) == ("array", False)
    with pytest.raises(UnsupportedContent, match="no object"):
        body_of("openai", response_schema=listed)


@pytest.mark.parametrize(("provider", "model"), [("deepseek", ""), ("groq", "llama-3.3-70b-versatile")])
def test_schema_goes_in_words_where_there_is_json_mode_only(provider: str, model: str) -> None:
    body = body_of(provider, model=model, response_schema=CLOSED)
    assert body["response_format"] == {"type": "json_object"}
    assert body["messages"][0]["role"] == "system"
    assert "JSON" in body["messages"][0]["content"]
    assert '"n"' in body["messages"][0]["content"]


def test_tool_ids_fit_each_provider() -> None:
    long = "toolu_" + "x" * 60
    turns = [
        *HELLO,
        LLMMessage.assistant(
            [ToolCall(id=long, name="look", arguments={}), ToolCall(id="b", name="look", arguments={})]
        ),
        LLMMessage.tool(
            [
                ToolResult(call_id="b", name="look", content="2"),
                ToolResult(call_id=long, name="look", content="1"),
            ]
        ),
    ]
    for provider, length in (("mistral", 9), ("openai", 40)):
        _, asked, *results = body_of(provider, turns)["messages"]
        ids = [call["id"] for call in asked["tool_calls"]]
        assert len(set(ids)) == 2
        assert [result["tool_call_id"] for result in results] == ids[::-1]
        assert all(len(id_) <= length and id_.replace("_", "").isalnum() for id_ in ids)
        assert body_of(provider, turns)["messages"][1] == asked, "the same conversation gives the same ids"
    assert all(len(call["id"]) == 9 for call in body_of("mistral", turns)["messages"][1]["tool_calls"])
    assert body_of("mistral", turns)["messages"][2]["name"] == "look"


def thinking(slug: str, field: str, *, with_call: bool) -> LLMMessage:
    call = ToolCall(id="call_1", name="look", arguments={})
    parts = [ReasoningPart(text="Hmm.", details={slug: {"field": field}}), TextPart(text="So.")]
    return LLMMessage.assistant([*parts, *([call] if with_call else [])])


def test_reasoning_goes_back_with_its_tool_calls_only() -> None:
    def sent(provider: str, slug: str, field: str, *, with_call: bool) -> dict[str, Any]:
        return body_of(provider, [*HELLO, thinking(slug, field, with_call=with_call)])["messages"][1]

    assert sent("deepseek", "deepseek", "reasoning_content", with_call=True)["reasoning_content"] == "Hmm."
    assert "reasoning_content" not in sent("deepseek", "deepseek", "reasoning_content", with_call=False)
    assert sent("groq", "groq", "reasoning", with_call=True)["reasoning"] == "Hmm."


def test_reasoning_of_another_provider_stays_away() -> None:
    turn = body_of("deepseek", [*HELLO, thinking("groq", "reasoning", with_call=True)])["messages"][1]
    assert turn["reasoning_content"] == "", "the field is compulsory beside tool calls"
    assert "Hmm." not in str(turn)
    assert "Hmm." not in str(body_of("openai", [*HELLO, thinking("deepseek", "reasoning_content", with_call=True)]))


def test_reasoning_that_came_as_content_goes_back_as_content() -> None:
    turn = body_of("mistral", [*HELLO, thinking("mistral", "content", with_call=False)])["messages"][1]
    assert turn["content"] == [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Hmm."}]},
        {"type": "text", "text": "So."},
    ]


def test_arguments_that_were_no_json_go_back_where_they_are_taken() -> None:
    broken = LLMMessage.assistant([ToolCall(id="a", name="look", arguments={}, invalid_arguments='{"a":')])

    def sent(provider: str) -> str:
        return str(body_of(provider, [*HELLO, broken])["messages"][1]["tool_calls"][0]["function"]["arguments"])

    assert sent("openai") == '{"a":'
    assert sent("mistral") == "{}"


@pytest.mark.parametrize(
    ("provider", "pasted", "path"),
    [
        ("openai_compatible", "{}/v1", "/v1/chat/completions"),
        ("openai_compatible", " {}/v1/ ", "/v1/chat/completions"),
        ("openai_compatible", "{}/v1/v1", "/v1/chat/completions"),
        ("openai_compatible", "{}/v1/chat/completions", "/v1/chat/completions"),
        ("openai_compatible", "{}//api//v1//chat/completions/", "/api/v1/chat/completions"),
        ("openai_compatible", "{}", "/chat/completions"),
        ("ollama", "{}", "/v1/chat/completions"),
        ("ollama", "{}/", "/v1/chat/completions"),
        ("ollama", "{}/v1/models", "/v1/chat/completions"),
        ("azure_openai", "{}", "/openai/deployments/m/chat/completions"),
        ("azure_openai", "{}/openai/", "/openai/deployments/m/chat/completions"),
        ("azure_openai", "{}/openai/v1", "/openai/deployments/m/chat/completions"),
        (
            "azure_openai",
            "{}/openai/deployments/x/chat/completions?api-version=1",
            "/openai/deployments/m/chat/completions",
        ),
    ],
)
async def test_pasted_address_is_mended(provider: str, pasted: str, path: str) -> None:
    answer = {"choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}]}
    async with answering(of_json(answer)) as server:
        client = build_client(
            provider, api_key="key", model="m", base_url=pasted.format(server.url), egress=server.egress
        )
        assert (await client.complete(HELLO)).text == "Hi"
        assert server.asked[0].path == path


async def test_azure_sends_its_header_version_and_deployment() -> None:
    answer = {"choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}]}
    async with answering(of_json(answer)) as server:
        options = {"deployment": "my-gpt", "api_version": "2025-01-01-preview"}
        client = server.client("azure_openai", model="gpt-4o", options=options)
        await client.complete(HELLO)
        asked = server.asked[0]
        assert asked.path == "/openai/deployments/my-gpt/chat/completions"
        assert asked.query == {"api-version": "2025-01-01-preview"}
        assert asked.headers["api-key"] == "key-of-alice"
        assert "authorization" not in asked.headers
        assert asked.json["model"] == "gpt-4o"
        assert client.forward_url("/v1/chat/completions") == (
            f"{server.url}/openai/deployments/my-gpt/chat/completions?api-version=2025-01-01-preview"
        )
        slashed = server.client("azure_openai", model="a/b")
        with pytest.raises(RequestRejected):
            await slashed.complete(HELLO)


async def test_keyless_provider_sends_no_authorization() -> None:
    answer = {"choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}]}
    async with answering(of_json(answer)) as server:
        client = build_client("ollama", api_key=None, model="m", base_url=server.url, egress=server.egress)
        await client.complete(HELLO)
        forwarded = await client.forward(b"{}", path="/v1/chat/completions", stream=False)
        await forwarded.aclose()
        assert all("authorization" not in asked.headers for asked in server.asked)
        assert [asked.path for asked in server.asked] == ["/v1/chat/completions"] * 2


async def test_requests_say_nothing_of_this_machine() -> None:
    answer = {"choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}]}
    async with answering(of_json(answer)) as server:
        await server.client("openai_compatible").complete(HELLO)
        names = {name.lower() for name in server.asked[0].headers}
        assert not [name for name in names if name.startswith("x-stainless")]
        assert server.asked[0].headers["authorization"] == "Bearer key-of-alice"
