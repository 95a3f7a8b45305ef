"""Images in the results of tools, and what else stands between results and the user, as each wire takes it."""

from __future__ import annotations

from typing import Any

import pytest

from llm_credentials.providers import (
    ImagePart,
    LLMMessage,
    ToolCall,
    ToolDefinition,
    ToolResult,
    UnsupportedContent,
)
from llm_credentials.providers.tests.answering import answering, of_json

LOOK = ToolDefinition(name="look", description="Looks", parameters={"type": "object", "properties": {}})
IMAGE = ImagePart(data=b"pixel", media_type="image/png")
SEEN = "cGl4ZWw="
ANSWERS: dict[str, Any] = {
    "anthropic": {"content": [{"type": "text", "text": "Hi"}], "stop_reason": "end_turn", "usage": {}},
    "gemini": {"candidates": [{"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP"}]},
}
CHAT = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}]}


def _turn(*results: ToolResult) -> list[LLMMessage]:
    calls = [ToolCall(id=result.call_id, name=result.name, arguments={}) for result in results]
    return [LLMMessage.user("Look"), LLMMessage.assistant(calls), *(LLMMessage.tool(result) for result in results)]


def _shown(call_id: str = "a", content: str = "") -> ToolResult:
    return ToolResult(call_id=call_id, name="look", content=content, images=(IMAGE,))


async def _sent(provider: str, messages: list[LLMMessage], model: str = "a-model", **more: Any) -> Any:
    async with answering(of_json(ANSWERS.get(provider, CHAT))) as server:
        await server.client(provider, model=model).complete(messages, **more)
        return server.asked[0].json


async def test_messages_takes_images_in_the_result() -> None:
    sent = await _sent("anthropic", _turn(_shown(content="See"), _shown("b")), tools=[LOOK])
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": SEEN}}
    contents = [block["content"] for block in sent["messages"][-1]["content"]]
    assert contents == [[{"type": "text", "text": "See"}, image], [image]]


async def test_chat_has_images_of_results_said_by_the_user_behind_them_all() -> None:
    follow = LLMMessage.user("And now?")
    sent = await _sent("openai", [*_turn(_shown(), ToolResult(call_id="b", name="look", content="7")), follow])
    roles = [message["role"] for message in sent["messages"]]
    assert roles == ["user", "assistant", "tool", "tool", "user", "user"]
    assert sent["messages"][2]["content"]  # no provider takes an empty one
    words, image = sent["messages"][4]["content"]
    assert words["text"] == "Shown by result 1:" and image["image_url"]["url"] == f"data:image/png;base64,{SEEN}"


async def test_generate_content_keeps_results_together_and_shows_images_behind_them() -> None:
    sent = await _sent("gemini", _turn(_shown("a"), _shown("b")), tools=[LOOK])
    results, shown = sent["contents"][-2:]
    assert ["functionResponse" in part for part in results["parts"]] == [True, True]
    assert all(part["functionResponse"]["response"]["output"] for part in results["parts"])
    assert [part["inlineData"]["data"] for part in shown["parts"] if "inlineData" in part] == [SEEN, SEEN]


async def test_chat_model_without_eyes_refuses_images_of_results() -> None:
    with pytest.raises(UnsupportedContent):
        await _sent("openai", _turn(_shown()), model="gpt-3.5-turbo")


async def test_mistral_has_the_assistant_speak_between_results_and_user() -> None:
    follow = LLMMessage.user("And now?")
    sent = await _sent("mistral", [*_turn(ToolResult(call_id="a", name="look", content="7")), follow])
    assert [message["role"] for message in sent["messages"]] == ["user", "assistant", "tool", "assistant", "user"]
    assert sent["messages"][3]["content"]


async def test_mistral_takes_a_conversation_that_others_began() -> None:
    call = {"id": "call_0123456789abcdef", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    body: dict[str, Any] = {
        "messages": [
            {"role": "user", "content": "Look"},
            {"role": "assistant", "content": None, "tool_calls": [call, {"unknown": True}]},
            {"role": "tool", "tool_call_id": call["id"], "content": "7"},
            {"role": "user", "content": "And now?"},
        ],
        "tools": [{"type": "function", "function": {"name": "look"}}],
        "tool_choice": "any",
    }
    async with answering(of_json(CHAT)) as server:
        adapted = server.client("mistral").adapt(body, model="mistral-small-latest", stream=False)
        plain = server.client("openai").adapt(body, model="gpt-5-mini", stream=False)
    roles = [message["role"] for message in adapted["messages"]]
    assert roles == ["user", "assistant", "tool", "assistant", "user"]
    made = adapted["messages"][1]["tool_calls"][0]["id"]
    assert len(made) == 9 and adapted["messages"][2]["tool_call_id"] == made
    assert (adapted["tool_choice"], plain["tool_choice"]) == ("any", "required")
    assert plain["messages"] == body["messages"]


# An object of which nothing is said


async def test_generate_content_is_asked_for_any_object_without_a_schema() -> None:
    for schema in ({"type": "object"}, {"type": "object", "additionalProperties": True}):
        sent = await _sent("gemini", [LLMMessage.user("As JSON")], response_schema=schema)
        config = sent["generationConfig"]
        assert config["responseMimeType"] == "application/json" and "responseJsonSchema" not in config
    named = {"type": "object", "properties": {"total": {"type": "number"}}}
    sent = await _sent("gemini", [LLMMessage.user("As JSON")], response_schema=named)
    assert "total" in sent["generationConfig"]["responseJsonSchema"]["properties"]


async def test_messages_is_told_that_any_object_is_not_an_empty_one() -> None:
    sent = await _sent("anthropic", [LLMMessage.user("As JSON")], response_schema={"type": "object"})
    (tool,) = sent["tools"]
    assert "JSON object" in tool["description"] and "additionalProperties" not in tool["input_schema"]
