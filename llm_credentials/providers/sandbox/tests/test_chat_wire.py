import base64
import json
import struct
from typing import Any

import openai
import pytest
from jsonschema import Draft202012Validator

from llm_credentials.providers.sandbox.tests.conftest import KEY, Door

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 7}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS: Any = [
    {"type": "function", "function": {"name": "get_weather", "description": "Weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}},
]
PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"\0" * 60).decode()


def user(text: str) -> Any:
    return [{"role": "user", "content": text}]


async def test_chat_answers_a_small_sum(chat: openai.AsyncOpenAI) -> None:
    answer = await chat.chat.completions.create(model="sandbox-chat", messages=user("What is 17 * 23?"))
    assert answer.choices[0].message.content == "Sandbox: 17 * 23 = 391."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "sandbox-chat"
    assert answer.usage is not None and answer.usage.completion_tokens == 6
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


async def test_chat_stream_joins_to_the_whole_answer(chat: openai.AsyncOpenAI) -> None:
    whole = await chat.chat.completions.create(model="sandbox-chat", messages=user("Write 40 words"))
    stream = await chat.chat.completions.create(
        model="sandbox-chat", messages=user("Write 40 words"), stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert len(text.split()) == 40
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage


async def test_chat_stream_has_usage_only_when_it_is_asked_for(chat: openai.AsyncOpenAI) -> None:
    stream = await chat.chat.completions.create(model="sandbox-chat", messages=user("Hi"), stream=True)
    assert all([chunk.usage is None and bool(chunk.choices) async for chunk in stream])


async def test_chat_calls_the_tool_that_is_named(chat: openai.AsyncOpenAI) -> None:
    answer = await chat.chat.completions.create(
        model="sandbox-chat", messages=user('use get_weather with {"city": "Oslo", "days": 3}'), tools=TOOLS
    )
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("get_weather", '{"city":"Oslo","days":3}')
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.content is None


@pytest.mark.parametrize("choice", ["required", "any"])
async def test_chat_calls_some_tool_when_it_must(chat: openai.AsyncOpenAI, choice: Any) -> None:
    answer = await chat.chat.completions.create(
        model="sandbox-chat", messages=user("hello"), tools=TOOLS, tool_choice=choice
    )
    assert answer.choices[0].message.tool_calls


async def test_chat_streams_parallel_calls(chat: openai.AsyncOpenAI) -> None:
    stream = await chat.chat.completions.create(
        model="sandbox-chat", messages=user("call get_weather and get_time"), tools=TOOLS, stream=True
    )
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    async for chunk in stream:
        for call in chunk.choices[0].delta.tool_calls or []:
            assert call.function is not None
            names[call.index] = names.get(call.index) or call.function.name or ""
            arguments[call.index] = arguments.get(call.index, "") + (call.function.arguments or "")
    assert list(names.values()) == ["get_weather", "get_time"]
    Draft202012Validator(WEATHER).validate(json.loads(arguments[0]))
    assert arguments[1] == "{}"


async def test_chat_answers_with_the_tool_result(chat: openai.AsyncOpenAI) -> None:
    question = user("get_weather for Oslo please")
    first = await chat.chat.completions.create(model="sandbox-chat", messages=question, tools=TOOLS)
    call = (first.choices[0].message.tool_calls or [])[0]
    history = [
        *question,
        first.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "rain, 4 °C"},
    ]
    answer = await chat.chat.completions.create(model="sandbox-chat", messages=history, tools=TOOLS)
    assert answer.choices[0].message.content == "Sandbox: get_weather answered: rain, 4 °C"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
async def test_chat_must_call_when_the_choice_says_so(chat: openai.AsyncOpenAI, choice: Any) -> None:
    answer = await chat.chat.completions.create(
        model="sandbox-chat", messages=user("Good evening"), tools=TOOLS, tool_choice=choice
    )
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    Draft202012Validator(WEATHER).validate(json.loads(call.function.arguments))


async def test_chat_never_calls_when_the_choice_is_none(chat: openai.AsyncOpenAI) -> None:
    answer = await chat.chat.completions.create(
        model="sandbox-chat", messages=user("call get_time"), tools=TOOLS, tool_choice="none"
    )
    assert answer.choices[0].message.tool_calls is None


async def test_chat_makes_one_call_when_parallel_ones_are_off(chat: openai.AsyncOpenAI) -> None:
    answer = await chat.chat.completions.create(
        model="sandbox-chat", messages=user("call get_weather and get_time"), tools=TOOLS, parallel_tool_calls=False
    )
    assert len(answer.choices[0].message.tool_calls or []) == 1


async def test_chat_lists_its_tools(chat: openai.AsyncOpenAI) -> None:
    answer = await chat.chat.completions.create(
        model="sandbox-chat", messages=user("What tools do you have?"), tools=TOOLS
    )
    assert "`get_weather`: Weather" in (answer.choices[0].message.content or "")


async def test_chat_says_what_images_it_saw(chat: openai.AsyncOpenAI) -> None:
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
        {"type": "image_url", "image_url": {"url": "https://example.com/cat.jpg"}},
    ]
    answer = await chat.chat.completions.create(
        model="sandbox-vision",
        messages=[{"role": "user", "content": parts}],  # type: ignore[misc,list-item]
    )
    text = answer.choices[0].message.content or ""
    assert "2 images (image/png, 68 bytes; image, linked, which I do not fetch)" in text


