"""Anthropic: errors, the list of models, and what the SDK is given."""

from __future__ import annotations

import asyncio
import traceback
from typing import Any

import anthropic
import pytest

from llm_credentials.providers import (
    AuthenticationFailed,
    BadProviderResponse,
    ContextLengthExceeded,
    DeadlineExceeded,
    LLMError,
    ModelNotFound,
    PermissionDenied,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
)
from llm_credentials.providers.tests.answering import (
    Answering,
    answering,
    of_events,
    of_json,
    of_text,
)
from llm_credentials.providers.tests.messages_wire import (
    EVERYTHING,
    HELLO,
    completed,
    error,
    message,
    streamed,
)

CANARY = "sk-ant-api03-" + "0123456789"


ERRORS: list[tuple[int, Any, type[LLMError]]] = [
    (400, error("invalid_request_error"), RequestRejected),
    (400, error("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"), ContextLengthExceeded),
    (400, error("invalid_request_error", "Your credit balance is too low to access the API."), QuotaExhausted),
    (400, error("invalid_request_error", "The word: prompt is too long"), RequestRejected),
    (400, error("billing_error"), QuotaExhausted),
    (400, error("invalid_request_error", code="organization_on_hold"), PermissionDenied),
    (401, error("authentication_error"), AuthenticationFailed),
    (402, error("billing_error"), QuotaExhausted),
    (402, error("api_error", code="linked_organization_spend_limit_reached"), QuotaExhausted),
    (403, error("permission_error"), PermissionDenied),
    (404, error("not_found_error"), ModelNotFound),
    (404, error("not_found_error", code="file_expired"), RequestRejected),
    (405, {}, RequestRejected),
    (408, error("timeout_error"), DeadlineExceeded),
    (408, {}, DeadlineExceeded),
    (409, error("conflict_error"), ProviderUnavailable),
    (413, error("request_too_large"), RequestRejected),
    (413, error("invalid_request_error", code="request_body_too_large_after_decoding"), RequestRejected),
    (422, {}, RequestRejected),
    (429, error("rate_limit_error"), RateLimited),
    (429, error("rate_limit_error", code="ramp_limit_exceeded"), RateLimited),
    (429, error("rate_limit_error", code="contract_spend_limit_reached"), QuotaExhausted),
    (429, error("rate_limit_error", code="enforced_spend_limit_reached"), QuotaExhausted),
    (500, error("api_error"), ProviderUnavailable),
    (502, {}, ProviderUnavailable),
    (503, {}, ProviderUnavailable),
    (504, error("timeout_error"), ProviderUnavailable),
    (529, error("overloaded_error"), ProviderUnavailable),
    (401, ["no", "object"], AuthenticationFailed),
    (429, "text", RateLimited),
    (403, {"error": "text"}, PermissionDenied),
    (401, {"error": {"type": None, "details": 7}}, AuthenticationFailed),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("status", "body", "expected"), ERRORS)
async def test_error_is_told_by_code_type_and_status(
    status: int, body: Any, expected: type[LLMError], stream: bool
) -> None:
    with pytest.raises(LLMError) as caught:
        await (streamed if stream else completed)(of_json(body, status))
    assert type(caught.value) is expected
    assert caught.value.status_code == status
    assert caught.value.provider == "anthropic"


@pytest.mark.parametrize("text", ["<html>bad gateway</html>", "", "\x00\xff"])
async def test_error_without_json_is_told_by_status(text: str) -> None:
    with pytest.raises(ProviderUnavailable):
        await completed(of_text(text, status=502))


async def test_error_keeps_numbers_and_ids_and_no_word_of_the_provider() -> None:
    async with answering(of_json(error("rate_limit_error"), 429, retry_after="12", request_id="req_3")) as server:
        client = server.client("anthropic", key=CANARY)
        with pytest.raises(RateLimited) as caught:
            await client.complete(HELLO)
    assert (caught.value.retry_after_s, caught.value.request_id) == (12.0, "req_3")
    assert caught.value.code == "rate_limit_error"
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(vars(caught.value))
    assert CANARY not in shown
    assert "SECRET" not in shown


# Lists of models


