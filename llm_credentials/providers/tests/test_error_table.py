"""What every wire must make alike of a status, an error inside an answer, a wait and a request id.

Codes that only one wire has are tested beside its answers.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from llm_credentials.providers import (
    AuthenticationFailed,
    BadProviderResponse,
    ConnectionFailed,
    DeadlineExceeded,
    LLMError,
    LLMMessage,
    ModelNotFound,
    PermissionDenied,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
    StreamInterrupted,
)
from llm_credentials.providers.tests.answering import Answer, Answering, answering, of_events, of_json, of_text

CANARY = "sk-canary-0123456789"
SAYS = f"Your key {CANARY} did something."
ASK = [LLMMessage.user("Hello")]
WIRES = ("openai", "azure_openai", "anthropic", "gemini")
STATUSES: dict[int, type[LLMError]] = {
    400: RequestRejected,
    401: AuthenticationFailed,
    402: QuotaExhausted,
    403: PermissionDenied,
    404: ModelNotFound,
    405: RequestRejected,
    408: DeadlineExceeded,
    409: ProviderUnavailable,
    413: RequestRejected,
    422: RequestRejected,
    429: RateLimited,
    500: ProviderUnavailable,
    502: ProviderUnavailable,
    503: ProviderUnavailable,
    504: ProviderUnavailable,
    529: ProviderUnavailable,
    599: ProviderUnavailable,
}
RETRYABLE = (RateLimited, ProviderUnavailable, ConnectionFailed, BadProviderResponse)
WORDS = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED"}
TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def body_of(wire: str, status: int) -> dict[str, Any]:
    """An error in the wire's own form, with the key quoted in every field that is text."""
    if wire == "anthropic":
        kind = TYPES.get(status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": SAYS}, "request_id": f"{CANARY} quoted"}
    if wire == "gemini":
        word = WORDS.get(status, "UNKNOWN")
        return {"error": {"code": status, "status": word, "message": SAYS, "details": [{"detail": SAYS}]}}
    return {"error": {"message": SAYS, "type": f"about {SAYS}", "param": SAYS, "code": f"{SAYS}"}}


def request_id_header(wire: str) -> str:
    return "request-id" if wire == "anthropic" else "x-request-id"


def content_of(wire: str) -> list[dict[str, Any]]:
    """Events that bring the word Hi and then no end."""
    if wire == "anthropic":
        return [
            {"type": "message_start", "message": {"id": "m", "model": "x", "content": [], "usage": {}}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
        ]
    if wire == "gemini":
        return [{"candidates": [{"content": {"parts": [{"text": "Hi"}]}}]}]
    return [{"id": "c", "choices": [{"index": 0, "delta": {"content": "Hi"}}]}]


def end_of(wire: str) -> list[dict[str, Any]]:
    if wire == "anthropic":
        return [
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}},
            {"type": "message_stop"},
        ]
    if wire == "gemini":
        return [{"candidates": [{"content": {"parts": []}, "finishReason": "STOP"}]}]
    return [{"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}]


async def raised(server: Answering, wire: str, *, stream: bool) -> LLMError:
    client = server.client(wire, key=CANARY)
    with pytest.raises(LLMError) as caught:
        if stream:
            [chunk async for chunk in client.stream(ASK)]
        else:
            await client.complete(ASK)
    assert len(server.asked) == 1
    return caught.value


def check_quiet(error: LLMError, wire: str) -> None:
    """Nothing of what the provider said, and no key, is anywhere in it."""
    assert (error.provider, error.__cause__, error.__context__) == (wire, None, None)
    told = f"{error} {error!r} {error.args} { {name: one for name, one in vars(error).items() if name != 'partial'} }"
    assert "canary" not in told
    assert "did something" not in told
    assert error.retryable is (isinstance(error, RETRYABLE) and type(error) is not DeadlineExceeded)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("status", STATUSES)
async def test_status_has_its_class_on_every_wire(status: int, wire: str, stream: bool) -> None:
    headers = {request_id_header(wire).replace("-", "_"): "req_7", "retry_after": "3"}
    async with answering(of_json(body_of(wire, status), status, **headers)) as server:
        error = await raised(server, wire, stream=stream)
    assert type(error) is STATUSES[status]
    assert (error.status_code, error.request_id, error.retry_after_s) == (status, "req_7", 3.0)
    check_quiet(error, wire)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("text", [f"<html>{SAYS}</html>", "", f"{SAYS}", "\x00"])
async def test_status_without_json_keeps_its_class(status: int, wire: str, text: str) -> None:
    async with answering(of_text(text, status=status)) as server:
        error = await raised(server, wire, stream=False)
    # Someone who speaks the wire says in JSON that a model is unknown; a page says that the address is wrong.
    assert type(error) is (RequestRejected if status == 404 else STATUSES[status])
    check_quiet(error, wire)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "1000000000"}, 86_400.0),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "1e3"}, None),
        ({}, None),
    ],
)
async def test_wait_is_read_alike_on_every_wire(headers: dict[str, str], wait_s: float | None, wire: str) -> None:
    answer = Answer([json.dumps(body_of(wire, 429)).encode()], 429, {"content-type": "application/json", **headers})
    async with answering(answer) as server:
        error = await raised(server, wire, stream=True)
    assert (type(error), error.retry_after_s) == (RateLimited, wait_s)


