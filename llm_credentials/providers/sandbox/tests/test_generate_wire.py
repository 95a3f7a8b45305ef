import base64
import json
from typing import Any

import pytest
from google import genai
from google.genai import errors, types
from jsonschema import Draft202012Validator

from llm_credentials.providers.sandbox.tests.conftest import KEY, Door

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: Any = [
    types.Tool(
        function_declarations=[
            types.FunctionDeclaration(name="get_weather", description="Weather", parameters_json_schema=CITY),
            types.FunctionDeclaration(name="get_time", description="Time"),
        ]
    )
]
PIXEL = b"\x89PNG\r\n\x1a\n" + b"\0" * 60


def config(**values: Any) -> types.GenerateContentConfig:
    values.setdefault("automatic_function_calling", {"disable": True})
    return types.GenerateContentConfig(**values)


async def test_generate_answers_a_small_sum(google: genai.Client) -> None:
    answer = await google.aio.models.generate_content(model="sandbox-chat", contents="What is 17 * 23?")
    assert answer.text == "Sandbox: 17 * 23 = 391."
    assert answer.candidates and answer.candidates[0].finish_reason == types.FinishReason.STOP
    usage = answer.usage_metadata
    assert usage and usage.candidates_token_count == 6
    assert usage.total_token_count == (usage.prompt_token_count or 0) + 6


async def test_generate_stream_joins_to_the_whole_answer(google: genai.Client) -> None:
    stream = await google.aio.models.generate_content_stream(model="sandbox-chat", contents="Write 40 words")
    chunks = [chunk async for chunk in stream]
    assert len("".join(chunk.text or "" for chunk in chunks).split()) == 40
    reasons = [chunk.candidates[0].finish_reason for chunk in chunks if chunk.candidates]
    assert reasons == [None] * 40 + [types.FinishReason.STOP]
    counts = [chunk.usage_metadata.candidates_token_count or 0 for chunk in chunks if chunk.usage_metadata]
    assert counts == [*range(1, 41), 40]


async def test_generate_without_sse_is_one_array(door: Door) -> None:
    async with door.session.post(
        f"{door.url}/v1beta/models/sandbox-chat:streamGenerateContent",
        json={"contents": [{"parts": [{"text": "2 + 2"}]}]},
        headers={"x-goog-api-key": KEY},
    ) as response:
        chunks = await response.json()
    texts = [part["text"] for chunk in chunks for part in chunk["candidates"][0]["content"]["parts"]]
    assert "".join(texts) == "Sandbox: 2 + 2 = 4."


@pytest.mark.parametrize("stream", [False, True])
async def test_generate_calls_tools_in_parallel_and_signs_the_first(google: genai.Client, stream: bool) -> None:
    ask: Any = {
        "model": "sandbox-chat",
        "contents": "call get_weather and get_time",
        "config": config(tools=TOOLS),
    }
    parts: list[types.Part] = []
    if stream:
        async for chunk in await google.aio.models.generate_content_stream(**ask):
            parts += (chunk.candidates or [])[0].content.parts or []  # type: ignore[union-attr]
    else:
        answer = await google.aio.models.generate_content(**ask)
        parts += (answer.candidates or [])[0].content.parts or []  # type: ignore[union-attr]
    calls = [part for part in parts if part.function_call]
    assert [part.function_call.name for part in calls if part.function_call] == ["get_weather", "get_time"]
    assert [bool(part.thought_signature) for part in calls] == [True, False]


@pytest.mark.parametrize("model", ["sandbox-chat", "sandbox-reasoner"])
async def test_generate_answers_with_the_function_response(google: genai.Client, model: str) -> None:
    question = types.Content(role="user", parts=[types.Part(text='use get_weather with {"city": "Oslo"}')])
    first = await google.aio.models.generate_content(model=model, contents=[question], config=config(tools=TOOLS))
    (call,) = first.function_calls or []
    assert call.args == {"city": "Oslo"}
    assert first.candidates and first.candidates[0].content
    reply = types.Part(
        function_response=types.FunctionResponse(id=call.id, name=call.name, response={"result": "rain, 4 °C"})
    )
    history: Any = [question, first.candidates[0].content, types.Content(role="user", parts=[reply])]
    answer = await google.aio.models.generate_content(model=model, contents=history, config=config(tools=TOOLS))
    assert answer.text == "Sandbox: get_weather answered: rain, 4 °C"


