"""What every client keeps to, whoever it talks to."""

from __future__ import annotations

import asyncio
import copy
import pickle
import traceback
from typing import Any

import pytest

from llm_credentials.providers import (
    ConnectionFailed,
    DeadlineExceeded,
    EgressBlocked,
    EgressPolicy,
    LLMMessage,
    ProviderUnavailable,
    RequestRejected,
    StreamInterrupted,
    ToolDefinition,
    UnknownProvider,
    build_client,
    get_spec,
    registry,
    specs,
    transport,
)
from llm_credentials.providers.tests.answering import Answer, answering, of_events, of_json
from llm_credentials.providers.tests.clients import CHAT, HELLO, KEY, SLUGS, chunk

LOOK = ToolDefinition(name="look", description="", parameters={})


# Arguments


@pytest.mark.parametrize(
    "arguments",
    [
        {"model": "../../../admin"},
        {"model": "..%2f"},
        {"model": "a?x=1"},
        {"model": "a#f"},
        {"model": "a b\r\nX: 1"},
        {"model": "models/../../x"},
        {"model": "x" * 10_000},
        {"model": "grüße"},
        {"model": "a//b"},
        {"max_tokens": -1},
        {"max_tokens": 0},
        {"max_tokens": 2**63},
        {"max_tokens": "10"},
        {"max_tokens": 1e3},
        {"max_tokens": float("inf")},
        {"max_tokens": True},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"temperature": -1},
        {"temperature": 3},
        {"temperature": True},
        {"temperature": "0.5"},
        {"top_p": 1.1},
        {"top_p": float("nan")},
        {"stop": ["x"] * 100_000},
        {"tool_choice": "required"},
        {"tool_choice": "look"},
        {"tools": [LOOK], "tool_choice": "other"},
        {"timeout_s": 0},
        {"timeout_s": -1},
        {"timeout_s": float("nan")},
        {"timeout_s": float("inf")},
    ],
)
async def test_bad_argument_is_refused_before_anything_is_sent(arguments: dict[str, Any]) -> None:
    async with answering(of_json(CHAT)) as server:
        client = server.client("openai")
        with pytest.raises(RequestRejected) as caught:
            await client.complete(HELLO, **arguments)
        assert caught.value.provider == "openai"
        with pytest.raises(RequestRejected):
            [chunk async for chunk in client.stream(HELLO, **arguments)]
        assert server.asked == []


async def test_no_message_is_refused() -> None:
    async with answering(of_json(CHAT)) as server:
        with pytest.raises(RequestRejected):
            await server.client("openai").complete([])


async def test_value_that_is_no_json_is_refused() -> None:
    async with answering(of_json(CHAT)) as server:
        for broken in ({"type": object()}, {"type": float("nan")}, {1: 2}):
            tool = ToolDefinition(name="look", description="", parameters={"a": broken})
            try:
                await server.client("openai").complete(HELLO, tools=[tool])
            except RequestRejected:
                continue
            assert "NaN" not in server.asked[-1].body.decode()
        with pytest.raises(RequestRejected):
            await server.client("openai").complete([LLMMessage.user("half \ud83d")])


# Building


@pytest.mark.parametrize(
    "key",
    [
        "sk-a\nX-Evil: 1",
        "sk-a\rb",
        "sk-a\x00",
        "sk-a\tb",
        "sk-a b",
        "sk-\u200b",
        "\ufeffsk-a",
        "sk-\u201ca",
        "sk-\U0001f600",
        "sk-\udc80",
        "x" * 1_000_000,
    ],
)
def test_impossible_key_is_refused_without_being_shown(key: str) -> None:
    for slug in SLUGS:
        address = None if get_spec(slug).base_url else "https://llm.example.com"
        with pytest.raises(RequestRejected) as caught:
            build_client(slug, api_key=key, model="m", base_url=address)
        shown = "".join(traceback.format_exception(caught.value))
        assert "sk-" not in shown.partition("RequestRejected:")[2]