@pytest.mark.parametrize("wire", WIRES)
async def test_request_id_that_is_none_is_not_kept(wire: str) -> None:
    headers = {request_id_header(wire).replace("-", "_"): f"<b>{CANARY}</b>"}
    async with answering(of_json(body_of(wire, 500), 500, **headers)) as server:
        error = await raised(server, wire, stream=False)
    assert error.request_id is None
    check_quiet(error, wire)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("status", [401, 429, 500])
async def test_error_inside_a_good_answer_is_no_answer(status: int, wire: str, stream: bool) -> None:
    body = body_of(wire, status)
    if wire in ("openai", "azure_openai"):
        body["error"]["code"] = status
    async with answering(of_json(body)) as server:
        error = await raised(server, wire, stream=stream)
    assert type(error) is STATUSES[status]
    check_quiet(error, wire)


@pytest.mark.parametrize("wire", WIRES)
async def test_error_event_after_content_keeps_what_had_come(wire: str) -> None:
    stream = of_events(*content_of(wire), body_of(wire, 503))
    stream.headers[request_id_header(wire)] = "req_7"
    async with answering(stream) as server:
        error = await raised(server, wire, stream=True)
    assert isinstance(error, StreamInterrupted)
    assert error.partial is not None
    assert error.partial.text == "Hi"
    assert wire == "gemini" or error.request_id == "req_7"
    check_quiet(error, wire)


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("wire", WIRES)
async def test_stream_without_its_end_is_interrupted(wire: str, cut: bool) -> None:
    async with answering(of_events(*content_of(wire), cut=cut)) as server:
        error = await raised(server, wire, stream=True)
    assert isinstance(error, StreamInterrupted)
    assert error.partial is not None
    assert error.partial.text == "Hi"


@pytest.mark.parametrize("wire", WIRES)
async def test_stream_that_is_cut_after_its_end_is_whole(wire: str) -> None:
    async with answering(of_events(*content_of(wire), *end_of(wire), cut=True)) as server:
        last = [chunk async for chunk in server.client(wire).stream(ASK)][-1].response
    assert last is not None
    assert (last.text, last.finish_reason) == ("Hi", "stop")


@pytest.mark.parametrize(
    ("wire", "events"),
    [
        ("openai", [{"choices": []}, {"choices": None}]),
        ("azure_openai", [{"choices": [], "prompt_filter_results": []}]),
        ("gemini", [{"usageMetadata": {"promptTokenCount": 1}}]),
        ("gemini", [{"candidates": [], "usageMetadata": {"promptTokenCount": 1}}]),
        ("gemini", [{"responseId": "x"}]),
    ],
)
async def test_stream_without_any_choice_makes_no_sense(wire: str, events: list[dict[str, Any]]) -> None:
    async with answering(of_events(*events)) as server:
        assert type(await raised(server, wire, stream=True)) is BadProviderResponse


@pytest.mark.parametrize("wire", ["openai", "azure_openai", "gemini"])
async def test_count_of_tokens_without_a_choice_is_fine_beside_others(wire: str) -> None:
    usage: dict[str, Any] = {"usage": {"prompt_tokens": 3, "completion_tokens": 1}, "choices": []}
    if wire == "gemini":
        usage = {"usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 1}}
    async with answering(of_events(*content_of(wire), *end_of(wire), usage)) as server:
        last = [chunk async for chunk in server.client(wire).stream(ASK)][-1].response
    assert last is not None
    assert (last.text, last.usage.input_tokens, last.usage.output_tokens) == ("Hi", 3, 1)
