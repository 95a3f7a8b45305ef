"""Gemini: errors, the list of models, and what the SDK is given."""

from __future__ import annotations

import traceback
from typing import Any

import pytest
from google import genai

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
from llm_credentials.providers.tests.answering import Answer, answering, of_json, of_text
from llm_credentials.providers.tests.generate_wire import (
    EVERYTHING,
    HELLO,
    MODEL,
    completed,
    error,
    event,
    of_events,
    streamed,
)

CANARY = "AIza" + "0123456789-canary"


def info(reason: str) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "googleapis.com"}


def quota(*ids: str, value: str = "15") -> dict[str, Any]:
    violations = [{"quotaMetric": "generate_requests", "quotaId": id_, "quotaValue": value} for id_ in ids]
    return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": violations}


RETRY = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.07s"}
PER_MINUTE = "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"
PER_DAY = "GenerateRequestsPerDayPerProjectPerModel-FreeTier"

ERRORS: list[tuple[int, Any, type[LLMError]]] = [
    (400, error(400, "INVALID_ARGUMENT"), RequestRejected),
    (400, error(400, "INVALID_ARGUMENT", info("API_KEY_INVALID")), AuthenticationFailed),
    (400, error(400, "INVALID_ARGUMENT", text="The input token count (9) exceeds the maximum"), ContextLengthExceeded),
    (400, error(400, "FAILED_PRECONDITION"), PermissionDenied),
    (401, error(401, "UNAUTHENTICATED"), AuthenticationFailed),
    (401, error(401, "UNAUTHENTICATED", info("ACCESS_TOKEN_TYPE_UNSUPPORTED")), AuthenticationFailed),
    (402, {}, QuotaExhausted),
    (403, error(403, "PERMISSION_DENIED"), PermissionDenied),
    (403, error(403, "PERMISSION_DENIED", info("SERVICE_DISABLED")), PermissionDenied),
    (403, error(403, "PERMISSION_DENIED", info("BILLING_DISABLED")), QuotaExhausted),
    (404, error(404, "NOT_FOUND"), ModelNotFound),
    (405, {}, RequestRejected),
    (408, {}, DeadlineExceeded),
    (409, error(409, "ABORTED"), ProviderUnavailable),
    (413, {}, RequestRejected),
    (422, {}, RequestRejected),
    (429, error(429, "RESOURCE_EXHAUSTED"), RateLimited),
    (429, error(429, "RESOURCE_EXHAUSTED", quota(PER_MINUTE), RETRY), RateLimited),
    (429, error(429, "RESOURCE_EXHAUSTED", quota(PER_MINUTE, PER_DAY), RETRY), QuotaExhausted),
    (429, error(429, "RESOURCE_EXHAUSTED", quota(PER_MINUTE, value="0")), QuotaExhausted),
    (429, error(429, "RESOURCE_EXHAUSTED", info("RATE_LIMIT_EXCEEDED"), quota(PER_DAY)), QuotaExhausted),
    (429, error(429, "RESOURCE_EXHAUSTED", text="Your prepayment credits are depleted."), QuotaExhausted),
    (429, {}, RateLimited),
    (499, error(499, "CANCELLED"), ProviderUnavailable),
    (500, error(500, "INTERNAL"), ProviderUnavailable),
    (502, {}, ProviderUnavailable),
    (503, error(503, "UNAVAILABLE"), ProviderUnavailable),
    (504, error(504, "DEADLINE_EXCEEDED"), ProviderUnavailable),
    (529, {}, ProviderUnavailable),
    (400, [error(400, "INVALID_ARGUMENT", info("API_KEY_INVALID"))], AuthenticationFailed),
    (401, ["no", "object"], AuthenticationFailed),
    (429, "text", RateLimited),
    (403, {"error": "text"}, PermissionDenied),
    (401, {"error": {"status": 7, "details": [7, {"reason": 7, "violations": [7]}]}}, AuthenticationFailed),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("status", "body", "expected"), ERRORS)
