"""What tools show beside their words, and parts that are not known, on their way to providers of another wire."""

from __future__ import annotations

from typing import Any

import anthropic
import openai
import pytest
from django.contrib.auth.models import User

from llm_credentials import services
from llm_credentials.gateway.wires import chat as chat_wire
from llm_credentials.gateway.wires import messages as messages_wire
from llm_credentials.gateway.wires.asked import InvalidRequest, Unspoken
from llm_credentials.providers import ImagePart, LLMMessage, UnsupportedContent
from llm_credentials.tests.asking import ask_gateway
from llm_credentials.tests.factories import UserCredentialFactory

LOOKED: Any = [
    {"role": "user", "content": "What do you see?"},
    {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}]},
]
PICTURE: Any = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}


@pytest.mark.parametrize("provider", ["openai", "gemini"])
def test_image_that_a_tool_shows_is_seen_by_providers_of_other_wires(
    provider: str, live_site: str, alice: User, sandbox_url: str
) -> None:
    address = f"{sandbox_url}/v1" if provider == "openai" else sandbox_url
    UserCredentialFactory(
        user=alice, provider=provider, model="sandbox-vision", base_url=address, key="sbx-good-0123456789"
    )
    token = services.token_create(user=alice, scopes=["gateway"])[1]
    result: Any = [{"type": "text", "text": "See"}, PICTURE]
    turn: Any = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": result}]}
    tools: Any = [{"name": "look", "input_schema": {"type": "object"}}]
    with anthropic.Anthropic(base_url=live_site, api_key=token, max_retries=0) as claude:
        answer = claude.messages.create(model="auto", max_tokens=99, messages=[*LOOKED, turn], tools=tools)
    (block,) = answer.content
    assert block.type == "text" and "1 image (image/png" in block.text


def test_image_that_a_tool_shows_stands_in_the_result_where_it_may(
    live_site: str, alice: User, sandbox_url: str
) -> None:
    UserCredentialFactory(
        user=alice, provider="anthropic", model="sandbox-vision", base_url=sandbox_url, key="sbx-good-0123456789"
    )
    image: Any = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE['source']['data']}"}}
    called: Any = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages: Any = [
        {"role": "user", "content": "What do you see?"},
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "c", "content": [image]},
    ]
    token = services.token_create(user=alice, scopes=["gateway"])[1]
    with openai.OpenAI(base_url=f"{live_site}/v1", api_key=token, max_retries=0) as chat:
        answer = chat.chat.completions.create(model="auto", messages=messages)
    assert "look answered: an image (image/png)" in str(answer.choices[0].message.content)


def test_image_that_a_tool_shows_is_not_lost_out_of_chat() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}
    called = {"id": "c", "function": {"name": "look", "arguments": "{}"}}
    shown = {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "See"}, image]}
    asked = chat_wire.read_request({"messages": [{"role": "assistant", "tool_calls": [called]}, shown]})
    (result,) = asked.messages[-1].tool_results
    assert (result.name, result.content, result.images) == ("look", "See", (ImagePart(url=image["image_url"]["url"]),))


def test_other_things_that_a_tool_shows_go_to_a_provider_that_takes_them() -> None:
    for other in ({"type": "document"}, {"type": "of_tomorrow"}, {"type": "image"}):
        turn = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": [other]}]}
        with pytest.raises(UnsupportedContent):
            messages_wire.read_request({"max_tokens": 9, "messages": [*LOOKED, turn]})
    pdf = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{**PICTURE, "source": {"type": "base64"}}]}
    with pytest.raises(UnsupportedContent):
        messages_wire.read_request({"max_tokens": 9, "messages": [*LOOKED, {"role": "user", "content": [pdf]}]})


# What is newer than we are


def test_part_that_is_not_known_goes_to_a_key_of_its_own_wire(alice: User, sandbox_url: str) -> None:
    """Whose provider, here the sandbox, then says itself what it thinks of it."""
    for provider, address in (("anthropic", sandbox_url), ("openai", f"{sandbox_url}/v1")):
        UserCredentialFactory(
            user=alice, provider=provider, model="sandbox-chat", base_url=address, key="sbx-good-0123456789"
        )
    token = services.token_create(user=alice, scopes=["gateway"])[1]
    asked = [{"role": "user", "content": [{"type": "of_tomorrow"}]}]
    body = {"model": "anthropic/auto", "max_tokens": 9, "messages": asked}
    error = ask_gateway("POST", "/v1/chat/completions", body, authorization=f"Bearer {token}").json()["error"]
    assert error["param"] == "messages[0].content[0].type"


def test_part_that_is_not_known_is_named() -> None:
    for content in ({"type": "of_tomorrow"}, {"type": "web_search_tool_result", "content": []}):
        asked = {"max_tokens": 9, "messages": [{"role": "user", "content": [content]}]}
        for wire in (chat_wire, messages_wire):
            with pytest.raises(Unspoken) as unspoken:
                wire.read_request(asked)
            assert unspoken.value.param == "messages.0.content.0"


def test_part_without_a_type_is_refused() -> None:
    for content in ({}, {"type": None}, {"type": 7}, "text"):
        for wire in (chat_wire, messages_wire):
            with pytest.raises(InvalidRequest, match="Say of what type this is") as caught:
                wire.read_request({"max_tokens": 9, "messages": [{"role": "user", "content": [content]}]})
            assert caught.value.param == "messages.0.content.0"


def test_thoughts_among_the_parts_are_another_models_and_stay_behind() -> None:
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}, {"type": "text", "text": "Hi"}]
    turns = [{"role": "assistant", "content": parts}, {"role": "user", "content": "And now?"}]
    assert chat_wire.read_request({"messages": turns}).messages[0] == LLMMessage.assistant("Hi")