@pytest.mark.parametrize("key", [None, "", "   ", "\n"])
def test_missing_key_is_refused_where_one_is_needed(key: str | None) -> None:
    for slug in SLUGS:
        spec = get_spec(slug)
        policy = EgressPolicy(allow=["localhost:11434"])
        address = spec.base_url or "https://llm.example.com"
        if spec.key_required:
            with pytest.raises(RequestRejected):
                build_client(slug, api_key=key, model="m", base_url=address, egress=policy)
        else:
            build_client(slug, api_key=key, model="m", base_url=address, egress=policy)


def test_key_is_trimmed_once_at_its_ends() -> None:
    client = build_client("openai", api_key=f"  {KEY}\n", model="m")
    assert client.forward_headers()["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("slug", ["", "nobody", "OpenAI", "../openai", "x" * 5000])
def test_unknown_provider_is_refused(slug: str) -> None:
    with pytest.raises(UnknownProvider) as caught:
        build_client(slug, api_key=KEY, model="m")
    assert len(str(caught.value)) < 200


def test_provider_that_the_site_places_is_built_at_a_given_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_site_address", registry._no_site_address)
    policy = EgressPolicy(allow=["127.0.0.1:8900"])
    client = build_client("sandbox", api_key=KEY, model="m", base_url="http://127.0.0.1:8900/v1", egress=policy)
    assert client.base_url == "http://127.0.0.1:8900/v1"
    with pytest.raises(UnknownProvider):
        build_client("sandbox", api_key=KEY, model="m")


def test_missing_address_is_refused() -> None:
    for slug in ("openai_compatible", "azure_openai"):
        with pytest.raises(RequestRejected):
            build_client(slug, api_key=KEY, model="m")


@pytest.mark.parametrize("slug", SLUGS)
@pytest.mark.parametrize(
    "address", ["http://169.254.169.254/", "https://127.0.0.1", "http://api.example.com", "file:///x"]
)
def test_refused_address_is_refused_by_every_provider(slug: str, address: str) -> None:
    with pytest.raises(EgressBlocked):
        build_client(slug, api_key=KEY, model="m", base_url=address)


def test_unknown_option_is_refused() -> None:
    with pytest.raises(RequestRejected):
        build_client("openai", api_key=KEY, model="m", options={"organization": "x"})
    client = build_client("azure_openai", api_key=KEY, model="m", base_url="https://r.openai.azure.com")
    assert client.options == {"api_version": "2024-10-21", "deployment": ""}


# What shows


def test_client_shows_no_key() -> None:
    for slug in SLUGS:
        address = None if get_spec(slug).base_url and slug != "ollama" else "https://llm.example.com"
        client = build_client(slug, api_key=KEY, model="m", base_url=address)
        assert KEY not in repr(client) + str(client)
        for copied in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError):
                copied(client)


# Time, and ends


async def test_deadline_counts_from_the_call_to_the_last_byte() -> None:
    silent = Answer([b'{"choices"'], 200, {}, open_s=30)
    for answer in (silent, Answer([], 200, {}, open_s=30)):
        async with answering(answer) as server:
            with pytest.raises(DeadlineExceeded):
                await server.client("openai").complete(HELLO, timeout_s=0.2)
            with pytest.raises(DeadlineExceeded):
                [chunk async for chunk in server.client("openai").stream(HELLO, timeout_s=0.2)]


async def test_deadline_in_the_middle_of_a_stream_leaves_what_came() -> None:
    answer = of_events(chunk("Half"))
    answer.open_s = 30
    async with answering(answer) as server:
        with pytest.raises(StreamInterrupted) as caught:
            [each async for each in server.client("openai").stream(HELLO, timeout_s=0.3)]
    assert caught.value.partial is not None
    assert caught.value.partial.text == "Half"


async def test_cancelled_call_is_cancelled() -> None:
    async with answering(Answer([], 200, {}, open_s=30)) as server:
        call = asyncio.ensure_future(server.client("openai").complete(HELLO))
        done, _ = await asyncio.wait([call], timeout=0.1)
        assert not done
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_nobody_there_is_a_failed_connection() -> None:
    policy = EgressPolicy(allow=["127.0.0.1:9"])
    client = build_client("openai", api_key=KEY, model="m", base_url="http://127.0.0.1:9/v1", egress=policy)
    with pytest.raises(ConnectionFailed):
        await client.complete(HELLO)
    with pytest.raises(ConnectionFailed):
        [chunk async for chunk in client.stream(HELLO)]
    with pytest.raises(ConnectionFailed):
        await client.list_models()
    with pytest.raises(ConnectionFailed):
        await client.forward(b"{}", path="/chat/completions", stream=False)


