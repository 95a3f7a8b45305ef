from typing import Any

import anthropic
import openai
import pytest

from llm_credentials.providers.sandbox.keys import admit, read_key
from llm_credentials.providers.sandbox.tests.conftest import KEY, Door

WIRES = ["chat", "messages", "generate"]
BAD = {"chat": 401, "messages": 401, "generate": 400}


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("key", ["sbx-bad-1", "sk-something", "SBX-GOOD-1", "unknown"])
async def test_keys_that_are_not_good_are_refused(door: Door, wire: str, key: str) -> None:
    async with door.post(wire, "sandbox-chat", key=key) as response:
        assert response.status == BAD[wire]
        assert key not in await response.text()


@pytest.mark.parametrize("wire", WIRES)
async def test_keys_must_be_there(door: Door, wire: str) -> None:
    async with door.post(wire, "sandbox-chat", key="") as response:
        assert response.status == 401


@pytest.mark.parametrize(("wire", "header"), [("chat", "x-api-key"), ("chat", "api-key"), ("messages", "api-key")])
async def test_keys_count_only_in_the_header_of_their_format(door: Door, wire: str, header: str) -> None:
    paths = {"chat": "/v1/chat/completions", "messages": "/v1/messages"}
    headers = {header: KEY, "anthropic-version": "2023-06-01"}
    async with door.session.post(door.url + paths[wire], json={}, headers=headers) as response:
        assert response.status == 401


async def test_keys_of_google_may_stand_in_the_query(door: Door) -> None:
    body = {"contents": [{"parts": [{"text": "2 + 2"}]}]}
    url = f"{door.url}/v1beta/models/sandbox-chat:generateContent"
    async with door.session.post(url, params={"key": KEY}, json=body) as response:
        assert response.status == 200


@pytest.mark.parametrize("wire", WIRES)
async def test_keys_that_are_limited_say_when_to_come_back(door: Door, wire: str) -> None:
    for key, seconds in (("sbx-limited-x", "2"), ("sbx-limited-30-x", "30")):
        async with door.post(wire, "sandbox-chat", key=key) as response:
            assert (response.status, response.headers["retry-after"]) == (429, seconds)


async def test_keys_that_are_exhausted_are_told_by_each_sdk(
    chat: openai.AsyncOpenAI, messages: anthropic.AsyncAnthropic
) -> None:
    ask: Any = [{"role": "user", "content": "Hi"}]
    with pytest.raises(openai.RateLimitError) as spent:
        await chat.with_options(api_key="sbx-exhausted-1").chat.completions.create(model="sandbox-chat", messages=ask)
    assert spent.value.code == "insufficient_quota"
    with pytest.raises(anthropic.BadRequestError, match="credit balance"):
        await messages.with_options(api_key="sbx-exhausted-1").messages.create(
            model="sandbox-chat", max_tokens=9, messages=ask
        )


async def test_keys_guard_model_lists_too(door: Door) -> None:
    for headers in ({}, {"authorization": "Bearer sbx-bad"}):
        async with door.session.get(f"{door.url}/v1/models", headers=headers) as response:
            assert response.status == 401


def test_keys_that_are_slow_wait_as_long_as_they_say() -> None:
    for text, seconds in (("sbx-slow-3-x", 3.0), ("sbx-slow-0.5-x", 0.5), ("sbx-slow-x", 2.0)):
        key = read_key(text)
        admit(key, slow_s=2.0)
        assert key.wait_s == seconds


async def test_keys_that_are_slow_work(door: Door) -> None:
    async with door.post("chat", "sandbox-chat", key="sbx-slow-x") as response:
        assert response.status == 200
