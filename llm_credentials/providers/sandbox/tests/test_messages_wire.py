import base64
import json
from typing import Any

import anthropic
import pytest
from jsonschema import Draft202012Validator

from llm_credentials.providers.sandbox.tests.conftest import KEY, Door

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
    "required": ["city", "unit"],
}
TOOLS: Any = [
    {"name": "get_weather", "description": "Weather", "input_schema": WEATHER},
    {"name": "get_time", "input_schema": {"type": "object", "properties": {}}},
]
PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"\0" * 60).decode()
THINK: Any = {"type": "enabled", "budget_tokens": 1024}


def user(text: Any) -> Any:
    return [{"role": "user", "content": text}]


async def events_of(door: Door, model: str, **extra: Any) -> list[tuple[str, dict[str, Any]]]:
    """The raw events of a stream: name and data."""
    async with door.post("messages", model, stream=True, **extra) as response:
        raw = await response.text()
    pairs = [block.split("\n", 1) for block in raw.strip().split("\n\n")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in pairs]


async def test_messages_answers_a_small_sum(messages: anthropic.AsyncAnthropic) -> None:
    answer = await messages.messages.create(model="sandbox-chat", max_tokens=100, messages=user("What is 17 * 23?"))
    assert [block.type for block in answer.content] == ["text"]
    assert answer.content[0].type == "text" and answer.content[0].text == "Sandbox: 17 * 23 = 391."
    assert (answer.stop_reason, answer.usage.output_tokens) == ("end_turn", 6)


async def test_messages_stream_has_its_events_in_order(door: Door) -> None:
    events = await events_of(door, "sandbox-chat", text="2 + 2")
    assert [name for name, _ in events] == [
        "message_start",
        "content_block_start",
        "ping",
        *["content_block_delta"] * 6,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert all(name == data["type"] for name, data in events)
    assert events[-2][1]["usage"]["output_tokens"] == 6


async def test_messages_stream_joins_to_the_whole_answer(messages: anthropic.AsyncAnthropic) -> None:
    async with messages.messages.stream(
        model="sandbox-chat", max_tokens=500, messages=user("Write 40 words")
    ) as stream:
        text = "".join([piece async for piece in stream.text_stream])
        final = await stream.get_final_message()
    assert len(text.split()) == 40
    assert (final.stop_reason, final.usage.output_tokens) == ("end_turn", 40)


async def test_messages_streams_parallel_tool_calls(messages: anthropic.AsyncAnthropic) -> None:
    async with messages.messages.stream(
        model="sandbox-chat", max_tokens=500, messages=user("call get_weather and get_time"), tools=TOOLS
    ) as stream:
        final = await stream.get_final_message()
    assert [block.name for block in final.content if block.type == "tool_use"] == ["get_weather", "get_time"]
    assert final.content[0].type == "tool_use"
    Draft202012Validator(WEATHER).validate(final.content[0].input)
    assert final.stop_reason == "tool_use"


async def test_messages_answers_with_the_tool_result(messages: anthropic.AsyncAnthropic) -> None:
    question = user('use get_weather with {"city": "Oslo", "unit": "celsius"}')
    first = await messages.messages.create(model="sandbox-chat", max_tokens=500, messages=question, tools=TOOLS)
    (call,) = first.content
    assert call.type == "tool_use" and call.input == {"city": "Oslo", "unit": "celsius"}
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "no such city", "is_error": True}
    history = [*question, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    answer = await messages.messages.create(model="sandbox-chat", max_tokens=500, messages=history, tools=TOOLS)
    assert answer.content[0].type == "text"
    assert answer.content[0].text == "Sandbox: get_weather failed: no such city"


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}])
async def test_messages_must_call_when_the_choice_says_so(messages: anthropic.AsyncAnthropic, choice: Any) -> None:
    answer = await messages.messages.create(
        model="sandbox-chat", max_tokens=500, messages=user("Good evening"), tools=TOOLS, tool_choice=choice
    )
    assert answer.content[0].type == "tool_use"
    Draft202012Validator(WEATHER).validate(answer.content[0].input)


async def test_messages_says_what_images_it_saw(messages: anthropic.AsyncAnthropic) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": PIXEL}
    parts = [{"type": "image", "source": source}, {"type": "text", "text": "What is this?"}]
    answer = await messages.messages.create(model="sandbox-vision", max_tokens=500, messages=user(parts))
    assert answer.content[0].type == "text" and "1 image (image/png, 68 bytes)" in answer.content[0].text


async def test_messages_thinks_and_signs_when_asked(door: Door, messages: anthropic.AsyncAnthropic) -> None:
    events = await events_of(door, "sandbox-reasoner", text="6 * 7", thinking=THINK, max_tokens=4_000)
    kinds = [data["delta"]["type"] for name, data in events if name == "content_block_delta"]
    thoughts = kinds.count("thinking_delta")
    assert kinds == ["thinking_delta"] * thoughts + ["signature_delta"] + ["text_delta"] * 6
    assert events[-2][1]["usage"]["output_tokens_details"] == {"thinking_tokens": thoughts}
    plain = await messages.messages.create(model="sandbox-reasoner", max_tokens=500, messages=user("6 * 7"))
    assert [block.type for block in plain.content] == ["text"]