async def test_client_is_shared_between_tasks() -> None:
    async with answering(of_json(CHAT)) as server:
        client = server.client("openai")
        answers = await asyncio.gather(*(client.complete(HELLO) for _ in range(50)))
        assert [answer.text for answer in answers] == ["Hi"] * 50


async def test_clients_share_connections_and_not_keys() -> None:
    async with answering(of_json(CHAT)) as server:
        clients = {key: server.client("openai", key=key) for key in ("key-of-alice", "key-of-bob")}
        for _ in range(20):
            for client in clients.values():
                await client.complete(HELLO)
        sent = [asked.headers["authorization"] for asked in server.asked]
        assert sent == ["Bearer key-of-alice", "Bearer key-of-bob"] * 20


def test_client_outlives_its_event_loop() -> None:
    clients: list[Any] = []

    async def use() -> str:
        async with answering(of_json(CHAT)) as server:
            if not clients:
                clients.append(server.client("openai"))
            client = clients[0]
            client.base_url, client.egress = server.url, server.egress
            return (await client.complete(HELLO)).text

    assert [asyncio.run(use()) for _ in range(3)] == ["Hi"] * 3


async def test_closed_client_calls_nobody() -> None:
    async with answering(of_json(CHAT)) as server:
        client = server.client("openai")
        await client.complete(HELLO)
        await client.aclose()
        for call in (client.complete(HELLO), client.list_models(), client.embed(["a"])):
            with pytest.raises(ProviderUnavailable):
                await call
        with pytest.raises(ProviderUnavailable):
            [chunk async for chunk in client.stream(HELLO)]
        assert len(server.asked) == 1


async def test_forward_sends_bytes_as_they_are() -> None:
    body = b'{"model":   "m", "odd": [1,2 ]}'
    async with answering(of_json({"error": {"code": "x"}}, 404, x_request_id="r")) as server:
        forwarded = await server.client("openai").forward(body, path="/v1/chat/completions", stream=False)
        assert forwarded.status == 404
        assert b"".join([piece async for piece in forwarded.body]) == b'{"error": {"code": "x"}}'
        assert server.asked[0].body == body
        assert server.asked[0].headers["authorization"] == "Bearer key-of-alice"
        assert server.asked[0].headers["accept-encoding"] == "identity"


async def test_forward_takes_the_headers_of_its_wire_along_and_no_others() -> None:
    given = {
        "anthropic-beta": "one-2026-01-01,two",
        "anthropic-version": "2023-06-01",
        "x-api-key": "theirs",
        "cookie": "c",
    }
    async with answering(of_json({})) as server:
        for provider in ("openai", "anthropic"):
            await server.client(provider).forward(b"{}", path="/v1/messages", stream=False, headers=given)
        await server.client("anthropic").forward(
            b"{}", path="/v1/x", stream=False, headers={"anthropic-beta": "a\r\nb: c"}
        )
        chat, messages, odd = (asked.headers for asked in server.asked)
    assert "anthropic-beta" not in chat and "anthropic-beta" not in odd
    assert (messages["anthropic-beta"], messages["anthropic-version"]) == ("one-2026-01-01,two", "2023-06-01")
    assert "cookie" not in messages and messages["x-api-key"] == "key-of-alice"


def test_every_spec_of_this_site_builds() -> None:
    assert {spec.slug for spec in specs()} >= set(SLUGS)
    for slug in SLUGS:
        policy = EgressPolicy(allow=["localhost:11434"])
        client = build_client(
            slug, api_key=KEY, model="m", base_url=get_spec(slug).base_url or "https://l.example.com", egress=policy
        )
        assert (client.provider, client.model) == (slug, "m")
        assert client.base_url == transport.check_url(client.base_url, policy)