async def test_chat_refuses_images_for_a_blind_model(chat: openai.AsyncOpenAI) -> None:
    parts: Any = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}]
    with pytest.raises(openai.BadRequestError, match="takes no images"):
        await chat.chat.completions.create(model="sandbox-chat", messages=[{"role": "user", "content": parts}])


async def test_chat_answers_json_valid_by_the_schema(chat: openai.AsyncOpenAI) -> None:
    answer = await chat.chat.completions.create(
        model="sandbox-chat",
        messages=user("Oslo, 5 days"),
        response_format={"type": "json_schema", "json_schema": {"name": "weather", "schema": WEATHER, "strict": True}},
    )
    value = json.loads(answer.choices[0].message.content or "")
    Draft202012Validator(WEATHER).validate(value)
    assert value["days"] == 5


async def test_chat_answers_an_object_when_only_json_is_asked(chat: openai.AsyncOpenAI) -> None:
    answer = await chat.chat.completions.create(
        model="sandbox-chat", messages=user("Hi"), response_format={"type": "json_object"}
    )
    assert json.loads(answer.choices[0].message.content or "") == {"sandbox": True, "answer": "Hi"}


async def test_chat_reasoner_thinks_first(chat: openai.AsyncOpenAI) -> None:
    stream = await chat.chat.completions.create(
        model="sandbox-reasoner", messages=user("6 * 7"), stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    kinds = [
        "thought" if getattr(chunk.choices[0].delta, "reasoning_content", None) else "text"
        for chunk in chunks
        if chunk.choices
        and (chunk.choices[0].delta.content or getattr(chunk.choices[0].delta, "reasoning_content", ""))
    ]
    thoughts = kinds.count("thought")
    assert thoughts and kinds == ["thought"] * thoughts + ["text"] * (len(kinds) - thoughts)
    usage = chunks[-1].usage
    assert usage is not None and usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.reasoning_tokens == thoughts
    assert usage.completion_tokens == len(kinds)


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
async def test_chat_stops_at_the_token_limit(chat: openai.AsyncOpenAI, limit: str) -> None:
    answer = await chat.chat.completions.create(model="sandbox-chat", messages=user("count to 500"), **{limit: 7})
    assert answer.choices[0].message.content == "Sandbox: 1 2 3 4 5 6"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None and answer.usage.completion_tokens == 7


async def test_chat_stops_at_a_stop_word(chat: openai.AsyncOpenAI) -> None:
    answer = await chat.chat.completions.create(model="sandbox-chat", messages=user("count to 50"), stop=[" 4", " 9"])
    assert answer.choices[0].message.content == "Sandbox: 1 2 3"
    assert answer.choices[0].finish_reason == "stop"


async def test_chat_bills_a_repeated_beginning_as_cached(chat: openai.AsyncOpenAI) -> None:
    long = [{"role": "system", "content": "Be brief. " * 600}]
    usages = []
    for text in ("Hi", "Hello"):
        answer = await chat.chat.completions.create(model="sandbox-chat", messages=[*long, *user(text)])  # type: ignore[list-item]
        assert answer.usage is not None and answer.usage.prompt_tokens_details is not None
        usages.append((answer.usage.prompt_tokens_details.cached_tokens, answer.usage.prompt_tokens))
    assert usages[0][0] == 0
    assert 1024 <= (usages[1][0] or 0) <= usages[1][1]


async def test_chat_model_list_has_context_windows(chat: openai.AsyncOpenAI) -> None:
    models = {model.id: model for model in (await chat.models.list()).data}
    assert {"sandbox-chat", "sandbox-fast", "sandbox-vision", "sandbox-reasoner", "sandbox-embed"} <= set(models)
    assert models["sandbox-chat"].context_window == 128_000  # type: ignore[attr-defined]
    assert (await chat.models.retrieve("sandbox-fast")).id == "sandbox-fast"


async def test_chat_embeddings_are_unit_vectors_and_always_the_same(chat: openai.AsyncOpenAI) -> None:
    texts = ["the cat sat on the mat", "a cat sat on a mat", "stock prices fell in Tokyo"]
    first = await chat.embeddings.create(model="sandbox-embed", input=texts, encoding_format="float")
    again = await chat.embeddings.create(model="sandbox-embed", input=texts, encoding_format="float")
    vectors = [item.embedding for item in first.data]
    assert vectors == [item.embedding for item in again.data]
    assert [round(sum(value * value for value in vector), 6) for vector in vectors] == [1.0, 1.0, 1.0]
    assert len(vectors[0]) == 256
    near, far = (sum(a * b for a, b in zip(vectors[0], other, strict=True)) for other in vectors[1:])
    assert near > 0.5 > far
    assert first.usage.prompt_tokens > 0


async def test_chat_embeddings_come_as_base64_with_the_dimensions_asked_for(door: Door) -> None:
    body = {"model": "sandbox-embed", "input": "cat", "dimensions": 12, "encoding_format": "base64"}
    async with door.session.post(
        f"{door.url}/v1/embeddings", json=body, headers={"authorization": f"Bearer {KEY}"}
    ) as response:
        raw = base64.b64decode((await response.json())["data"][0]["embedding"])
    vector = struct.unpack("12f", raw)
    assert sum(value * value for value in vector) == pytest.approx(1.0, abs=1e-5)


async def test_chat_says_that_it_is_a_sandbox_in_every_header(door: Door) -> None:
    for key in (KEY, "sbx-bad-1"):
        async with door.post("chat", "sandbox-chat", key=key) as response:
            assert response.headers["x-keyswitch-sandbox"] == "1"
            assert response.headers["x-request-id"].startswith("req_")


async def test_chat_says_in_text_that_it_is_a_sandbox(chat: openai.AsyncOpenAI) -> None:
    for text in ("Hi", "Why is the sky blue?", "2 + 2", "write 12 words", "say yes", "show me markdown", " "):
        answer = await chat.chat.completions.create(model="sandbox-chat", messages=user(text))
        assert "sandbox" in (answer.choices[0].message.content or "").lower()


async def test_chat_unknown_model_is_not_found(chat: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await chat.chat.completions.create(model="sandbox-large", messages=user("Hi"))
    assert caught.value.code == "model_not_found"


async def test_chat_prompt_beyond_the_window_is_refused(chat: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await chat.chat.completions.create(model="sandbox-tiny", messages=user("word " * 1_000))
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    "extra",
    [
        {"messages": []},
        {"messages": "hi"},
        {"messages": [{"role": "judge", "content": "x"}]},
        {"messages": [{"role": "tool", "tool_call_id": "x", "content": "x"}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": ""}}]}]},
        {"max_tokens": 0},
        {"max_tokens": -1},
        {"max_tokens": "10"},
        {"max_tokens": 10**9},
        {"temperature": 3},
        {"temperature": True},
        {"top_p": -0.1},
        {"n": 1_000_000},
        {"stop": ["x"] * 9},
        {"tools": [{"type": "function", "function": {"name": "has space"}}]},
        {"tool_choice": "required"},
        {"response_format": {"type": "yaml"}},
        {"stream_options": {"include_usage": True}},
    ],
)
async def test_chat_refuses_a_bad_request(door: Door, extra: dict[str, Any]) -> None:
    async with door.post("chat", "sandbox-chat", **extra) as response:
        assert response.status == 400
        assert (await response.json())["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff", b"[" * 5_000, b'{"a": NaN}'])
async def test_chat_refuses_a_body_that_is_no_object(door: Door, body: bytes) -> None:
    async with door.session.post(
        f"{door.url}/v1/chat/completions", data=body, headers={"authorization": f"Bearer {KEY}"}
    ) as response:
        assert response.status == 400


async def test_chat_path_without_v1_works_too(door: Door) -> None:
    body = {"model": "sandbox-chat", "messages": user("2 + 2")}
    async with door.session.post(
        f"{door.url}/chat/completions", json=body, headers={"authorization": f"Bearer {KEY}"}
    ) as response:
        assert (await response.json())["choices"][0]["message"]["content"] == "Sandbox: 2 + 2 = 4."


async def test_chat_wrong_method_and_unknown_path_are_told(door: Door) -> None:
    async with door.session.get(f"{door.url}/v1/chat/completions") as response:
        assert response.status == 405
    async with door.session.post(f"{door.url}/v1/nothing", json={}) as response:
        assert response.status == 404


async def test_azure_takes_the_deployment_from_the_path(azure: openai.AsyncAzureOpenAI) -> None:
    answer = await azure.chat.completions.create(model="sandbox-chat", messages=user("2 + 2"))
    assert answer.choices[0].message.content == "Sandbox: 2 + 2 = 4."
    assert answer.choices[0].content_filter_results  # type: ignore[attr-defined]


async def test_azure_stream_begins_with_the_prompt_filter(azure: openai.AsyncAzureOpenAI) -> None:
    stream = await azure.chat.completions.create(model="sandbox-chat", messages=user("2 + 2"), stream=True)
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices == []
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "Sandbox: 2 + 2 = 4."


async def test_azure_has_errors_of_its_own(azure: openai.AsyncAzureOpenAI, sandbox: str) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        await azure.chat.completions.create(model="nowhere", messages=user("Hi"))
    assert missing.value.code == "DeploymentNotFound"
    bad = azure.with_options(api_key="sbx-bad-1")
    with pytest.raises(openai.AuthenticationError) as caught:
        await bad.chat.completions.create(model="sandbox-chat", messages=user("Hi"))
    assert caught.value.code == "401"


async def test_azure_embeds(azure: openai.AsyncAzureOpenAI) -> None:
    answer = await azure.embeddings.create(model="sandbox-embed", input="cat", dimensions=8)
    assert len(answer.data[0].embedding) == 8
