"""The first request of a client goes through the SDK; those after it are like it but for their bodies."""

from __future__ import annotations

from typing import Any

import pytest

from llm_credentials.providers import LLMError, LLMMessage
from llm_credentials.providers.adapters._chat.client import PATTERNS_MAX
from llm_credentials.providers.tests.answering import answering, of_json

ANSWER: dict[str, Any] = {
    "choices": [{"message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1},
}
FIRST, SECOND = [LLMMessage.user("One")], [LLMMessage.user("Two, and longer")]
REFUSED: dict[str, Any] = {"error": {"code": "rate_limit_exceeded", "message": "slow down"}}


@pytest.mark.parametrize(
    ("provider", "key"), [("openai", "k"), ("groq", "k"), ("azure_openai", "k"), ("openai_compatible", "")]
)
async def test_later_requests_differ_from_the_first_in_their_body_alone(provider: str, key: str) -> None:
    async with answering(of_json(ANSWER)) as server:
        client = server.client(provider, key=key)
        for messages in (FIRST, SECOND, FIRST):
            assert (await client.complete(messages)).text == "Hi"
        first, second, third = server.asked
        for later in (second, third):
            assert (later.method, later.path, later.query) == (first.method, first.path, first.query)
            assert _without_length(later.headers) == _without_length(first.headers)
        assert second.json["messages"][-1]["content"] == "Two, and longer"
        assert third.body == first.body
        assert second.headers["content-length"] == str(len(second.body))


async def test_later_requests_fail_as_the_first_would() -> None:
    refused = of_json(REFUSED, 429, retry_after="7", x_request_id="req_1")
    async with answering(refused, of_json(ANSWER), refused) as server:
        client = server.client("openai")
        told = []
        for asked in (FIRST, SECOND, FIRST):
            try:
                await client.complete(asked)
            except LLMError as error:
                told.append((type(error), error.status_code, error.code, error.request_id, error.retry_after_s))
                assert error.__cause__ is error.__context__ is None
        assert len(told) == 2
        assert told[0] == told[1]
        assert told[1][1:] == (429, "rate_limit_exceeded", "req_1", 7.0)


async def test_each_deployment_has_a_path_of_its_own_and_few_are_kept() -> None:
    async with answering(of_json(ANSWER)) as server:
        client: Any = server.client("azure_openai")
        names = [f"m{number}" for number in range(PATTERNS_MAX + 2)]
        for name in [*names, names[0]]:
            await client.complete(FIRST, model=name)
        asked = [each.path.split("/")[3] for each in server.asked]
        assert asked == [*names, names[0]]
        assert len(client._patterns) <= PATTERNS_MAX


async def test_closed_client_keeps_no_request_with_its_key() -> None:
    async with answering(of_json(ANSWER)) as server:
        client: Any = server.client("openai")
        await client.complete(FIRST)
        (pattern,) = client._patterns.values()
        assert "key-of-alice" not in repr(pattern)
        await client.aclose()
        assert not client._patterns


def _without_length(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items() if name.lower() != "content-length"}
