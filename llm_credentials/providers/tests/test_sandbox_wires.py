"""The three wires against the sandbox: what works, and each of its faults."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson
import pytest

from llm_credentials.providers import (
    AuthenticationFailed,
    BadProviderResponse,
    ConnectionFailed,
    ContentFiltered,
    ContextLengthExceeded,
    DeadlineExceeded,
    EgressPolicy,
    ImagePart,
    LLMClient,
    LLMError,
    LLMMessage,
    LLMResponse,
    ModelNotFound,
    PermissionDenied,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
    StreamInterrupted,
    ToolDefinition,
    build_client,
    transport,
)
from llm_credentials.providers.sandbox.running import running_sandbox
from llm_credentials.providers.sandbox.server import SandboxOptions

WIRES = ["anthropic", "gemini", "openai_compatible"]
LONG = [LLMMessage.user("write 40 words")]
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x02\x00\x00\x00\x03\x08\x02\x00\x00\x00" + b"\0" * 16
WEATHER = ToolDefinition(
    name="get_weather",
    description="The weather of a city",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)


@pytest.fixture
async def sandbox() -> AsyncIterator[str]:
    async with running_sandbox(options=SandboxOptions(delay_ms=0, slow_s=0, stall_s=60)) as url:
        yield url
        await transport.close_connections()


def client_of(
    provider: str, sandbox: str, model: str = "sandbox-instant", key: str = "sbx-good-0123456789"
) -> LLMClient:
    policy = EgressPolicy(allow=frozenset({sandbox.removeprefix("http://")}))
    base_url = f"{sandbox}/v1" if provider == "openai_compatible" else sandbox
    return build_client(provider, api_key=key, model=model, base_url=base_url, egress=policy)


async def answer(client: LLMClient, messages: list[LLMMessage], *, stream: bool, **more: Any) -> LLMResponse:
    if not stream:
        return await client.complete(messages, **more)
    chunks = [chunk async for chunk in client.stream(messages, **more)]
    last = chunks[-1].response
    assert last is not None
    assert "".join(chunk.text for chunk in chunks if chunk.type == "delta") == last.text
    return last


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("provider", WIRES)
async def test_sandbox_answers_in_text(provider: str, stream: bool, sandbox: str) -> None:
    response = await answer(client_of(provider, sandbox), [LLMMessage.user("What is 17 * 23?")], stream=stream)
    assert "391" in response.text
    assert response.finish_reason == "stop"
    assert response.model == "sandbox-instant"
    assert (response.usage.input_tokens or 0) > 0
    assert (response.usage.output_tokens or 0) > 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("provider", WIRES)
async def test_sandbox_sees_images_and_calls_tools(provider: str, stream: bool, sandbox: str) -> None:
    client = client_of(provider, sandbox)
    shown = await answer(client, [LLMMessage.user([ImagePart(data=PNG, media_type="image/png")])], stream=stream)
    assert "png" in shown.text.lower()
    asked = [LLMMessage.user('use get_weather with {"city": "Zürich"}')]
    called = await answer(client, asked, stream=stream, tools=[WEATHER])
    assert [(call.name, call.arguments) for call in called.tool_calls] == [("get_weather", {"city": "Zürich"})]
    assert called.finish_reason == "tool_calls"
    assert not (await answer(client, asked, stream=stream, tools=[WEATHER], tool_choice="none")).tool_calls


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("provider", WIRES)
async def test_sandbox_keeps_limits_stops_and_schemas(provider: str, stream: bool, sandbox: str) -> None:
    client = client_of(provider, sandbox)
    cut = await answer(client, LONG, stream=stream, max_tokens=3)
    assert (cut.finish_reason, cut.usage.output_tokens) == ("length", 3)
    stopped = await answer(client, [LLMMessage.user("say one two three")], stream=stream, stop=["three"])
    assert "two" in stopped.text
    assert "three" not in stopped.text
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    shaped = await answer(client, [LLMMessage.user("It is 42.")], stream=stream, response_schema=schema)
    assert orjson.loads(shaped.text) == {"n": 42}


@pytest.mark.parametrize("provider", WIRES)
async def test_sandbox_lists_its_models(provider: str, sandbox: str) -> None:
    models = {model.id: model for model in await client_of(provider, sandbox).list_models()}
    assert "sandbox-chat" in models
    assert models["sandbox-chat"].context_window in (None, 128_000)


async def test_sandbox_embeds_on_the_generate_content_wire(sandbox: str) -> None:
    found = await client_of("gemini", sandbox).embed(["one", "two"], model="sandbox-embed", dimensions=16)
    assert [len(vector) for vector in found.vectors] == [16, 16]


@pytest.mark.parametrize("provider", WIRES)
@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("sbx-bad-0123456789", AuthenticationFailed),
        ("sbx-exhausted-0123456789", QuotaExhausted),
        ("sbx-limited-30-0123456789", RateLimited),
    ],
)
async def test_key_says_what_is_wrong(provider: str, key: str, expected: type[LLMError], sandbox: str) -> None:
    with pytest.raises(expected) as caught:
        await client_of(provider, sandbox, key=key).complete(LONG)
    if expected is RateLimited:
        assert caught.value.retry_after_s == 30.0


REFUSALS: list[tuple[str, type[LLMError]]] = [
    ("400", RequestRejected),
    ("401", AuthenticationFailed),
    ("402", QuotaExhausted),
    ("403", PermissionDenied),
    ("404", ModelNotFound),
    ("405", RequestRejected),
    ("408", DeadlineExceeded),
    ("409", ProviderUnavailable),
    ("413", RequestRejected),
    ("422", RequestRejected),
    ("429", RateLimited),
    ("429-past", RateLimited),
    ("429-negative", RateLimited),
    ("429-huge", RateLimited),
    ("429-text", RateLimited),
    ("429-bare", RateLimited),
    ("500", ProviderUnavailable),
    ("502", ProviderUnavailable),
    ("503", ProviderUnavailable),
    ("504", ProviderUnavailable),
    ("529", ProviderUnavailable),
    ("quota", QuotaExhausted),
    ("context", ContextLengthExceeded),
    ("302", BadProviderResponse),
    ("307", BadProviderResponse),
    ("204", BadProviderResponse),
    ("empty", BadProviderResponse),
    ("html", BadProviderResponse),
    ("html-stream", BadProviderResponse),
    ("reset", ConnectionFailed),
    ("cut-first", ConnectionFailed),
    ("many-headers", BadProviderResponse),
    ("error-200", LLMError),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("provider", WIRES)
@pytest.mark.parametrize(("fault", "expected"), REFUSALS)
async def test_fault_before_content_has_its_own_class(
    fault: str, expected: type[LLMError], provider: str, stream: bool, sandbox: str
) -> None:
    client = client_of(provider, sandbox, f"sandbox-instant~fault={fault}")
    with pytest.raises(expected) as caught:
        await answer(client, LONG, stream=stream)
    assert type(caught.value) is expected or expected in (LLMError, ConnectionFailed, ContextLengthExceeded)
    assert not isinstance(caught.value, StreamInterrupted)
    async with aiohttp.ClientSession() as session, session.get(f"{sandbox}/_sandbox/counts") as counts:
        assert (await counts.json())["requests"] == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("provider", WIRES)
async def test_refused_prompt_is_filtered_or_says_so(provider: str, stream: bool, sandbox: str) -> None:
    client = client_of(provider, sandbox, "sandbox-instant~fault=prompt-refused")
    with pytest.raises(RequestRejected) as caught:
        await answer(client, LONG, stream=stream)
    assert type(caught.value) is ContentFiltered or provider == "anthropic"


@pytest.mark.parametrize("provider", WIRES)
@pytest.mark.parametrize("fault", ["cut", "cut-clean", "cut-utf8", "badjson-chunk", "error-event"])
async def test_fault_after_content_interrupts_a_stream(fault: str, provider: str, sandbox: str) -> None:
    client = client_of(provider, sandbox, f"sandbox-instant~fault={fault}")
    given = ""
    with pytest.raises(StreamInterrupted) as caught:
        async for chunk in client.stream(LONG):
            assert chunk.type == "delta"
            given += chunk.text
    assert given
    assert caught.value.partial is not None
    assert caught.value.partial.text == given


@pytest.mark.parametrize("provider", WIRES)
async def test_length_that_shows_to_be_a_lie_after_the_streams_own_end_is_none_of_its_concern(
    provider: str, sandbox: str
) -> None:
    response = await answer(client_of(provider, sandbox, "sandbox-instant~fault=lying-length"), LONG, stream=True)
    assert (response.finish_reason, len(response.text.split())) == ("stop", 40)


@pytest.mark.parametrize("provider", WIRES)
@pytest.mark.parametrize("fault", ["cut", "cut-clean", "cut-utf8", "badjson", "lying-length", "gzip-bomb", "endless"])
async def test_fault_in_a_whole_answer_is_an_error(fault: str, provider: str, sandbox: str) -> None:
    client = client_of(provider, sandbox, f"sandbox-instant~fault={fault}")
    with pytest.raises((ConnectionFailed, BadProviderResponse)):
        await client.complete(LONG, timeout_s=20)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("provider", WIRES)
@pytest.mark.parametrize("fault", ["choices-empty", "choices-null", "badjson"])
async def test_answer_of_the_wrong_shape_is_a_bad_response(
    fault: str, provider: str, stream: bool, sandbox: str
) -> None:
    client = client_of(provider, sandbox, f"sandbox-instant~fault={fault}")
    try:
        response = await answer(client, LONG, stream=stream)
    except (BadProviderResponse, StreamInterrupted, ConnectionFailed):
        return
    # On the messages wire an empty list of blocks is an answer without words.
    assert (provider, fault, response.text) == ("anthropic", "choices-empty", "")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("provider", WIRES)
@pytest.mark.parametrize(
    ("fault", "finish"),
    [("unknown-finish", "other"), ("filter", "content_filter"), ("refusal", "content_filter"), ("wrong-type", "stop")]
    + [(name, "stop") for name in ("usage-missing", "usage-negative", "usage-nan", "usage-twice", "bom", "crlf")],
)
async def test_odd_answer_is_still_an_answer(
    fault: str, finish: str, provider: str, stream: bool, sandbox: str
) -> None:
    response = await answer(client_of(provider, sandbox, f"sandbox-instant~fault={fault}"), LONG, stream=stream)
    assert response.finish_reason == finish
    assert all(
        value is None or value >= 0
        for value in (response.usage.input_tokens, response.usage.output_tokens, response.usage.reasoning_tokens)
    )
    if fault == "usage-missing":
        assert response.usage.output_tokens is None


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("provider", WIRES)
@pytest.mark.parametrize(
    "fault",
    [
        "toolargs-bad",
        "toolargs-huge,mb=1",
        "toolargs-split",
        "tool-noid",
        "tool-sameid",
        "tool-unknown",
        "tool-noindex",
        "tool-index0",
        "tool-interleaved",
    ],
)
async def test_odd_tool_calls_are_whole_and_told_apart(fault: str, provider: str, stream: bool, sandbox: str) -> None:
    client = client_of(provider, sandbox, f"sandbox-instant~fault={fault}")
    response = await answer(client, [LLMMessage.user("call get_weather")], stream=stream, tools=[WEATHER])
    assert response.finish_reason == "tool_calls"
    assert response.tool_calls
    assert len({call.id for call in response.tool_calls}) == len(response.tool_calls)
    assert all(call.id and isinstance(call.arguments, dict) for call in response.tool_calls)
    if fault == "toolargs-bad":
        assert response.tool_calls[0].arguments == {}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("provider", WIRES)
@pytest.mark.parametrize("fault", ["stall-first", "drip"])
async def test_silence_ends_with_the_deadline(fault: str, provider: str, stream: bool, sandbox: str) -> None:
    client = client_of(provider, sandbox, f"sandbox-instant~fault={fault}")
    with pytest.raises(DeadlineExceeded):
        await answer(client, LONG, stream=stream, timeout_s=0.6)


@pytest.mark.parametrize("provider", WIRES)
async def test_silence_in_the_middle_interrupts(provider: str, sandbox: str) -> None:
    client = client_of(provider, sandbox, "sandbox-instant~fault=stall-mid")
    with pytest.raises(StreamInterrupted):
        await answer(client, LONG, stream=True, timeout_s=0.8)


@pytest.mark.parametrize("provider", WIRES)
async def test_stream_that_is_closed_closes_its_connection(provider: str, sandbox: str) -> None:
    stream = client_of(provider, sandbox, "sandbox-chat~delay=50").stream([LLMMessage.user("write 500 words")])
    assert (await anext(stream)).text
    await stream.aclose()
    async with aiohttp.ClientSession() as session, asyncio.timeout(5):
        while True:
            async with session.get(f"{sandbox}/_sandbox/requests?client_gone=true") as response:
                if (await response.json())["count"] == 1:
                    return
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("provider", "path", "body"),
    [
        (
            "anthropic",
            "/v1/messages",
            {"model": "sandbox-instant", "max_tokens": 50, "messages": [{"role": "user", "content": "say pass it on"}]},
        ),
        ("gemini", "", {"contents": [{"role": "user", "parts": [{"text": "say pass it on"}]}]}),
    ],
)
async def test_forward_passes_bytes_of_the_same_wire(
    provider: str, path: str, body: dict[str, Any], stream: bool, sandbox: str
) -> None:
    if provider == "anthropic":
        body = {**body, "stream": stream}
    else:
        path = f"models/sandbox-instant:{'streamGenerateContent?alt=sse' if stream else 'generateContent'}"
    passed = await client_of(provider, sandbox).forward(orjson.dumps(body), path=path, stream=stream)
    data = b"".join([piece async for piece in passed.body])
    assert passed.status == 200
    assert passed.headers["content-type"].startswith("text/event-stream" if stream else "application/json")
    assert b"pass" in data
    assert data.startswith(b"event:" if provider == "anthropic" else b"data:") if stream else orjson.loads(data)