async def test_error_is_told_by_reason_word_and_status(
    status: int, body: Any, expected: type[LLMError], stream: bool
) -> None:
    with pytest.raises(LLMError) as caught:
        await (streamed if stream else completed)(of_json(body, status))
    assert type(caught.value) is expected
    assert caught.value.status_code == status
    assert caught.value.provider == "gemini"


@pytest.mark.parametrize(
    "answer", [of_text("<html>bad gateway</html>", status=502), of_text("", status=502), Answer([b"\x00\xff\xfe"], 502)]
)
async def test_error_without_json_is_an_error_of_the_provider(answer: Answer) -> None:
    with pytest.raises((ProviderUnavailable, BadProviderResponse)):
        await completed(answer)


async def test_error_says_when_to_come_back() -> None:
    with pytest.raises(RateLimited) as caught:
        await completed(of_json(error(429, "RESOURCE_EXHAUSTED", quota(PER_MINUTE), RETRY), 429))
    assert caught.value.retry_after_s == 34.07
    with pytest.raises(RateLimited) as caught:
        await completed(of_json(error(429, "RESOURCE_EXHAUSTED"), 429, retry_after="5"))
    assert caught.value.retry_after_s == 5.0


async def test_error_has_no_word_of_the_provider_and_no_key() -> None:
    async with answering(of_json(error(400, "INVALID_ARGUMENT", info("API_KEY_INVALID")), 400)) as server:
        client = server.client("gemini", key=CANARY)
        with pytest.raises(AuthenticationFailed) as caught:
            await client.complete(HELLO)
    assert caught.value.code == "API_KEY_INVALID"
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(vars(caught.value))
    assert CANARY not in shown
    assert "SECRET" not in shown


async def test_key_that_is_a_session_token_is_refused_in_words() -> None:
    async with answering(of_json({})) as server:
        with pytest.raises(AuthenticationFailed):
            await server.client("gemini", key="auth_tokens/abc").complete(HELLO)
        assert not server.asked


# Lists of models


async def test_models_are_listed_page_by_page() -> None:
    first = {
        "models": [
            {
                "name": "models/gemini-3.8-flash",
                "displayName": "Flash!",
                "inputTokenLimit": 900_000,
                "supportedGenerationMethods": ["generateContent"],
            },
            {"name": "models/new-thinker", "supportedGenerationMethods": ["generateContent"], "thinking": True},
            {"name": "models/gemini-embedding-2", "supportedGenerationMethods": ["embedContent"]},
            {"name": "models/veo", "supportedGenerationMethods": ["predictLongRunning"]},
        ],
        "nextPageToken": "a/b=",
    }
    second = {"models": [{"name": "models/plain", "supportedGenerationMethods": ["generateContent"]}, "x", {}]}
    async with answering(of_json(first), of_json(second)) as server:
        models = await server.client("gemini").list_models()
        asked = server.asked
    assert [(model.id, model.label, model.context_window) for model in models] == [
        ("gemini-3.8-flash", "Flash!", 900_000),
        ("new-thinker", "new-thinker", None),
        ("gemini-embedding-2", "Gemini Embedding 2", 8_192),
        ("plain", "plain", None),
    ]
    assert "reasoning" in models[1].capabilities
    assert models[2].capabilities == {"embeddings"}
    assert "reasoning" not in models[3].capabilities
    assert [entry.path for entry in asked] == ["/v1beta/models", "/v1beta/models"]
    assert asked[1].query["pageToken"] == "a/b="


@pytest.mark.parametrize("body", [[], {"models": 7}])
async def test_malformed_list_of_models_is_a_bad_response(body: Any) -> None:
    async with answering(of_json(body)) as server:
        with pytest.raises(BadProviderResponse):
            await server.client("gemini").list_models()


# The SDK