async def test_messages_takes_back_its_own_thoughts_only(messages: anthropic.AsyncAnthropic) -> None:
    ask: Any = {"model": "sandbox-reasoner", "max_tokens": 4_000, "thinking": THINK}
    first = await messages.messages.create(messages=user("6 * 7"), **ask)
    history = [*user("6 * 7"), {"role": "assistant", "content": first.content}, *user("Thanks")]
    await messages.messages.create(messages=history, **ask)
    assert first.content[0].type == "thinking"
    first.content[0].thinking += " Or does it?"
    with pytest.raises(anthropic.BadRequestError, match="signature"):
        await messages.messages.create(messages=history, **ask)


async def test_messages_bills_what_is_marked_for_the_cache(messages: anthropic.AsyncAnthropic) -> None:
    system: Any = [{"type": "text", "text": "Be brief. " * 600, "cache_control": {"type": "ephemeral"}}]
    first, again = [
        (await messages.messages.create(model="sandbox-chat", max_tokens=9, system=system, messages=user(text))).usage
        for text in ("Hi", "Hello")
    ]
    assert first.cache_creation_input_tokens == again.cache_read_input_tokens == 1501
    assert first.cache_read_input_tokens == again.cache_creation_input_tokens == 0
    assert first.input_tokens < 20 and again.input_tokens < 20


async def test_messages_answers_json_valid_by_the_schema(messages: anthropic.AsyncAnthropic) -> None:
    answer = await messages.messages.create(
        model="sandbox-chat",
        max_tokens=500,
        messages=user("Oslo in fahrenheit"),
        output_config={"format": {"type": "json_schema", "schema": WEATHER}},
    )
    assert answer.content[0].type == "text"
    value = json.loads(answer.content[0].text)
    Draft202012Validator(WEATHER).validate(value)
    assert value["unit"] == "fahrenheit"


async def test_messages_stops_at_limit_and_stop_sequence(messages: anthropic.AsyncAnthropic) -> None:
    short = await messages.messages.create(model="sandbox-chat", max_tokens=3, messages=user("count to 50"))
    assert (short.stop_reason, short.usage.output_tokens) == ("max_tokens", 3)
    stopped = await messages.messages.create(
        model="sandbox-chat", max_tokens=99, messages=user("count to 50"), stop_sequences=[" 4"]
    )
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", " 4")


async def test_messages_models_come_in_pages(messages: anthropic.AsyncAnthropic) -> None:
    names = [model.id async for model in messages.models.list(limit=3)]
    assert "sandbox-embed" in names and len(names) == len(set(names)) > 3
    assert (await messages.models.retrieve("sandbox-chat")).max_input_tokens == 128_000


async def test_messages_counts_the_tokens_that_it_bills(messages: anthropic.AsyncAnthropic) -> None:
    counted = await messages.messages.count_tokens(model="sandbox-chat", messages=user("Hello"), tools=TOOLS)
    billed = await messages.messages.create(model="sandbox-chat", max_tokens=9, messages=user("Hello"), tools=TOOLS)
    assert counted.input_tokens == billed.usage.input_tokens


@pytest.mark.parametrize("header", [{"x-api-key": KEY}, {"authorization": f"Bearer {KEY}"}])
async def test_messages_takes_the_key_in_either_header(door: Door, header: dict[str, str]) -> None:
    async with door.session.post(
        f"{door.url}/v1/messages",
        json={"model": "sandbox-chat", "max_tokens": 9, "messages": user("Hi")},
        headers={"anthropic-version": "2026-10-21", **header},
    ) as response:
        assert response.status == 200
        assert response.headers["request-id"].startswith("req_")


async def test_messages_needs_the_version_header(door: Door) -> None:
    async with door.session.post(
        f"{door.url}/v1/messages",
        json={"model": "sandbox-chat", "max_tokens": 9, "messages": user("Hi")},
        headers={"x-api-key": KEY},
    ) as response:
        assert response.status == 400
        body = await response.json()
    assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")


@pytest.mark.parametrize(
    "extra",
    [
        {"max_tokens": None},
        {"max_tokens": 0},
        {"temperature": 1.5},
        {"messages": []},
        {"messages": [{"role": "assistant", "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]},
        {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "hologram"}]}]},
        {"tools": [{"name": "f", "input_schema": {"type": "array"}}]},
        {"tool_choice": {"type": "any"}},
        {"thinking": {"type": "enabled", "budget_tokens": 9_999}},
        {"thinking": {"type": "enabled", "budget_tokens": 10}},
    ],
)
async def test_messages_refuses_a_bad_request(door: Door, extra: dict[str, Any]) -> None:
    async with door.post("messages", "sandbox-chat", **extra) as response:
        assert response.status == 400
        assert (await response.json())["error"]["type"] == "invalid_request_error"


async def test_messages_unknown_model_is_not_found(messages: anthropic.AsyncAnthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as caught:
        await messages.messages.create(model="sandbox-large", max_tokens=9, messages=user("Hi"))
    assert caught.value.type == "not_found_error"
