"""Statuses and error codes of those who speak chat completions, and the class each of them gets."""

from __future__ import annotations

from typing import Any

import pytest

from llm_credentials.providers import (
    AuthenticationFailed,
    BadProviderResponse,
    ContentFiltered,
    ContextLengthExceeded,
    DeadlineExceeded,
    LLMError,
    LLMMessage,
    ModelNotFound,
    PermissionDenied,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
    UnsupportedContent,
)
from llm_credentials.providers.adapters._chat.errors import CODES, body_error, request_id
from llm_credentials.providers.tests.answering import answering, of_json, of_text

SECRET = "sk-proj-canary-0123456789abcdef"
STATUSES: list[tuple[int, type[LLMError]]] = [
    (400, RequestRejected),
    (401, AuthenticationFailed),
    (402, QuotaExhausted),
    (403, PermissionDenied),
    (404, ModelNotFound),
    (405, RequestRejected),
    (406, RequestRejected),
    (408, DeadlineExceeded),
    (409, ProviderUnavailable),
    (413, RequestRejected),
    (415, RequestRejected),
    (422, RequestRejected),
    (424, RequestRejected),
    (429, RateLimited),
    (498, ProviderUnavailable),
    (500, ProviderUnavailable),
    (502, ProviderUnavailable),
    (503, ProviderUnavailable),
    (504, ProviderUnavailable),
    (524, ProviderUnavailable),
    (529, ProviderUnavailable),
    (599, ProviderUnavailable),
]


def said(code: Any = None, type_: Any = None, **more: Any) -> dict[str, Any]:
    return {"error": {"message": f"It says {SECRET}", "type": type_, "param": None, "code": code, **more}}


PROVIDERS: list[tuple[str, str, int, Any, type[LLMError]]] = [
    ("openai", "bad key", 401, said("invalid_api_key", "invalid_request_error"), AuthenticationFailed),
    ("openai", "no such model", 404, said("model_not_found", "invalid_request_error"), ModelNotFound),
    ("openai", "model closed to this key", 403, said("model_not_found", "invalid_request_error"), ModelNotFound),
    ("openai", "too long", 400, said("context_length_exceeded", "invalid_request_error"), ContextLengthExceeded),
    ("openai_compatible", "too long", 400, said(400, "exceed_context_size_error"), ContextLengthExceeded),
    ("openai", "quota", 429, said("insufficient_quota", "insufficient_quota"), QuotaExhausted),
    ("openai", "limit", 429, said("rate_limit_exceeded", "tokens"), RateLimited),
    ("openai", "region", 403, said("unsupported_country_region_territory", "request_forbidden"), PermissionDenied),
    ("openai", "parameter", 400, said("unsupported_parameter", "invalid_request_error"), RequestRejected),
    ("openai", "policy", 400, said("content_policy_violation", "image_generation_user_error"), ContentFiltered),
    ("openai", "flagged", 400, said("invalid_prompt", "invalid_request_error"), ContentFiltered),
    ("openai", "picture", 400, said("invalid_image_format", "invalid_request_error"), UnsupportedContent),
    ("openai", "their fault", 500, said(None, "server_error"), ProviderUnavailable),
    ("azure_openai", "deployment", 404, said("DeploymentNotFound"), ModelNotFound),
    ("azure_openai", "bad key", 401, said("401"), AuthenticationFailed),
    ("azure_openai", "limit", 429, said("429"), RateLimited),
    ("azure_openai", "bare", 401, {"statusCode": 401, "message": "Unauthorized"}, AuthenticationFailed),
    ("azure_openai", "filter", 400, said("content_filter", innererror={"code": "x"}), ContentFiltered),
    (
        "azure_openai",
        "filter inside",
        400,
        said("BadRequest", innererror={"code": "ResponsibleAIPolicyViolation"}),
        ContentFiltered,
    ),
    ("deepseek", "bad key", 401, said("invalid_request_error", "authentication_error"), AuthenticationFailed),
    ("deepseek", "balance", 402, said("invalid_request_error", "unknown_error"), QuotaExhausted),
    ("deepseek", "parameters", 422, said("invalid_request_error", "invalid_request_error"), RequestRejected),
    ("deepseek", "busy", 503, said("service_unavailable_error"), ProviderUnavailable),
    ("groq", "bad key", 401, said("invalid_api_key", "invalid_request_error"), AuthenticationFailed),
    ("groq", "gone", 400, said("model_decommissioned", "invalid_request_error"), ModelNotFound),
    ("groq", "tool", 400, said("tool_use_failed", "invalid_request_error", failed_generation="x"), RequestRejected),
    ("groq", "limit", 429, said("rate_limit_exceeded", "tokens"), RateLimited),
    ("groq", "one request too many tokens", 413, said("rate_limit_exceeded", "tokens"), ContextLengthExceeded),
    ("groq", "full", 498, said("capacity_exceeded"), ProviderUnavailable),
    ("mistral", "bad key", 401, {"detail": "Unauthorized"}, AuthenticationFailed),
    ("mistral", "model", 400, {"object": "error", "type": "invalid_model", "code": "1500"}, ModelNotFound),
    ("mistral", "limit", 429, {"object": "error", "type": "rate_limited", "code": "1300"}, RateLimited),
    ("mistral", "capacity", 429, {"object": "error", "code": "3505"}, ProviderUnavailable),
    ("mistral", "parameters", 422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "x"]}]}, RequestRejected),
    ("together", "bad key", 401, said("invalid_api_key", "invalid_request_error"), AuthenticationFailed),
    ("together", "model", 404, said("model_not_available", "invalid_request_error"), ModelNotFound),
    ("together", "credit", 402, said(None, "credit_limit"), QuotaExhausted),
    ("digitalocean", "bad key", 401, {"id": "unauthorized", "message": "no"}, AuthenticationFailed),
    ("ollama", "model", 404, said(None, "api_error"), ModelNotFound),
    ("openai_compatible", "wrong path", 404, {"detail": "Not Found"}, ModelNotFound),
    ("openai_compatible", "upstream limit", 429, said(429, metadata={"raw": SECRET}), RateLimited),
    ("openai_compatible", "credits", 402, said(402), QuotaExhausted),
]