async def test_models_are_listed_page_by_page() -> None:
    first = {
        "data": [
            {"type": "model", "id": "claude-sonnet-5-5", "display_name": "Sonnet!", "max_input_tokens": 900_000},
            {"type": "model", "id": "claude-old", "display_name": "Old", "lifecycle": "retired"},
        ],
        "has_more": True,
        "last_id": "claude-old",
    }
    second = {"data": [{"type": "model", "id": "claude-opus-4-5-20251101"}, {"no": "id"}], "has_more": False}
    async with answering(of_json(first), of_json(second)) as server:
        models = await server.client("anthropic").list_models()
        asked = server.asked
    assert [(model.id, model.label, model.context_window) for model in models] == [
        ("claude-sonnet-5-5", "Sonnet!", 900_000),
        ("claude-opus-4-5-20251101", "Claude Opus 4.5", 200_000),
    ]
    assert all("vision" in model.capabilities for model in models)
    assert [entry.path for entry in asked] == ["/v1/models", "/v1/models"]
    assert asked[1].query["after_id"] == "claude-old"


@pytest.mark.parametrize("body", [[], {}, {"data": 7}])
async def test_malformed_list_of_models_is_a_bad_response(body: Any) -> None:
    async with answering(of_json(body)) as server:
        with pytest.raises(BadProviderResponse):
            await server.client("anthropic").list_models()


async def test_wrong_key_shows_in_the_list_of_models() -> None:
    async with answering(of_json(error("authentication_error"), 401)) as server:
        with pytest.raises(AuthenticationFailed):
            await server.client("anthropic").list_models()


# The SDK


async def test_environment_reaches_neither_address_nor_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    async with answering(of_json(message())) as decoy, answering(of_json(message())) as server:
        for name, value in {
            "ANTHROPIC_BASE_URL": decoy.url,
            "ANTHROPIC_API_KEY": "key-of-the-server",
            "ANTHROPIC_AUTH_TOKEN": "token-of-the-server",
            "ANTHROPIC_CUSTOM_HEADERS": "x-decoy: leaked\nauthorization: Bearer leaked",
            "ANTHROPIC_PROFILE": "decoy",
            "HTTP_PROXY": decoy.url,
            "ALL_PROXY": decoy.url,
        }.items():
            monkeypatch.setenv(name, value)
        client = server.client("anthropic", key="key-of-alice")
        await client.complete(HELLO)
        assert not decoy.asked
        headers = server.asked[-1].headers
    assert headers["authorization"] == "Bearer key-of-alice"
    assert "x-decoy" not in headers
    assert not any("server" in value or "leaked" in value for value in headers.values())


async def test_client_works_in_one_event_loop_after_another() -> None:
    async with answering(of_json(message())) as server:
        client = server.client("anthropic")
        await client.complete(HELLO)

        def elsewhere() -> str:
            async def call() -> str:
                from llm_credentials.providers import transport

                try:
                    return (await client.complete(HELLO)).text
                finally:
                    await transport.close_connections()

            return asyncio.run(call())

        assert await asyncio.to_thread(elsewhere) == "Hello."
        assert (await client.complete(HELLO)).text == "Hello."


def sdk_of(server: Answering) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(api_key="key-of-alice", base_url=server.url, max_retries=0)


async def test_closed_client_takes_no_other_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "key-of-the-server")
    async with answering(of_json(message())) as server:
        client = server.client("anthropic")
        await client.aclose()
        with pytest.raises(ProviderUnavailable):
            await client.complete(HELLO)
        assert not server.asked


async def test_our_reading_agrees_with_the_sdks() -> None:
    asked: Any = {"model": "claude-opus-4-5", "max_tokens": 50, "messages": [{"role": "user", "content": "Hello"}]}
    async with answering(of_events(*EVERYTHING, named=True, size=11)) as server, sdk_of(server) as sdk:
        async with sdk.messages.stream(**asked) as stream:
            theirs = await stream.get_final_message()
        ours = [chunk async for chunk in server.client("anthropic").stream(HELLO)][-1].response
    assert ours is not None
    thinking, text, first, second = theirs.content
    assert (thinking.type, text.type, first.type, second.type) == ("thinking", "text", "tool_use", "tool_use")
    assert (ours.reasoning, ours.text) == (thinking.thinking, text.text)
    assert [(call.id, call.name, call.arguments) for call in ours.tool_calls] == [
        (first.id, first.name, first.input),
        (second.id, second.name, second.input),
    ]
    assert ours.usage.output_tokens == theirs.usage.output_tokens
    assert ours.usage.input_tokens == theirs.usage.input_tokens + 5 + 2
