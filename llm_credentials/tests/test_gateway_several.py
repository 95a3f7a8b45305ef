"""Several answers to one request, where a provider has them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from django.contrib.auth.models import User

from llm_credentials import services
from llm_credentials.ledger import writer
from llm_credentials.models import UsageRecord
from llm_credentials.providers import UnsupportedContent, build_client
from llm_credentials.tests.asking import ask_gateway
from llm_credentials.tests.factories import UserCredentialFactory

ASK: Any = [{"role": "user", "content": "What is 17 * 23?"}]
ANY: Any = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
ADD: Any = {"type": "function", "function": {"name": "add", "parameters": ANY}}
LOOK: Any = {"type": "function", "function": {"name": "look", "parameters": ANY}}
BOTH: Any = [{"role": "user", "content": 'use add with {"city": "Oslo"}\nuse look with {"city": "Rome"}'}]


@pytest.fixture
def keys(alice: User, sandbox_url: str) -> User:
    """One of the wire that is spoken, and one to which it is translated."""
    for provider, address in (("openai", f"{sandbox_url}/v1"), ("anthropic", sandbox_url)):
        model = "sandbox-vision"
        UserCredentialFactory(user=alice, provider=provider, key="sbx-good-0123456789", model=model, base_url=address)
    return alice


@pytest.fixture
def token(keys: User) -> str:
    return services.token_create(user=keys, scopes=["gateway"])[1]


@pytest.fixture
def chat(live_site: str, token: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live_site}/v1", api_key=token, max_retries=0) as client:
        yield client


@pytest.mark.parametrize("streamed", [False, True])
def test_several_answers_come_side_by_side(chat: openai.OpenAI, streamed: bool) -> None:
    asked: Any = {"model": "openai/auto", "messages": BOTH, "tools": [ADD, LOOK], "n": 3}
    if streamed:
        with chat.chat.completions.stream(**asked) as stream:
            answer: Any = stream.get_final_completion()
    else:
        answer = chat.chat.completions.create(**asked)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert {choice.finish_reason for choice in answer.choices} == {"tool_calls"}
    calls = [call for choice in answer.choices for call in choice.message.tool_calls]
    assert [call.function.name for call in calls] == ["add", "look"] * 3
    assert len({call.id for call in calls}) == 6
    writer.flush()
    row = UsageRecord.objects.get()
    assert (row.state, (row.output_tokens or 0) % 3) == ("settled", 0)


def test_several_answers_go_to_a_key_that_has_them_or_are_refused(chat: openai.OpenAI, keys: User) -> None:
    raw = chat.chat.completions.with_raw_response.create(model="anthropic/auto", messages=ASK, n=2)
    assert (raw.headers["x-keyswitch-provider"], len(raw.parse().choices)) == ("openai", 2)
    services.credential_delete(user=keys, provider="openai")
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as refused:
            chat.chat.completions.create(model="auto", messages=ASK, n=2, stream=stream)
        assert (refused.value.code, refused.value.param) == ("unsupported_content", "n")


@pytest.mark.parametrize("number", [0, -1, 129, 1.5, "2", True])
def test_number_of_answers_that_cannot_be_is_refused(number: Any, keys: User, token: str) -> None:
    body = {"model": "auto", "messages": ASK, "n": number, "max_tokens": 9}
    bearer = {"authorization": f"Bearer {token}"}
    answer = ask_gateway("POST", "/v1/chat/completions", body, **bearer)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "n")
    answer = ask_gateway("POST", "/v1/messages", {**body, "n": 2}, **bearer)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "n")


def test_stream_of_several_answers_ends_when_all_have(keys: User, token: str) -> None:
    body = {"model": "openai/sandbox-chat~fault=cut-clean,after=25", "messages": ASK, "n": 2, "stream": True}
    answer = ask_gateway("POST", "/v1/chat/completions", body, authorization=f"Bearer {token}")
    assert "stream_interrupted" in answer.text


@pytest.mark.parametrize("streamed", [False, True])
def test_several_answers_that_nobody_counted_are_all_estimated(keys: User, token: str, streamed: bool) -> None:
    for number in (1, 3):
        body = {"model": "openai/sandbox-chat~fault=usage-missing", "messages": ASK, "n": number, "stream": streamed}
        ask_gateway("POST", "/v1/chat/completions", body, authorization=f"Bearer {token}")
    writer.flush()
    one, three = UsageRecord.objects.order_by("output_tokens")
    assert (one.state, three.state) == ("estimated", "estimated")
    assert abs((three.output_tokens or 0) - 3 * (one.output_tokens or 0)) <= 3


def test_provider_with_one_answer_refuses_several() -> None:
    for provider in ("deepseek", "groq", "ollama"):
        client = build_client(provider, api_key="key-of-alice-0123", model="m", base_url="https://api.example/v1")
        with pytest.raises(UnsupportedContent):
            client.adapt({"messages": ASK, "n": 2}, model="m", stream=False)
        assert client.adapt({"messages": ASK, "n": 1}, model="m", stream=False)["n"] == 1
