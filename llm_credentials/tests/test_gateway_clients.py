"""What clients of all kinds send to ``/v1`` beside the plain call, and what they are told where it is not spoken."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import orjson
import pydantic
import pytest
from django.contrib.auth.models import User

from llm_credentials import services
from llm_credentials.gateway.addresses import mended
from llm_credentials.gateway.wires import chat as chat_wire
from llm_credentials.gateway.wires.asked import InvalidRequest
from llm_credentials.ledger import estimate, writer
from llm_credentials.models import UsageRecord, UserCredential
from llm_credentials.providers import UnsupportedContent
from llm_credentials.tests.asking import ask_gateway
from llm_credentials.tests.factories import UserCredentialFactory

ASK: Any = [{"role": "user", "content": "What is 17 * 23?"}]
ANY: Any = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
ADD: Any = {"type": "function", "function": {"name": "add", "parameters": ANY}}
LOOK: Any = {"type": "function", "function": {"name": "look", "parameters": ANY}}
BOTH: Any = [{"role": "user", "content": 'use add with {"city": "Oslo"}\nuse look with {"city": "Rome"}'}]


@pytest.fixture
def keys(alice: User, sandbox_url: str) -> User:
    """One of the wire that is spoken, and one to which it is translated."""
    for provider, address in (("openai", f"{sandbox_url}/v1"), ("anthropic", sandbox_url)):
        model = "sandbox-vision"
        UserCredentialFactory(user=alice, provider=provider, key="sbx-good-0123456789", model=model, base_url=address)
    return alice


@pytest.fixture
def token(keys: User) -> str:
    return services.token_create(user=keys, scopes=["gateway"])[1]


@pytest.fixture
def chat(live_site: str, token: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live_site}/v1", api_key=token, max_retries=0) as client:
        yield client


@pytest.fixture
def claude(live_site: str, token: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=live_site, api_key=token, max_retries=0) as client:
        yield client


# The SDKs


class Total(pydantic.BaseModel):
    total: float


def test_openais_sdk_finds_what_it_asks_for_beside_the_plain_call(chat: openai.OpenAI) -> None:
    asked: Any = [{"role": "user", "content": "the total is 42"}]
    for model in ("openai/auto", "anthropic/auto"):
        parsed = chat.beta.chat.completions.parse(model=model, messages=asked, response_format=Total)
        assert parsed.choices[0].message.parsed == Total(total=42)
        extra = chat.chat.completions.create(model=model, messages=ASK, extra_body={"of_its_own": 1})
        assert "391" in str(extra.choices[0].message.content)
    assert chat.models.retrieve("auto").id == "auto"
    assert chat.models.retrieve("openai/sandbox-vision").owned_by == "openai"
    assert chat.models.retrieve("sandbox-vision").id == "sandbox-vision"
    # The SDK asks for base64 unless it is told otherwise; Mistral's insists on an id.
    made = chat.embeddings.with_raw_response.create(model="openai/sandbox-embed", input="one")
    assert json.loads(made.text)["id"]
    vector = made.parse().data[0].embedding
    assert len(vector) > 10 and all(isinstance(number, float) for number in vector)


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_openais_sdk_streams_tool_calls_side_by_side(provider: str, chat: openai.OpenAI) -> None:
    with chat.chat.completions.stream(model=f"{provider}/auto", messages=BOTH, tools=[ADD, LOOK]) as stream:
        calls = stream.get_final_completion().choices[0].message.tool_calls or []
    assert [call.function.name for call in calls] == ["add", "look"]
    assert [json.loads(call.function.arguments)["city"] for call in calls] == ["Oslo", "Rome"]


def test_openais_sdk_is_told_what_is_not_spoken(chat: openai.OpenAI) -> None:
    for call in (
        lambda: chat.responses.create(model="auto", input="hi"),
        lambda: chat.completions.create(model="auto", prompt="hi"),
        lambda: chat.models.retrieve("unknown-model"),
        lambda: chat.files.list(),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            call()
        assert caught.value.type == "invalid_request_error"
        assert "/v1/" in caught.value.message
    assert not UsageRecord.objects.exists()


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_anthropics_sdk_finds_what_it_asks_for_beside_the_plain_call(
    provider: str, claude: anthropic.Anthropic
) -> None:
    model: Any = f"{provider}/sandbox-vision"
    cached: Any = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    with claude.messages.stream(model=model, max_tokens=500, messages=ASK, system=cached) as stream:
        assert "391" in "".join(stream.text_stream)
        assert stream.get_final_message().stop_reason == "end_turn"
    raw = claude.messages.with_raw_response.create(
        model=model, max_tokens=2000, messages=ASK, thinking={"type": "enabled", "budget_tokens": 1024}
    )
    assert raw.headers["x-keyswitch-provider"] == provider
    assert raw.headers["ratelimit-limit"]
    assert raw.parse()._request_id == raw.headers["x-request-id"]
    assert claude.models.retrieve(model).id == model


def test_anthropics_sdk_is_told_in_its_own_shape_what_there_is_not(claude: anthropic.Anthropic) -> None:
    for call in (lambda: claude.models.retrieve("unknown-model"), lambda: claude.messages.batches.list()):
        with pytest.raises(anthropic.NotFoundError) as caught:
            call()
        assert caught.value.body["error"]["type"] == "not_found_error"  # type: ignore[index]


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_chat_takes_what_popular_clients_send(provider: str, chat: openai.OpenAI) -> None:
    nulls = (
        "temperature",
        "top_p",
        "n",
        "stop",
        "max_tokens",
        "tools",
        "tool_choice",
        "response_format",
        "seed",
        "user",
    )
    parts = [{"type": "text", "text": "Be brief."}]
    sent: tuple[dict[str, Any], ...] = (
        dict.fromkeys(nulls),
        {"messages": [{"role": "developer", "content": "Be brief."}, *ASK], "max_completion_tokens": 100},
        {
            "messages": [
                {"role": "system", "content": parts},
                {"role": "user", "name": "al", "content": ASK[0]["content"]},
            ]
        },
        {"n": 1, "logprobs": False, "user": "u1", "metadata": {"a": "b"}, "store": True, "service_tier": "auto"},
        {"tools": [ADD], "tool_choice": "none", "parallel_tool_calls": False},
        {
            "stop": ["\n\n", "END"],
            "frequency_penalty": 0,
            "presence_penalty": 0,
            "logit_bias": {},
            "modalities": ["text"],
        },
    )
    for more in sent:
        answer = chat.chat.completions.create(**{"model": f"{provider}/auto", "messages": ASK, **more})
        assert "391" in str(answer.choices[0].message.content), more


# Addresses and headers


@pytest.mark.django_db(transaction=True)
def test_addresses_are_taken_as_clients_write_them(token: str) -> None:
    bearer = {"authorization": f"bearer {token}"}
    body = {"model": "auto", "messages": ASK}
    for path in ("/v1/chat/completions/", "/v1/v1/chat/completions", "/v1//chat/completions"):
        assert ask_gateway("POST", path, body, **bearer).status_code == 200, path
    answer = ask_gateway("POST", "/v1/v1/messages", body, **{"x-api-key": token})
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert ask_gateway("HEAD", "/v1/models", **bearer).status_code == 200
    assert ask_gateway("HEAD", "/v1/models").status_code == 401
    assert mended("/v1/models/v1/v1") == "/v1/models/v1/v1"
    assert mended("//v1/models//") == "/v1/models"


def test_methods_that_an_address_takes_are_told() -> None:
    asked = ask_gateway("OPTIONS", "/v1/models")
    assert (asked.status_code, asked.headers["allow"], asked.content) == (204, "GET, HEAD, OPTIONS", b"")
    refused = ask_gateway("DELETE", "/v1/chat/completions")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST, OPTIONS")


def test_root_names_the_addresses() -> None:
    for path in ("/v1", "/v1/", "/v1/audio/speech"):
        answer = ask_gateway("GET", path)
        assert (answer.status_code, "/v1/chat/completions" in answer.json()["error"]["message"]) == (404, True), path


@pytest.mark.django_db(transaction=True)
def test_limited_calls_say_how_far_the_limit_is_used(token: str, settings: Any) -> None:
    settings.LLM_RATES = {**settings.LLM_RATES, "gateway": {"user": "2/d"}}
    answers = [ask_gateway("POST", "/v1/chat/completions", {}, authorization=f"Bearer {token}") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [400, 400, 429]
    assert [answer.headers["ratelimit-remaining"] for answer in answers] == ["1", "0", "0"]
    assert {answer.headers["ratelimit-limit"] for answer in answers} == {"2"}
    assert answers[2].headers["retry-after"]


# Choosing tools


def _read(**more: Any) -> Any:
    return chat_wire.read_request({"messages": ASK, "tools": [ADD, LOOK], **more})


def test_allowed_tools_are_those_that_go_along() -> None:
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "look"}}]}
    asked = _read(tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert ([tool.name for tool in asked.tools], asked.tool_choice) == (["look"], "required")
    none = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "other"}}]}
    with pytest.raises(InvalidRequest, match="None of these"):
        _read(tool_choice={"type": "allowed_tools", "allowed_tools": none})


def test_tools_of_this_wire_alone_go_to_a_provider_that_speaks_it() -> None:
    for more in ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, {"tool_choice": {"type": "custom"}}):
        with pytest.raises(UnsupportedContent):
            _read(**more)


def test_tool_choice_of_other_clients_is_understood() -> None:
    assert _read(tool_choice="any").tool_choice == "required"


# What only one wire has


PDF = base64.b64encode(b"%PDF" + b"x" * 150_000).decode()
DOCUMENT: Any = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PDF}}
LOOKED: Any = [
    {"role": "user", "content": 'use look with {"city": "Oslo"}'},
    {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}]},
]
PICTURE: Any = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}


def test_request_that_only_its_provider_can_read_reaches_it_however_long(keys: User, token: str) -> None:
    """The sandbox, which does not know them, refuses them itself; it is its name of what is wrong that comes back."""
    headers = {"authorization": f"Bearer {token}"}
    for part in ({"type": "file", "file": {"file_data": PDF}}, {"type": "of_tomorrow", "text": "a " * 60_000}):
        body = {"model": "openai/auto", "messages": [{"role": "user", "content": [part]}]}
        UserCredential.objects.filter(user=keys, provider="anthropic").update(is_active=False)
        answer = ask_gateway("POST", "/v1/chat/completions", body, **headers).json()["error"]
        assert answer["param"] == "messages[0].content[0].type", answer
    writer.flush()
    assert UsageRecord.objects.count() == 2
    assert (estimate.body_tokens(body), estimate.body_tokens([DOCUMENT])) == (40_033, 18_297)


@pytest.mark.parametrize(
    "more",
    [
        {"messages": [{"role": "user", "content": [DOCUMENT]}]},
        {"messages": [*LOOKED, {"role": "user", "content": [{"type": "tool_result", "content": [PICTURE]}]}]},
        {"messages": ASK, "tools": [{"type": "web_search_20250305", "name": "web_search"}]},
    ],
)
def test_tokens_are_counted_of_what_is_not_known(more: dict[str, Any], keys: User, token: str) -> None:
    answer = ask_gateway("POST", "/v1/messages/count_tokens", {"model": "auto", **more}, **{"x-api-key": token})
    assert answer.status_code == 200 and answer.json()["input_tokens"] > 4
    deep = orjson.loads(b"[" * 400 + b"]" * 400)
    refused = ask_gateway(
        "POST",
        "/v1/messages/count_tokens",
        {"model": "auto", "messages": [{"role": "x", "content": deep}]},
        **{"x-api-key": token},
    )
    assert (refused.status_code, refused.json()["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"stream": "true"}, "stream"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"logprobs": True}, "logprobs"),
        ({"messages": [*ASK, {"role": "user", "content": [{"type": "of_tomorrow"}]}]}, "messages.1.content.0"),
        ({"messages": [{"content": "hi"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text"),
    ],
)
def test_request_that_cannot_be_carried_names_what_it_is(
    more: dict[str, Any], param: str, keys: User, token: str
) -> None:
    UserCredential.objects.filter(user=keys, provider="openai").update(is_active=False)
    body = {"model": "auto", "messages": ASK, **more}
    error = ask_gateway("POST", "/v1/chat/completions", body, authorization=f"Bearer {token}").json()["error"]
    assert error["param"] == param, error


def test_program_made_for_another_model_is_answered(alice: User, keys: User, claude: anthropic.Anthropic) -> None:
    """It asks for more tokens than this one has; without tools it says how to choose one; and in the older shape."""
    UserCredentialFactory(user=alice, provider="sandbox", key="sbx-good-0123456789", model="sandbox-chat")
    answer = claude.messages.create(model="sandbox/auto", max_tokens=200_000, messages=ASK, stream=False, timeout=60)
    assert "391" in answer.content[0].text  # type: ignore[union-attr]
    old: Any = {"type": "json_schema", "schema": Total.model_json_schema()}
    asked: Any = [{"role": "user", "content": "the total is 42"}]
    answer = claude.messages.create(
        model="sandbox/auto", max_tokens=99, messages=asked, extra_body={"output_format": old}
    )
    assert json.loads(answer.content[0].text) == {"total": 42}  # type: ignore[union-attr]


@pytest.mark.parametrize("more", [{"tools": [], "tool_choice": "auto"}, {"tool_choice": "none"}])
def test_choice_among_no_tools_is_left_out(more: Any, chat: openai.OpenAI) -> None:
    answer = chat.chat.completions.create(model="openai/auto", messages=ASK, extra_body=more)
    assert "391" in str(answer.choices[0].message.content)


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_choice_among_some_of_the_tools_is_held(provider: str, chat: openai.OpenAI) -> None:
    named: Any = {"type": "function", "function": {"name": "look"}}
    choice: Any = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named]}}
    answer = chat.chat.completions.create(model=f"{provider}/auto", messages=ASK, tools=[ADD, LOOK], tool_choice=choice)
    assert {call.function.name for call in answer.choices[0].message.tool_calls or []} == {"look"}  # type: ignore[union-attr]


def test_every_address_that_is_not_spoken_says_what_is(token: str) -> None:
    for path in ("files", "batches", "images/generations", "audio/speech", "moderations", "threads", "complete"):
        answer = ask_gateway("POST", f"/v1/{path}", {}, authorization=f"Bearer {token}")
        message = answer.json()["error"]["message"]
        assert answer.status_code == 404 and "POST /v1/" in message and "no such address" not in message, path
