"""What comes back on the generateContent wire: answers, streams, errors, lists."""

from __future__ import annotations

import json
import traceback
from typing import Any

import pytest
from google import genai

from llm_credentials.providers import (
    AuthenticationFailed,
    BadProviderResponse,
    ConnectionFailed,
    ContentFiltered,
    ContextLengthExceeded,
    DeadlineExceeded,
    LLMError,
    LLMMessage,
    LLMStreamChunk,
    ModelNotFound,
    PermissionDenied,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
    StreamInterrupted,
    Usage,
)
from llm_credentials.providers.tests.answering import Answer, answering, of_json, of_text

HELLO = [LLMMessage.user("Hello")]
MODEL = "gemini-3.8-flash"
CANARY = "AIza" + "0123456789-canary"


def event(*parts: dict[str, Any], finish: str | None = None, usage: dict[str, int] | None = None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": list(parts), "role": "model"}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    counted = {"promptTokenCount": 10, "totalTokenCount": 10} if usage is None else usage
    return {
        "candidates": [candidate],
        "usageMetadata": counted,
        "modelVersion": "gemini-3.8-flash-001",
        "responseId": "r-1",
    }


EVERYTHING = (
    event({"text": "Let me ", "thought": True}),
    event({"text": "see…", "thought": True}),
    event({"text": "Grüße, "}),
    event({"text": "日本 🎉"}),
    event(
        {"functionCall": {"id": "c1", "name": "get_weather", "args": {"city": "Zürich"}}, "thoughtSignature": "c2ln"}
    ),
    event({"functionCall": {"name": "get_time", "args": {}}}),
    event(
        {"text": ""},
        finish="STOP",
        usage={
            "promptTokenCount": 10,
            "toolUsePromptTokenCount": 3,
            "cachedContentTokenCount": 4,
            "candidatesTokenCount": 20,
            "thoughtsTokenCount": 7,
        },
    ),
)


def of_events(*events: Any, cut: bool = False, size: int = 0) -> Answer:
    """As this wire sends them: no names, CRLF."""
    data = "".join(f"data: {json.dumps(value, ensure_ascii=False)}\r\n\r\n" for value in events).encode()
    pieces = [data[start : start + size] for start in range(0, len(data), size)] if size else [data]
    return Answer(pieces, 200, {"content-type": "text/event-stream"}, cut)


async def completed(answer: Answer, **more: Any) -> Any:
    async with answering(answer) as server:
        return await server.client("gemini", model=MODEL).complete(HELLO, **more)


async def streamed(answer: Answer, **more: Any) -> list[LLMStreamChunk]:
    async with answering(answer) as server:
        return [chunk async for chunk in server.client("gemini", model=MODEL).stream(HELLO, **more)]


# Whole answers


async def test_answer_is_read() -> None:
    response = await completed(of_json(event({"text": "Hel"}, {"text": "lo."}, finish="STOP")))
    assert (response.text, response.finish_reason, response.model) == ("Hello.", "stop", "gemini-3.8-flash-001")
    assert (response.provider, response.request_id) == ("gemini", "r-1")
    assert len(response.message.parts) == 1


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"),
        ("BLOCKLIST", "content_filter"),
        ("PROHIBITED_CONTENT", "content_filter"),
        ("SPII", "content_filter"),
        ("IMAGE_SAFETY", "content_filter"),
        ("MALFORMED_FUNCTION_CALL", "other"),
        ("LANGUAGE", "other"),
        ("SOMETHING_NEW", "other"),
    ],
)
async def test_finish_reason_becomes_our_word(reason: str, expected: str) -> None:
    assert (await completed(of_json(event({"text": "x"}, finish=reason)))).finish_reason == expected


async def test_filtered_answer_without_content_is_an_answer() -> None:
    body = {"candidates": [{"content": {}, "finishReason": "SAFETY"}], "usageMetadata": {"promptTokenCount": 14}}
    response = await completed(of_json(body))
    assert (response.text, response.finish_reason) == ("", "content_filter")