def turns_with_call(signature: str | None) -> dict[str, Any]:
    call: dict[str, Any] = {"functionCall": {"name": "f", "args": {}}}
    if signature is not None:
        call["thoughtSignature"] = signature
    return {
        "contents": [
            {"role": "user", "parts": [{"text": "go"}]},
            {"role": "model", "parts": [call]},
            {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"result": "1"}}}]},
        ]
    }


async def test_generate_refuses_a_signature_that_is_not_its_own(door: Door) -> None:
    foreign = base64.b64encode(b"something else").decode()
    async with door.post("generate", "sandbox-chat", **turns_with_call(foreign)) as response:
        assert response.status == 400


@pytest.mark.parametrize(
    "signature", ["skip_thought_signature_validator", base64.b64encode(b"skip_thought_signature_validator").decode()]
)
async def test_generate_takes_the_documented_signature_for_foreign_calls(door: Door, signature: str) -> None:
    async with door.post("generate", "sandbox-reasoner", **turns_with_call(signature)) as response:
        assert response.status == 200


async def test_generate_reasoner_wants_its_signature_back(door: Door) -> None:
    async with door.post("generate", "sandbox-reasoner", **turns_with_call(None)) as response:
        assert response.status == 400
        assert "thought_signature" in (await response.json())["error"]["message"]
    async with door.post("generate", "sandbox-chat", **turns_with_call(None)) as response:
        assert response.status == 200


async def test_generate_must_call_an_allowed_function(google: genai.Client) -> None:
    answer = await google.aio.models.generate_content(
        model="sandbox-chat",
        contents="Good evening",
        config=config(
            tools=TOOLS,
            tool_config={"function_calling_config": {"mode": "ANY", "allowed_function_names": ["get_weather"]}},
        ),
    )
    (call,) = answer.function_calls or []
    assert call.name == "get_weather"
    Draft202012Validator(CITY).validate(call.args)


async def test_generate_never_calls_in_mode_none(google: genai.Client) -> None:
    answer = await google.aio.models.generate_content(
        model="sandbox-chat",
        contents="call get_time",
        config=config(tools=TOOLS, tool_config={"function_calling_config": {"mode": "NONE"}}),
    )
    assert not answer.function_calls


async def test_generate_says_what_images_it_saw(google: genai.Client) -> None:
    parts: Any = [types.Part.from_bytes(data=PIXEL, mime_type="image/png"), "What is this?"]
    answer = await google.aio.models.generate_content(model="sandbox-vision", contents=parts)
    assert "1 image (image/png, 68 bytes)" in (answer.text or "")


@pytest.mark.parametrize(
    "schema",
    [
        {"response_json_schema": CITY},
        {"response_schema": {"type": "OBJECT", "properties": {"city": {"type": "STRING"}}, "required": ["city"]}},
    ],
)
async def test_generate_answers_json_valid_by_either_schema(google: genai.Client, schema: dict[str, Any]) -> None:
    answer = await google.aio.models.generate_content(
        model="sandbox-chat", contents="Oslo", config=config(response_mime_type="application/json", **schema)
    )
    Draft202012Validator(CITY).validate(json.loads(answer.text or ""))


async def test_generate_shows_thoughts_only_when_asked_and_bills_them_always(google: genai.Client) -> None:
    shown = await google.aio.models.generate_content(
        model="sandbox-reasoner", contents="6 * 7", config=config(thinking_config={"include_thoughts": True})
    )
    hidden = await google.aio.models.generate_content(model="sandbox-reasoner", contents="6 * 7")
    assert [bool(part.thought) for part in shown.candidates[0].content.parts] == [True, False]  # type: ignore[index,union-attr]
    assert [bool(part.thought) for part in hidden.candidates[0].content.parts] == [False]  # type: ignore[index,union-attr]
    for answer in (shown, hidden):
        usage = answer.usage_metadata
        assert usage and usage.thoughts_token_count and usage.candidates_token_count == 6
        assert usage.total_token_count == (usage.prompt_token_count or 0) + 6 + usage.thoughts_token_count


