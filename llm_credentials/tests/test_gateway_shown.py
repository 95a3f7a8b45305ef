"""What tools show beside their words, on its way to providers of another wire."""

from __future__ import annotations

from typing import Any

import anthropic
import openai
import pytest
from django.contrib.auth.models import User

from llm_credentials import services
from llm_credentials.gateway.wires import chat as chat_wire
from llm_credentials.gateway.wires import messages as messages_wire
from llm_credentials.providers import ImagePart, UnsupportedContent
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
