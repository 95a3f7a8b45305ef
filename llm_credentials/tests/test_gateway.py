"""``/v1`` from the outside, with the clients that people have: OpenAI's and Anthropic's SDKs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from django.contrib.auth.models import User

from llm_credentials.ledger import writer
from llm_credentials.models import GroupPolicy, UsageRecord, UserCredential
from llm_credentials.tests import gateway_calls
from llm_credentials.tests.gateway_calls import ASK, KEY, a_key_of, the_record
from project.tests.servers import wait_until

chat, raw = gateway_calls.chat, gateway_calls.raw  # the fixtures
site, token = gateway_calls.site, gateway_calls.token
PROVIDERS = ("openai", "anthropic", "gemini")
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@pytest.fixture
def claude(site: str, token: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=site, api_key=token, max_retries=0) as client:
        yield client


# OpenAI's wire, whatever the provider speaks


@pytest.mark.parametrize("provider", PROVIDERS)
def test_chat_answers_with_the_users_own_key(provider: str, chat: openai.OpenAI, alice: User, sandbox_url: str) -> None:
    key = a_key_of(alice, sandbox_url, provider)
    raw = chat.chat.completions.with_raw_response.create(model="auto", messages=ASK)
    answer = raw.parse()
    assert "391" in str(answer.choices[0].message.content)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None and answer.usage.total_tokens > 0
    assert raw.headers["x-keyswitch-provider"] == provider
    assert (raw.headers["x-keyswitch-key-owner"], raw.headers["x-keyswitch-attempts"]) == ("user", "1")
    row = the_record()
    assert (row.user_id, row.task, row.credential_id, row.state) == (alice.pk, "gateway", key.pk, "settled")
    assert (row.input_tokens, row.output_tokens) == (answer.usage.prompt_tokens, answer.usage.completion_tokens)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_chat_streams(provider: str, chat: openai.OpenAI, alice: User, sandbox_url: str) -> None:
    a_key_of(alice, sandbox_url, provider)
    stream = chat.chat.completions.create(
        model="auto", messages=ASK, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert "391" in text
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["stop"]
    counted = [chunk.usage for chunk in chunks if chunk.usage]
    row = the_record()
    assert (row.state, row.output_tokens) == ("settled", counted[-1].completion_tokens)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_chat_stream_has_no_usage_that_nobody_asked_for(
    provider: str, chat: openai.OpenAI, alice: User, sandbox_url: str
) -> None:
    a_key_of(alice, sandbox_url, provider)
    chunks = list(chat.chat.completions.create(model="auto", messages=ASK, stream=True))
    assert all(chunk.choices for chunk in chunks)
    assert the_record().state == "settled"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_chat_calls_tools_and_takes_their_results(
    provider: str, chat: openai.OpenAI, alice: User, sandbox_url: str
) -> None:
    a_key_of(alice, sandbox_url, provider)
    tools: Any = [{"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}]
    messages: Any = [{"role": "user", "content": 'use get_weather with {"city": "Oslo"}'}]
    first = chat.chat.completions.create(model="auto", messages=messages, tools=tools)
    assert first.choices[0].finish_reason == "tool_calls"
    (call,) = first.choices[0].message.tool_calls or []
    assert json.loads(call.function.arguments) == {"city": "Oslo"}  # type: ignore[union-attr]
    messages += [
        first.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "Rain, 7 degrees"},
    ]
    second = chat.chat.completions.create(model="auto", messages=messages, tools=tools)
    assert "Rain, 7 degrees" in str(second.choices[0].message.content)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_chat_streams_tool_calls(provider: str, chat: openai.OpenAI, alice: User, sandbox_url: str) -> None:
    a_key_of(alice, sandbox_url, provider)
    tools: Any = [{"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}]
    ask: Any = [{"role": "user", "content": 'use get_weather with {"city": "Oslo"}'}]
    with chat.chat.completions.stream(model="auto", messages=ask, tools=tools) as stream:
        final = stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls or []
    assert json.loads(call.function.arguments) == {"city": "Oslo"}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_chat_takes_images_and_schemas(provider: str, chat: openai.OpenAI, alice: User, sandbox_url: str) -> None:
    a_key_of(alice, sandbox_url, provider)
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    ask: Any = [{"role": "user", "content": [{"type": "text", "text": "what is this?"}, image]}]
    assert "image" in str(chat.chat.completions.create(model="auto", messages=ask).choices[0].message.content)
    schema = {"type": "object", "properties": {"total": {"type": "number"}}, "required": ["total"]}
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "sum", "schema": schema}}
    answer = chat.chat.completions.create(
        model="auto", messages=[{"role": "user", "content": "the total is 42"}], response_format=wanted
    )
    assert json.loads(str(answer.choices[0].message.content)) == {"total": 42}


# Anthropic's wire


@pytest.mark.parametrize("provider", PROVIDERS)
def test_messages_answers_with_the_users_own_key(
    provider: str, claude: anthropic.Anthropic, alice: User, sandbox_url: str
) -> None:
    a_key_of(alice, sandbox_url, provider)
    answer = claude.messages.create(model="auto", max_tokens=500, system="Be brief.", messages=ASK)
    assert "391" in "".join(block.text for block in answer.content if block.type == "text")
    assert answer.stop_reason == "end_turn"
    row = the_record()
    assert (row.state, row.output_tokens) == ("settled", answer.usage.output_tokens)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_messages_streams_and_calls_tools(
    provider: str, claude: anthropic.Anthropic, alice: User, sandbox_url: str
) -> None:
    a_key_of(alice, sandbox_url, provider)
    tools: Any = [{"name": "get_weather", "description": "Weather", "input_schema": WEATHER}]
    messages: Any = [{"role": "user", "content": 'use get_weather with {"city": "Oslo"}'}]
    with claude.messages.stream(model="auto", max_tokens=500, messages=messages, tools=tools) as stream:
        first = stream.get_final_message()
    assert first.stop_reason == "tool_use"
    call = next(block for block in first.content if block.type == "tool_use")
    assert call.input == {"city": "Oslo"}
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "Rain, 7 degrees"}
    messages += [{"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    with claude.messages.stream(model="auto", max_tokens=500, messages=messages, tools=tools) as stream:
        assert "Rain, 7 degrees" in stream.get_final_text()
    writer.flush()
    assert {row.state for row in UsageRecord.objects.all()} == {"settled"}


def test_messages_counts_tokens_without_a_call(claude: anthropic.Anthropic, alice: User) -> None:
    counted = claude.messages.count_tokens(model="auto", messages=ASK)
    assert counted.input_tokens > 4
    assert not UsageRecord.objects.exists()


# What is said as model


@pytest.mark.parametrize(
    ("name", "provider", "model"),
    [
        ("auto", "openai", "sandbox-vision"),
        ("task:conversation", "openai", "sandbox-vision"),
        ("anthropic/sandbox-chat", "anthropic", "sandbox-chat"),
        ("anthropic/auto", "anthropic", "sandbox-vision"),
        ("sandbox-fast", "openai", "sandbox-fast"),
    ],
)
def test_model_names_a_route(
    name: str, provider: str, model: str, chat: openai.OpenAI, alice: User, sandbox_url: str
) -> None:
    a_key_of(alice, sandbox_url, "openai", priority=1)
    a_key_of(alice, sandbox_url, "anthropic", priority=2)
    raw = chat.chat.completions.with_raw_response.create(model=name, messages=ASK)
    assert (raw.headers["x-keyswitch-provider"], raw.headers["x-keyswitch-model"]) == (provider, model)


@pytest.mark.parametrize("name", ["../../../admin", "a b", "task:none", "a?x=1", "x" * 300])
def test_model_that_cannot_be_one_is_refused_before_any_call(
    name: str, chat: openai.OpenAI, alice: User, sandbox_url: str
) -> None:
    a_key_of(alice, sandbox_url)
    with pytest.raises(openai.APIStatusError) as caught:
        chat.chat.completions.create(model=name, messages=ASK)
    assert caught.value.status_code in (400, 404)
    assert caught.value.param == "model"
    assert not UsageRecord.objects.exists()


def test_models_lists_what_may_be_said(chat: openai.OpenAI, alice: User, sandbox_url: str) -> None:
    a_key_of(alice, sandbox_url, "openai", model="sandbox-chat")
    names = [model.id for model in chat.models.list()]
    assert names[0] == "auto"
    assert {"openai/sandbox-chat", "task:conversation"} <= set(names)


def test_models_and_calls_keep_to_what_the_policy_allows(chat: openai.OpenAI, alice: User, sandbox_url: str) -> None:
    a_key_of(alice, sandbox_url, "openai", model="sandbox-chat")
    GroupPolicy.objects.create(allowed_models=["openai/sandbox-*"])
    names = [model.id for model in chat.models.list() if model.id.startswith("openai/")]
    assert "openai/sandbox-chat" in names and all(name.startswith("openai/sandbox-") for name in names)
    with pytest.raises(openai.APIStatusError) as refused:
        chat.chat.completions.create(model="openai/gpt-5", messages=ASK)
    assert "organisation's policy" in refused.value.message
    assert not UsageRecord.objects.exists()


def test_models_of_a_stranger_do_not_show(chat: openai.OpenAI, bob: User, sandbox_url: str) -> None:
    a_key_of(bob, sandbox_url, "openai", model="sandbox-chat")
    assert "openai/sandbox-chat" not in [model.id for model in chat.models.list()]


# Failover


@pytest.mark.parametrize("stream", [False, True])
def test_next_key_answers_when_the_first_fails(
    stream: bool, chat: openai.OpenAI, alice: User, sandbox_url: str
) -> None:
    a_key_of(alice, sandbox_url, "openai", name="broken", key="sbx-bad-0123456789", priority=1)
    a_key_of(alice, sandbox_url, "anthropic", priority=2)
    raw = chat.chat.completions.with_raw_response.create(model="auto", messages=ASK, stream=stream)
    assert (raw.headers["x-keyswitch-provider"], raw.headers["x-keyswitch-attempts"]) == ("anthropic", "2")
    parsed: Any = raw.parse()
    text = (
        "".join(chunk.choices[0].delta.content or "" for chunk in parsed if chunk.choices)
        if stream
        else parsed.choices[0].message.content
    )
    assert "391" in text
    assert UserCredential.objects.get(name="broken").status == "invalid"


def test_stream_that_breaks_off_says_so_and_goes_to_nobody_else(
    raw: httpx2.Client, alice: User, sandbox_url: str
) -> None:
    a_key_of(alice, sandbox_url, "openai", model="sandbox-chat~fault=cut", priority=1)
    a_key_of(alice, sandbox_url, "anthropic", priority=2)
    body = {"model": "auto", "messages": [{"role": "user", "content": "count to 50"}], "stream": True}
    answer = raw.post("/v1/chat/completions", json=body)
    assert "[DONE]" not in answer.text
    last = [line for line in answer.text.splitlines() if line.startswith("data:")][-1]
    assert json.loads(last[5:])["error"]["code"] == "stream_interrupted"
    row = the_record()
    assert (row.state, row.outcome) == ("estimated", "StreamInterrupted")
    assert row.output_tokens


def test_client_that_leaves_stops_the_upstream(raw: httpx2.Client, alice: User, sandbox_url: str) -> None:
    a_key_of(alice, sandbox_url, "openai", model="sandbox-chat~chunks=5000~delay=20")
    httpx2.delete(f"{sandbox_url}/_sandbox/requests")
    body = {"model": "auto", "messages": ASK, "stream": True}
    with raw.stream("POST", "/v1/chat/completions", json=body) as answer:
        next(answer.iter_lines())

    def gone() -> bool:
        journal = httpx2.get(f"{sandbox_url}/_sandbox/requests").json()
        return journal["count"] == 1 and journal["items"][0]["client_gone"]

    wait_until(gone, "the sandbox sees that its client has gone")
    wait_until(lambda: the_record().state == "estimated", "the ledger closes the row")
    assert the_record().outcome == "cancelled"


# Embeddings


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings(encoding: Any, chat: openai.OpenAI, alice: User, sandbox_url: str) -> None:
    a_key_of(alice, sandbox_url, model="sandbox-embed")
    found = chat.embeddings.create(model="openai/sandbox-embed", input=["one", "two"], encoding_format=encoding)
    assert [row.index for row in found.data] == [0, 1]
    if encoding == "float":
        assert all(isinstance(number, float) for number in found.data[0].embedding)
    assert the_record().state == "settled"


def test_embeddings_of_tokens_go_to_whoever_takes_them(chat: openai.OpenAI, alice: User, sandbox_url: str) -> None:
    """Some clients count tokens themselves and send those."""
    a_key_of(alice, sandbox_url, "gemini", model="sandbox-embed")
    asked: list[Any] = [[[1, 2, 3], [4]], [5, 6]]
    with pytest.raises(openai.BadRequestError, match="texts, not tokens"):
        chat.embeddings.create(model="gemini/sandbox-embed", input=asked[0])
    a_key_of(alice, sandbox_url)
    for given in asked:
        found = chat.embeddings.create(model="openai/sandbox-embed", input=given)
        assert len(found.data) == (2 if given is asked[0] else 1)
    for bad in ([[1, "a"]], [[1], "a"], [[-1]], [[True]], [[]]):
        with pytest.raises(openai.BadRequestError):
            chat.embeddings.create(model="openai/sandbox-embed", input=bad)


@pytest.mark.parametrize("stream", [False, True])
def test_body_with_the_callers_own_key_is_not_sent(
    raw: httpx2.Client, alice: User, sandbox_url: str, stream: bool
) -> None:
    a_key_of(alice, sandbox_url)
    body = {"model": "auto", "stream": stream, "messages": [{"role": "user", "content": f"Is {KEY} right?"}]}
    answer = raw.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "secret_in_request"
    assert "your own OpenAI key ending in 6789" in answer.json()["error"]["message"]
    assert KEY not in answer.text
    assert not UsageRecord.objects.exists()