async def test_environment_reaches_neither_address_nor_key(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = of_json(event({"text": "Hi."}, finish="STOP"))
    async with answering(answer) as decoy, answering(answer) as server:
        for name, value in {
            "GOOGLE_API_KEY": "key-of-the-server",
            "GEMINI_API_KEY": "key-of-the-server",
            "GOOGLE_GEMINI_BASE_URL": decoy.url,
            "GOOGLE_VERTEX_BASE_URL": decoy.url,
            "GOOGLE_GENAI_USE_VERTEXAI": "true",
            "GOOGLE_GENAI_USE_ENTERPRISE": "true",
            "GOOGLE_GENAI_API_VERSION": "v9",
            "GOOGLE_GENAI_CLIENT_MODE": "replay",
            "GOOGLE_CLOUD_PROJECT": "project-of-the-server",
            "GOOGLE_CLOUD_LOCATION": "nowhere",
            "HTTP_PROXY": decoy.url,
            "ALL_PROXY": decoy.url,
        }.items():
            monkeypatch.setenv(name, value)
        await server.client("gemini", model=MODEL, key="key-of-alice").complete(HELLO)
        assert not decoy.asked
        asked = server.asked[-1]
    assert asked.path == "/v1beta/models/gemini-3.8-flash:generateContent"
    assert asked.headers["x-goog-api-key"] == "key-of-alice"
    assert not any("server" in value for value in asked.headers.values())


def test_private_surface_of_the_sdk_is_still_there() -> None:
    """The SDK has no public call that leaves an answer's bytes alone; this is all of its inside that is used."""
    import inspect

    from google.genai._api_client import BaseApiClient, EphemeralTokenAPIKeyError, HttpRequest, HttpResponse

    assert issubclass(EphemeralTokenAPIKeyError, ValueError)
    assert list(inspect.signature(BaseApiClient._build_request).parameters)[:4] == [
        "self",
        "http_method",
        "path",
        "request_dict",
    ]
    once = inspect.signature(BaseApiClient._async_request_once).parameters
    assert list(once)[:3] == ["self", "http_request", "stream"]
    assert "data" in HttpRequest.__dataclass_fields__
    assert "response_stream" in inspect.signature(HttpResponse.__init__).parameters or hasattr(
        HttpResponse({}, None), "response_stream"
    )


async def test_closed_client_takes_no_other_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "key-of-the-server")
    async with answering(of_json(event({"text": "Hi."}, finish="STOP"))) as server:
        client = server.client("gemini")
        await client.aclose()
        with pytest.raises(ProviderUnavailable):
            await client.complete(HELLO)
        assert not server.asked


async def test_our_reading_agrees_with_the_sdks() -> None:
    async with answering(of_events(*EVERYTHING, size=11)) as server:
        options = genai.types.HttpOptions(base_url=server.url, api_version="v1beta")
        sdk = genai.Client(api_key="key-of-alice", http_options=options)
        stream = await sdk.aio.models.generate_content_stream(model=MODEL, contents="Hello")
        theirs = [chunk async for chunk in stream]
        await sdk.aio.aclose()
        ours = [chunk async for chunk in server.client("gemini", model=MODEL).stream(HELLO)][-1].response
    assert ours is not None
    parts = [part for chunk in theirs for part in chunk.candidates[0].content.parts]
    assert ours.text == "".join(part.text for part in parts if part.text and not part.thought)
    assert ours.reasoning == "".join(part.text for part in parts if part.text and part.thought)
    assert [(call.name, call.arguments) for call in ours.tool_calls] == [
        (part.function_call.name, part.function_call.args) for part in parts if part.function_call
    ]
    usage = theirs[-1].usage_metadata
    assert ours.usage.output_tokens == usage.candidates_token_count + usage.thoughts_token_count
    assert ours.usage.input_tokens == usage.prompt_token_count + usage.tool_use_prompt_token_count