async def test_generate_stops_at_limit_and_stop_sequence(google: genai.Client) -> None:
    short = await google.aio.models.generate_content(
        model="sandbox-chat", contents="count to 50", config=config(max_output_tokens=3)
    )
    assert short.candidates and short.candidates[0].finish_reason == types.FinishReason.MAX_TOKENS
    stopped = await google.aio.models.generate_content(
        model="sandbox-chat", contents="count to 50", config=config(stop_sequences=[" 4"])
    )
    assert stopped.text == "Sandbox: 1 2 3"


async def test_generate_embeds(google: genai.Client) -> None:
    answer = await google.aio.models.embed_content(
        model="sandbox-embed", contents=["cat", "dog"], config={"output_dimensionality": 16}
    )
    vectors = [embedding.values or [] for embedding in answer.embeddings or []]
    assert [len(vector) for vector in vectors] == [16, 16]
    assert sum(value * value for value in vectors[0]) == pytest.approx(1.0)


async def test_generate_embeds_one_content(door: Door) -> None:
    async with door.session.post(
        f"{door.url}/v1beta/models/sandbox-embed:embedContent",
        json={"content": {"parts": [{"text": "cat"}]}, "outputDimensionality": 4},
        headers={"x-goog-api-key": KEY},
    ) as response:
        assert len((await response.json())["embedding"]["values"]) == 4


async def test_generate_models_come_in_pages(google: genai.Client) -> None:
    pager = await google.aio.models.list(config={"page_size": 3})
    models = {model.name: model async for model in pager}
    assert len(models) > 3
    assert models["models/sandbox-chat"].input_token_limit == 128_000


async def test_generate_counts_the_tokens_that_it_bills(google: genai.Client) -> None:
    counted = await google.aio.models.count_tokens(model="sandbox-chat", contents="Hello")
    billed = await google.aio.models.generate_content(model="sandbox-chat", contents="Hello")
    assert billed.usage_metadata and counted.total_tokens == billed.usage_metadata.prompt_token_count


@pytest.mark.parametrize("version", ["v1", "v1beta"])
async def test_generate_speaks_both_versions(sandbox: str, version: str) -> None:
    options = types.HttpOptions(base_url=sandbox, api_version=version)
    answer = await genai.Client(api_key=KEY, http_options=options).aio.models.generate_content(
        model="sandbox-chat", contents="2 + 2"
    )
    assert answer.text == "Sandbox: 2 + 2 = 4."


async def test_generate_bad_key_is_a_400_with_its_reason(sandbox: str) -> None:
    client = genai.Client(api_key="sbx-bad-1", http_options=types.HttpOptions(base_url=sandbox))
    with pytest.raises(errors.ClientError) as caught:
        await client.aio.models.generate_content(model="sandbox-chat", contents="Hi")
    assert (caught.value.code, caught.value.status) == (400, "INVALID_ARGUMENT")
    assert caught.value.details["error"]["details"][0]["reason"] == "API_KEY_INVALID"


async def test_generate_unknown_model_is_not_found(google: genai.Client) -> None:
    with pytest.raises(errors.ClientError) as caught:
        await google.aio.models.generate_content(model="sandbox-large", contents="Hi")
    assert (caught.value.code, caught.value.status) == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    "extra",
    [
        {"contents": []},
        {"contents": [{"role": "assistant", "parts": [{"text": "x"}]}]},
        {"contents": [{"role": "user", "parts": []}]},
        {"contents": [{"role": "user", "parts": [{}]}]},
        {"contents": [{"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {}}}]}]},
        {"contents": [{"role": "user", "parts": [{"inlineData": {"mimeType": "image/png", "data": "%"}}]}]},
        {"generationConfig": {"maxOutputTokens": 0}},
        {"generationConfig": {"candidateCount": 9}},
        {"generationConfig": {"responseSchema": {"type": "STRING"}}},
        {"tools": [{"functionDeclarations": [{"name": "has space"}]}]},
        {"toolConfig": {"functionCallingConfig": {"mode": "ANY"}}},
    ],
)
async def test_generate_refuses_a_bad_request(door: Door, extra: dict[str, Any]) -> None:
    async with door.post("generate", "sandbox-chat", **extra) as response:
        assert response.status == 400
        assert (await response.json())["error"]["status"] == "INVALID_ARGUMENT"