async def failure(provider: str, status: int, body: Any, **headers: str) -> LLMError:
    async with answering(of_json(body, status, **headers)) as server:
        client = server.client(provider, key=SECRET)
        errors = []
        with pytest.raises(LLMError) as caught:
            await client.complete([LLMMessage.user("Hello")])
        errors.append(caught.value)
        with pytest.raises(LLMError) as again:
            [chunk async for chunk in client.stream([LLMMessage.user("Hello")])]
        errors.append(again.value)
        assert len(server.asked) == 2, "nothing is tried again behind the router's back"
    first, second = errors
    assert (type(first), first.code, first.status_code) == (type(second), second.code, second.status_code)
    assert SECRET not in str(first) + repr(first) + str(vars(first))
    assert str(first) == first.user_message
    assert first.provider == provider
    return first


@pytest.mark.parametrize(("status", "kind"), STATUSES)
async def test_status_alone_has_its_class(status: int, kind: type[LLMError]) -> None:
    error = await failure("openai_compatible", status, said())
    assert type(error) is kind
    assert error.status_code == status


@pytest.mark.parametrize(("provider", "what", "status", "body", "kind"), PROVIDERS)
async def test_provider_code_has_its_class(
    provider: str, what: str, status: int, body: Any, kind: type[LLMError]
) -> None:
    error = await failure(provider, status, body)
    assert type(error) is kind, what
    assert error.status_code == status


async def test_error_page_keeps_the_class_of_its_status() -> None:
    for status, kind in ((404, RequestRejected), (401, AuthenticationFailed), (502, ProviderUnavailable)):
        async with answering(of_text(f"<html>{SECRET}</html>", status=status)) as server:
            with pytest.raises(LLMError) as caught:
                await server.client("openai").complete([LLMMessage.user("Hello")])
        assert type(caught.value) is kind
        assert SECRET not in str(vars(caught.value))


async def test_error_carries_request_id_code_and_wait() -> None:
    error = await failure("openai", 429, said("rate_limit_exceeded"), x_request_id="req_1", retry_after_ms="2500")
    assert (error.request_id, error.code, error.retry_after_s) == ("req_1", "rate_limit_exceeded", 2.5)
    odd = await failure("openai", 429, said(f"code with {SECRET} and spaces"), x_request_id="<script>")
    assert (odd.request_id, odd.code, odd.retry_after_s) == (None, None, None)


@pytest.mark.parametrize("code", CODES)
def test_code_outweighs_the_status(code: str) -> None:
    assert type(body_error(said(code), 400)) is CODES[code]
    assert type(body_error(said(None, code), 400)) is CODES[code]
    assert body_error(said(code), 400).code == code


@pytest.mark.parametrize("body", [None, "text", [], 7, {}, {"error": None}, {"error": []}, {"error": "x"}])
def test_error_body_of_any_shape_is_read(body: Any) -> None:
    assert type(body_error(body, 429)) is RateLimited
    assert type(body_error(body)) is BadProviderResponse


def test_error_in_a_good_answer_is_taken_at_its_word() -> None:
    assert type(body_error({"error": {"code": 401}})) is AuthenticationFailed
    assert type(body_error({"error": {"status": "429"}})) is RateLimited
    assert type(body_error({"error": {"message": "x"}})) is ProviderUnavailable
    assert type(body_error({"error": {"code": True}})) is ProviderUnavailable


def test_request_id_is_taken_from_whichever_header_has_it() -> None:
    assert request_id({"apim-request-id": "a-1"}) == "a-1"
    assert request_id({"cf-ray": "9b-LHR", "x-request-id": "req"}) == "req"
    assert request_id({}) is None
