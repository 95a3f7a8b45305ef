"""Whom the gateway lets in, and what it refuses in words."""

from __future__ import annotations

import json
from decimal import Decimal

import httpx2
import openai
import pytest
from django.contrib.auth.models import User

from llm_credentials import services
from llm_credentials.live import access
from llm_credentials.models import LLMSettings
from llm_credentials.tests import gateway_calls
from llm_credentials.tests.gateway_calls import ASK, a_key_of, the_record

chat, raw = gateway_calls.chat, gateway_calls.raw  # the fixtures
site, token = gateway_calls.site, gateway_calls.token


# Who may


def test_token_may_come_as_x_api_key(site: str, token: str, alice: User, sandbox_url: str) -> None:
    assert httpx2.get(f"{site}/v1/models", headers={"x-api-key": token}).status_code == 200


def test_nobody_comes_in_without_a_token(site: str, token: str) -> None:
    tried: list[dict[str, str]] = [
        {},
        {"authorization": "Bearer ksw_" + "x" * 43},
        {"authorization": "Bearer ' OR 1=1"},
        {"authorization": "Basic {token}"},
        {"authorization": "Bearer {token}", "x-api-key": "ksw_" + "y" * 43},
        {"cookie": "token={token}"},
    ]
    for given in tried:
        headers = {name: value.replace("{token}", token) for name, value in given.items()}
        answer = httpx2.get(f"{site}/v1/models", headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_token"), given


def test_token_in_the_address_is_no_token(site: str, token: str) -> None:
    assert httpx2.get(f"{site}/v1/models?key={token}&access_token={token}").status_code == 401


def test_token_without_the_scope_is_refused(site: str, alice: User) -> None:
    secret = services.token_create(user=alice, scopes=["read", "agents", "credentials"])[1]
    answer = httpx2.get(f"{site}/v1/models", headers={"authorization": f"Bearer {secret}"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "scope_missing")


def test_errors_have_anthropics_shape_on_its_wire(site: str) -> None:
    answer = httpx2.post(f"{site}/v1/messages", json={})
    assert answer.status_code == 401
    assert (answer.json()["type"], answer.json()["error"]["type"]) == ("error", "authentication_error")


def test_token_reaches_its_providers_only(site: str, alice: User, sandbox_url: str) -> None:
    a_key_of(alice, sandbox_url, "openai", key="sbx-bad-0123456789", priority=1)
    a_key_of(alice, sandbox_url, "anthropic", priority=2)
    secret = services.token_create(user=alice, scopes=["gateway"], providers=["openai"])[1]
    with openai.OpenAI(base_url=f"{site}/v1", api_key=secret, max_retries=0) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            client.chat.completions.create(model="auto", messages=ASK)
        assert caught.value.code == "key_refused"
        with pytest.raises(openai.PermissionDeniedError):
            client.chat.completions.create(model="anthropic/auto", messages=ASK)


def test_token_has_a_budget_of_its_own(site: str, alice: User, sandbox_url: str) -> None:
    a_key_of(alice, sandbox_url, model="gpt-4o-mini")
    secret = services.token_create(user=alice, scopes=["gateway"], budget_usd=Decimal("0"))[1]
    client = openai.OpenAI(base_url=f"{site}/v1", api_key=secret, max_retries=0)
    with client, pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model="auto", messages=ASK)
    assert (caught.value.status_code, caught.value.code) == (402, "budget_exceeded")


def test_stream_ends_when_its_token_is_revoked(site: str, alice: User, sandbox_url: str) -> None:
    a_key_of(alice, sandbox_url, "openai", model="sandbox-chat~chunks=5000~delay=20")
    row, secret = services.token_create(user=alice, scopes=["gateway"])
    headers = {"authorization": f"Bearer {secret}"}
    body = {"model": "auto", "messages": ASK, "stream": True}
    with httpx2.stream("POST", f"{site}/v1/chat/completions", json=body, headers=headers) as answer:
        lines = answer.iter_lines()
        next(lines)
        services.token_revoke(user=alice, token_id=row.pk)
        rest = list(lines)
    assert "data: [DONE]" not in rest
    error = json.loads([line for line in rest if line.startswith("data:")][-1][5:])["error"]
    assert (error["code"], error["message"]) == ("access_withdrawn", access.WORDS["token"])
    assert the_record().state == "estimated"


# Bad input


BAD_BODIES = (
    b"",
    b"[]",
    b"{",
    b'{"model": NaN}',
    b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    b'{"model": "auto", "messages": [{"role": "user", "content": "hi"}], "metadata": '
    + b'{"a":' * 300
    + b"1"
    + b"}" * 301,
    b'{"model": "auto"}',
    b'{"model": "auto", "messages": []}',
    b'{"model": "auto", "messages": "hi"}',
    b'{"model": "auto", "messages": [{"role": "wizard", "content": "hi"}]}',
    b'{"model": 5, "messages": [{"role": "user", "content": "hi"}]}',
    b'{"model": "auto", "messages": [{"role": "tool", "content": "hi"}]}',
    b'{"model": "auto", "messages": [{"role": "user", "content": "hi"}], "temperature": "hot"}',
    b'{"model": "auto", "messages": [{"role": "user", "content": "hi"}], "temperature": 9}',
    b'{"model": "auto", "messages": [{"role": "user", "content": "hi"}], "max_tokens": -1}',
    b'{"model": "auto", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}',
)


def test_bad_bodies_are_refused_in_words(raw: httpx2.Client, alice: User, sandbox_url: str) -> None:
    a_key_of(alice, sandbox_url, "gemini")
    for body in BAD_BODIES:
        answer = raw.post("/v1/chat/completions", content=body)
        assert (answer.status_code, bool(answer.json()["error"]["message"])) == (400, True), body[:60]


def test_bodies_that_are_too_large_or_no_json_are_refused(raw: httpx2.Client) -> None:
    big = raw.post("/v1/chat/completions", content=b"x" * (33 * 1024 * 1024))
    assert big.status_code == 413
    assert raw.post("/v1/chat/completions", content=b"a=1", headers={"content-type": "text/plain"}).status_code == 415
    assert raw.post("/v1/chat/completions", content=b"", headers={"content-encoding": "gzip"}).status_code == 415


def test_unknown_addresses_and_methods_are_refused(raw: httpx2.Client) -> None:
    assert raw.get("/v1/chat/completions").status_code == 405
    assert raw.post("/v1/nothing", json={}).status_code == 404


def test_without_a_key_the_program_is_told_where_to_enter_one(chat: openai.OpenAI, alice: User) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat.chat.completions.create(model="auto", messages=ASK)
    assert caught.value.code == "not_configured"
    assert "/settings/llm/" in caught.value.message


def test_refused_key_is_not_blamed_on_the_token(chat: openai.OpenAI, alice: User, sandbox_url: str) -> None:
    a_key_of(alice, sandbox_url, key="sbx-bad-0123456789")
    with pytest.raises(openai.APIStatusError) as caught:
        chat.chat.completions.create(model="auto", messages=ASK)
    assert (caught.value.status_code, caught.value.code) == (424, "key_refused")


def test_budget_holds(chat: openai.OpenAI, alice: User, sandbox_url: str) -> None:
    LLMSettings.objects.create(user=alice, monthly_budget_usd="0")
    a_key_of(alice, sandbox_url, model="gpt-4o-mini")
    with pytest.raises(openai.APIStatusError) as caught:
        chat.chat.completions.create(model="auto", messages=ASK)
    assert (caught.value.status_code, caught.value.code) == (402, "budget_exceeded")