async def test_refused_prompt_is_content_filtered() -> None:
    body = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {"promptTokenCount": 14}}
    with pytest.raises(ContentFiltered) as caught:
        await completed(of_json(body))
    assert caught.value.code == "PROHIBITED_CONTENT"
    with pytest.raises(ContentFiltered):
        await streamed(of_events(body))


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (
            {"promptTokenCount": 10, "candidatesTokenCount": 4, "thoughtsTokenCount": 6, "cachedContentTokenCount": 8},
            Usage(input_tokens=10, output_tokens=10, cache_read_tokens=8, reasoning_tokens=6),
        ),
        ({"promptTokenCount": 10, "toolUsePromptTokenCount": 5}, Usage(input_tokens=15)),
        (
            {"promptTokenCount": 10, "thoughtsTokenCount": 6},
            Usage(input_tokens=10, output_tokens=6, reasoning_tokens=6),
        ),
        ({}, Usage()),
        ({"promptTokenCount": -1, "candidatesTokenCount": "4", "toolUsePromptTokenCount": 5}, Usage()),
    ],
)
async def test_usage_counts_thoughts_and_leaves_unknown_unknown(usage: Any, expected: Usage) -> None:
    assert (await completed(of_json(event({"text": "x"}, finish="STOP", usage=usage)))).usage == expected


async def test_calls_without_or_with_the_same_id_are_told_apart() -> None:
    parts = [
        {"functionCall": {"name": "a"}},
        {"functionCall": {"id": "same", "name": "b", "args": None}},
        {"functionCall": {"id": "same", "name": "c", "args": [1]}},
    ]
    response = await completed(of_json(event(*parts, finish="STOP")))
    assert response.finish_reason == "tool_calls"
    assert len({call.id for call in response.tool_calls}) == 3
    assert [call.invalid_arguments for call in response.tool_calls] == [None, None, "[1]"]


@pytest.mark.parametrize(
    "answer",
    [
        of_text("<html>Not here</html>"),
        of_text("", "application/json"),
        of_text("{", "application/json"),
        of_json([]),
        of_json("Hello."),
        of_json({}),
        of_json({"candidates": []}),
        of_json({"candidates": 7}),
        of_json({"candidates": ["x"]}),
        of_json({"candidates": [{"content": {"parts": 7}}]}),
        of_json({"candidates": [{"content": {"parts": ["x"]}}]}),
        of_json({"candidates": [{"content": {"parts": [{"functionCall": {}}]}}]}),
        of_json({"candidates": [{"content": {"parts": [{"functionCall": "x"}]}}]}),
        of_json({"candidates": [{}]}),
        of_json({"usageMetadata": {"promptTokenCount": 3}}),
        Answer([], 204),
        Answer([], 302, {"location": "https://example.com/"}),
    ],
)
async def test_answer_of_the_wrong_shape_is_a_bad_response(answer: Answer) -> None:
    with pytest.raises(BadProviderResponse):
        await completed(answer)


async def test_error_with_status_200_is_its_own_class() -> None:
    with pytest.raises(ProviderUnavailable):
        await completed(of_json({"error": {"code": 503, "status": "UNAVAILABLE", "message": "x"}}))


@pytest.mark.parametrize("body", [[], {}, {"embeddings": []}, {"embeddings": [{}]}, {"embeddings": [{"values": 7}]}])
async def test_malformed_embeddings_are_a_bad_response(body: Any) -> None:
    async with answering(of_json(body)) as server:
        with pytest.raises(BadProviderResponse):
            await server.client("gemini").embed(["x"])


# Streams


@pytest.mark.parametrize("size", [0, 1, 7])
async def test_stream_gives_everything_wherever_it_is_cut(size: int) -> None:
    chunks = await streamed(of_events(*EVERYTHING, size=size))
    assert [(chunk.type, chunk.text) for chunk in chunks if chunk.text] == [
        ("reasoning", "Let me "),
        ("reasoning", "see…"),
        ("delta", "Grüße, "),
        ("delta", "日本 🎉"),
    ]
    response = chunks[-1].response
    assert chunks[-1].type == "done"
    assert response is not None
    assert tuple(chunk.tool_call for chunk in chunks if chunk.type == "tool_call") == response.tool_calls
    assert [call.arguments for call in response.tool_calls] == [{"city": "Zürich"}, {}]
    assert response.tool_calls[0].id == "c1"
    assert (response.text, response.reasoning, response.finish_reason) == (
        "Grüße, 日本 🎉",
        "Let me see…",
        "tool_calls",
    )
    assert response.usage == Usage(input_tokens=13, output_tokens=27, cache_read_tokens=4, reasoning_tokens=7)
    assert len(response.message.parts) == 4


async def test_stream_and_whole_answer_say_the_same() -> None:
    parts = [part for value in EVERYTHING for part in value["candidates"][0]["content"]["parts"]]
    chunks = await streamed(of_events(*EVERYTHING))
    assert chunks[-1].response is not None
    assert chunks[-1].response.message == (await completed(of_json(event(*parts, finish="STOP")))).message


async def test_stream_asks_for_events() -> None:
    async with answering(of_events(*EVERYTHING)) as server:
        assert [chunk async for chunk in server.client("gemini", model=MODEL).stream(HELLO)]
        asked = server.asked[-1]
    assert asked.path == "/v1beta/models/gemini-3.8-flash:streamGenerateContent"
    assert asked.query == {"alt": "sse"}


@pytest.mark.parametrize("cut", [True, False])
async def test_stream_cut_before_content_is_a_failed_connection(cut: bool) -> None:
    with pytest.raises(ConnectionFailed):
        await streamed(of_events(event({"text": ""}), cut=cut))


@pytest.mark.parametrize("cut", [True, False])
async def test_stream_without_finish_reason_is_interrupted_and_keeps_the_partial_answer(cut: bool) -> None:
    with pytest.raises(StreamInterrupted) as caught:
        await streamed(of_events(event({"text": "Hel"}), event({"text": "lo."}), cut=cut))
    assert caught.value.partial is not None
    assert caught.value.partial.text == "Hello."
    assert caught.value.partial.usage.input_tokens == 10


async def test_error_event_before_and_after_content() -> None:
    error = {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "x"}}
    with pytest.raises(RateLimited):
        await streamed(of_events(error))
    with pytest.raises(StreamInterrupted) as caught:
        await streamed(of_events(event({"text": "Hello."}), error))
    assert (caught.value.code, caught.value.status_code) == ("RESOURCE_EXHAUSTED", 429)
    assert caught.value.partial is not None
    assert caught.value.partial.text == "Hello."


@pytest.mark.parametrize(
    "answer",
    [
        of_text("<html>Not here</html>"),
        of_text("", "text/event-stream"),
        of_text("data: {\n\n", "text/event-stream"),
        of_text("data: 7\n\n", "text/event-stream"),
        of_events({"candidates": 7}),
        of_events({"candidates": []}),
    ],
)
async def test_stream_of_the_wrong_shape_is_a_bad_response(answer: Answer) -> None:
    with pytest.raises(BadProviderResponse):
        await streamed(answer)


async def test_stream_may_come_as_a_list_of_its_pieces() -> None:
    chunks = await streamed(of_json(list(EVERYTHING)))
    assert chunks[-1].response is not None
    assert chunks[-1].response.text == "Grüße, 日本 🎉"
    assert [chunk.type for chunk in chunks] == ["reasoning"] * 2 + ["delta"] * 2 + ["tool_call"] * 2 + ["done"]


async def test_usage_may_come_alone_after_the_finish_reason() -> None:
    last = {"usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 99}}
    chunks = await streamed(of_events(event({"text": "Hello."}, finish="STOP"), last))
    assert chunks[-1].response is not None
    assert chunks[-1].response.usage.output_tokens == 99


# Errors


def error(code: int, status: str, *details: dict[str, Any], text: str = "About AIzaSECRET") -> dict[str, Any]:
    return {"error": {"code": code, "message": text, "status": status, "details": list(details)}}


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
