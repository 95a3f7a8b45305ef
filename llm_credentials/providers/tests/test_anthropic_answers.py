"""What comes back on the messages wire: answers, streams, errors, lists."""

from __future__ import annotations

import asyncio
import traceback
from typing import Any

import anthropic
import pytest

from llm_credentials.providers import (
    AuthenticationFailed,
    BadProviderResponse,
    ConnectionFailed,
    ContextLengthExceeded,
    DeadlineExceeded,
    LLMError,
    LLMMessage,
    LLMStreamChunk,
    ModelNotFound,
    PermissionDenied,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
    StreamInterrupted,
    UnsupportedContent,
    Usage,
)
from llm_credentials.providers.tests.answering import (
    Answer,
    Answering,
    answering,
    of_events,
    of_json,
    of_text,
)

HELLO = [LLMMessage.user("Hello")]
CANARY = "sk-ant-api03-" + "0123456789"
MODEL = "claude-sonnet-4-5"
START = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5-20250929",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": 10,
            "cache_read_input_tokens": 5,
            "cache_creation_input_tokens": 2,
            "output_tokens": 1,
        },
    },
}
STOP = {"type": "message_stop"}


def begin(index: int, **block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def piece(index: int, kind: str, **value: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **value}}


def end(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def ending(reason: str, **usage: Any) -> dict[str, Any]:
    return {
        "type": "message_delta",
        "delta": {"stop_reason": reason, "stop_sequence": None},
        "usage": {"output_tokens": 40, **usage},
    }


EVERYTHING = (
    START,
    begin(0, type="thinking", thinking="", signature=""),
    {"type": "ping"},
    piece(0, "thinking_delta", thinking="Let me "),
    piece(0, "thinking_delta", thinking="see…"),
    piece(0, "signature_delta", signature="c2ln"),
    end(0),
    begin(1, type="text", text=""),
    piece(1, "text_delta", text="Grüße, "),
    piece(1, "text_delta", text="日本 🎉"),
    end(1),
    begin(2, type="tool_use", id="toolu_1", name="get_weather", input={}),
    piece(2, "input_json_delta", partial_json=""),
    piece(2, "input_json_delta", partial_json='{"city": "Zür'),
    piece(2, "input_json_delta", partial_json='ich"}'),
    end(2),
    begin(3, type="tool_use", id="toolu_2", name="get_time", input={}),
    end(3),
    ending("tool_use", output_tokens_details={"thinking_tokens": 12}),
    STOP,
)
TEXT = (START, begin(0, type="text", text=""), piece(0, "text_delta", text="Hel"), piece(0, "text_delta", text="lo."))


def message(**changed: Any) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5-20250929",
        "content": [{"type": "text", "text": "Hello."}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 10, "output_tokens": 40},
        **changed,
    }


async def completed(answer: Answer, **more: Any) -> Any:
    async with answering(answer) as server:
        return await server.client("anthropic", model=MODEL).complete(HELLO, **more)


async def streamed(answer: Answer, **more: Any) -> list[LLMStreamChunk]:
    async with answering(answer) as server:
        return [chunk async for chunk in server.client("anthropic", model=MODEL).stream(HELLO, **more)]


# Whole answers


async def test_answer_is_read() -> None:
    response = await completed(of_json(message(), request_id="req_7"))
    assert (response.text, response.finish_reason, response.model) == ("Hello.", "stop", "claude-sonnet-4-5-20250929")
    assert (response.provider, response.request_id) == ("anthropic", "req_7")
    assert response.usage == Usage(input_tokens=10, output_tokens=40)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("pause_turn", "other"),
        ("something_new", "other"),
        (None, "other"),
    ],
)
async def test_stop_reason_becomes_our_word(reason: str | None, expected: str) -> None:
    response = await completed(of_json(message(stop_reason=reason)))
    assert response.finish_reason == expected


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (
            {"input_tokens": 10, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 2, "output_tokens": 4},
            Usage(input_tokens=17, output_tokens=4, cache_read_tokens=5, cache_write_tokens=2),
        ),
        ({"input_tokens": 10, "output_tokens": 4}, Usage(input_tokens=10, output_tokens=4)),
        ({}, Usage()),
        (None, Usage()),
        ({"input_tokens": -1, "output_tokens": "4"}, Usage()),
        ({"cache_read_input_tokens": 5}, Usage(cache_read_tokens=5)),
        (
            {"input_tokens": 1, "output_tokens": 9, "output_tokens_details": {"thinking_tokens": 6}},
            Usage(input_tokens=1, output_tokens=9, reasoning_tokens=6),
        ),
    ],
)
async def test_usage_counts_all_of_the_prompt_and_leaves_unknown_unknown(usage: Any, expected: Usage) -> None:
    assert (await completed(of_json(message(usage=usage)))).usage == expected


async def test_calls_without_or_with_the_same_id_are_told_apart() -> None:
    content = [
        {"type": "tool_use", "name": "a", "input": {"x": 1}},
        {"type": "tool_use", "id": "same", "name": "b", "input": None},
        {"type": "tool_use", "id": "same", "name": "c", "input": [1]},
    ]
    calls = (await completed(of_json(message(content=content, stop_reason="tool_use")))).tool_calls
    assert len({call.id for call in calls}) == 3
    assert [call.arguments for call in calls] == [{"x": 1}, {}, {}]
    assert [call.invalid_arguments for call in calls] == [None, None, "[1]"]


@pytest.mark.parametrize(
    "answer",
    [
        of_text("<html>Not here</html>"),
        of_text("", "application/json"),
        of_text("{", "application/json"),
        of_json([]),
        of_json("Hello."),
        of_json({}),
        of_json(message(content=None)),
        of_json(message(content=["text"])),
        of_json(message(content=[{"type": "text"}])),
        of_json(message(content=[{"type": "tool_use", "id": "a"}])),
        of_json(message(content=[{}])),
        Answer([], 204),
        Answer([], 302, {"location": "https://example.com/"}),
    ],
)
async def test_answer_of_the_wrong_shape_is_a_bad_response(answer: Answer) -> None:
    with pytest.raises(BadProviderResponse):
        await completed(answer)


async def test_error_with_status_200_is_its_own_class() -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "x"}}
    with pytest.raises(ProviderUnavailable):
        await completed(of_json(error))


async def test_wire_without_embeddings_says_so() -> None:
    async with answering(of_json({})) as server:
        with pytest.raises(UnsupportedContent):
            await server.client("anthropic").embed(["x"])


# Streams


@pytest.mark.parametrize("size", [0, 1, 7])
@pytest.mark.parametrize("named", [True, False])
async def test_stream_gives_everything_wherever_it_is_cut(size: int, named: bool) -> None:
    chunks = await streamed(of_events(*EVERYTHING, size=size, named=named))
    assert [(chunk.type, chunk.text) for chunk in chunks if chunk.text] == [
        ("reasoning", "Let me "),
        ("reasoning", "see…"),
        ("delta", "Grüße, "),
        ("delta", "日本 🎉"),
    ]
    response = chunks[-1].response
    assert chunks[-1].type == "done"
    assert response is not None
    assert tuple(chunk.tool_call for chunk in chunks if chunk.type == "tool_call") == response.tool_calls
    assert [(call.id, call.arguments) for call in response.tool_calls] == [
        ("toolu_1", {"city": "Zürich"}),
        ("toolu_2", {}),
    ]
    assert (response.text, response.reasoning, response.finish_reason) == (
        "Grüße, 日本 🎉",
        "Let me see…",
        "tool_calls",
    )
    assert response.usage == Usage(
        input_tokens=17, output_tokens=40, cache_read_tokens=5, cache_write_tokens=2, reasoning_tokens=12
    )


async def test_stream_and_whole_answer_say_the_same() -> None:
    whole = message(
        content=[
            {"type": "thinking", "thinking": "Let me see…", "signature": "c2ln"},
            {"type": "text", "text": "Grüße, 日本 🎉"},
            {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Zürich"}},
            {"type": "tool_use", "id": "toolu_2", "name": "get_time", "input": {}},
        ],
        stop_reason="tool_use",
    )
    chunks = await streamed(of_events(*EVERYTHING))
    assert chunks[-1].response is not None
    assert chunks[-1].response.message == (await completed(of_json(whole))).message


async def test_stream_of_interleaved_blocks_keeps_them_apart() -> None:
    chunks = await streamed(
        of_events(
            START,
            begin(0, type="tool_use", id="a", name="one", input={}),
            begin(1, type="tool_use", id="b", name="two", input={}),
            piece(0, "input_json_delta", partial_json='{"x"'),
            piece(1, "input_json_delta", partial_json='{"y"'),
            piece(0, "input_json_delta", partial_json=": 1}"),
            piece(1, "input_json_delta", partial_json=": 2"),
            end(0),
            end(1),
            ending("tool_use"),
            STOP,
        )
    )
    calls = [chunk.tool_call for chunk in chunks if chunk.tool_call]
    assert [(call.name, call.arguments, call.invalid_arguments) for call in calls] == [
        ("one", {"x": 1}, None),
        ("two", {}, '{"y": 2'),
    ]


async def test_block_that_was_never_closed_is_given_at_the_end() -> None:
    chunks = await streamed(
        of_events(START, begin(0, type="tool_use", id="a", name="one", input={}), ending("tool_use"), STOP)
    )
    assert [chunk.type for chunk in chunks] == ["tool_call", "done"]


@pytest.mark.parametrize("cut", [True, False])
async def test_stream_cut_before_content_is_a_failed_connection(cut: bool) -> None:
    with pytest.raises(ConnectionFailed):
        await streamed(of_events(START, begin(0, type="text", text=""), cut=cut))


@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize(
    "events",
    [
        TEXT,
        (*TEXT, end(0)),
        (*TEXT, end(0), ending("end_turn")),
        (
            *TEXT,
            end(0),
            begin(1, type="tool_use", id="a", name="x", input={}),
            piece(1, "input_json_delta", partial_json="{"),
        ),
    ],
)
async def test_stream_without_message_stop_is_interrupted_and_keeps_the_partial_answer(
    events: tuple[dict[str, Any], ...], cut: bool
) -> None:
    with pytest.raises(StreamInterrupted) as caught:
        await streamed(of_events(*events, cut=cut))
    assert caught.value.partial is not None
    assert caught.value.partial.text == "Hello."
    assert caught.value.partial.tool_calls == ()
    assert caught.value.partial.usage.input_tokens == 17


async def test_partial_usage_does_not_take_the_first_piece_for_the_whole() -> None:
    with pytest.raises(StreamInterrupted) as caught:
        await streamed(of_events(*TEXT))
    assert caught.value.partial is not None
    assert caught.value.partial.usage.output_tokens is None


async def test_error_event_before_content_is_its_own_class() -> None:
    error = {"type": "error", "error": {"type": "rate_limit_error", "message": "x"}}
    with pytest.raises(RateLimited):
        await streamed(of_events(START, error))


async def test_error_event_after_content_interrupts() -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "x"}}
    with pytest.raises(StreamInterrupted) as caught:
        await streamed(of_events(*TEXT, error))
    assert caught.value.code == "overloaded_error"
    assert caught.value.partial is not None
    assert caught.value.partial.text == "Hello."


@pytest.mark.parametrize(
    "answer",
    [
        of_text("<html>Not here</html>"),
        of_text("", "text/event-stream"),
        of_text("data: {\n\n", "text/event-stream"),
        of_text("data: 7\n\n", "text/event-stream"),
        of_events({"type": "message_start"}),
        of_events(START, {"type": "content_block_start", "index": 0}),
        of_events(START, piece(4, "text_delta", text="x")),
    ],
)
async def test_stream_of_the_wrong_shape_is_a_bad_response(answer: Answer) -> None:
    with pytest.raises(BadProviderResponse):
        await streamed(answer)


async def test_unknown_events_and_pieces_are_passed_over() -> None:
    chunks = await streamed(
        of_events(*TEXT, {"type": "something_new"}, piece(0, "new_delta"), end(0), end(9), ending("end_turn"), STOP)
    )
    assert "".join(chunk.text for chunk in chunks) == "Hello."


async def test_streamed_tool_of_the_schema_is_text() -> None:
    answer = of_events(
        START,
        begin(0, type="tool_use", id="a", name="answer", input={}),
        piece(0, "input_json_delta", partial_json='{"n":'),
        piece(0, "input_json_delta", partial_json="7}"),
        end(0),
        ending("tool_use"),
        STOP,
    )
    async with answering(answer) as server:
        client = server.client("anthropic", model="claude-3-opus-20240229")
        chunks = [chunk async for chunk in client.stream(HELLO, response_schema={"type": "object"})]
    assert "".join(chunk.text for chunk in chunks) == '{"n":7}'
    assert chunks[-1].response is not None
    assert (chunks[-1].response.text, chunks[-1].response.finish_reason) == ('{"n":7}', "stop")


async def test_stream_may_come_as_one_whole_answer() -> None:
    content = [
        {"type": "thinking", "thinking": "Hm.", "signature": "s"},
        {"type": "text", "text": "Hello."},
        {"type": "tool_use", "id": "a", "name": "one", "input": {}},
    ]
    chunks = await streamed(of_json(message(content=content, stop_reason="tool_use")))
    assert [(chunk.type, chunk.text) for chunk in chunks] == [
        ("reasoning", "Hm."),
        ("delta", "Hello."),
        ("tool_call", ""),
        ("done", ""),
    ]
    assert chunks[-1].response is not None
    assert chunks[-1].response.usage.output_tokens == 40


async def test_stream_ends_with_message_stop_though_the_connection_stays_open() -> None:
    answer = of_events(*EVERYTHING)
    answer.open_s = 30.0
    async with asyncio.timeout(10):
        assert (await streamed(answer))[-1].type == "done"


# Errors


def error(kind: str, text: str = "Something about sk-ant-api03-SECRET", code: str | None = None) -> dict[str, Any]:
    inner: dict[str, Any] = {"type": kind, "message": text}
    if code:
        inner["details"] = {"error_code": code}
    return {"type": "error", "error": inner, "request_id": "req_9"}


ERRORS: list[tuple[int, Any, type[LLMError]]] = [
    (400, error("invalid_request_error"), RequestRejected),
    (400, error("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"), ContextLengthExceeded),
    (400, error("invalid_request_error", "Your credit balance is too low to access the API."), QuotaExhausted),
    (400, error("invalid_request_error", "The word: prompt is too long"), RequestRejected),
    (400, error("billing_error"), QuotaExhausted),
    (400, error("invalid_request_error", code="organization_on_hold"), PermissionDenied),
    (401, error("authentication_error"), AuthenticationFailed),
    (402, error("billing_error"), QuotaExhausted),
    (402, error("api_error", code="linked_organization_spend_limit_reached"), QuotaExhausted),
    (403, error("permission_error"), PermissionDenied),
    (404, error("not_found_error"), ModelNotFound),
    (404, error("not_found_error", code="file_expired"), RequestRejected),
    (405, {}, RequestRejected),
    (408, error("timeout_error"), DeadlineExceeded),
    (408, {}, DeadlineExceeded),
    (409, error("conflict_error"), ProviderUnavailable),
    (413, error("request_too_large"), RequestRejected),
    (413, error("invalid_request_error", code="request_body_too_large_after_decoding"), RequestRejected),
    (422, {}, RequestRejected),
    (429, error("rate_limit_error"), RateLimited),
    (429, error("rate_limit_error", code="ramp_limit_exceeded"), RateLimited),
    (429, error("rate_limit_error", code="contract_spend_limit_reached"), QuotaExhausted),
    (429, error("rate_limit_error", code="enforced_spend_limit_reached"), QuotaExhausted),
    (500, error("api_error"), ProviderUnavailable),
    (502, {}, ProviderUnavailable),
    (503, {}, ProviderUnavailable),
    (504, error("timeout_error"), ProviderUnavailable),
    (529, error("overloaded_error"), ProviderUnavailable),
    (401, ["no", "object"], AuthenticationFailed),
    (429, "text", RateLimited),
    (403, {"error": "text"}, PermissionDenied),
    (401, {"error": {"type": None, "details": 7}}, AuthenticationFailed),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("status", "body", "expected"), ERRORS)
async def test_error_is_told_by_code_type_and_status(
    status: int, body: Any, expected: type[LLMError], stream: bool
) -> None:
    with pytest.raises(LLMError) as caught:
        await (streamed if stream else completed)(of_json(body, status))
    assert type(caught.value) is expected
    assert caught.value.status_code == status
    assert caught.value.provider == "anthropic"


@pytest.mark.parametrize("text", ["<html>bad gateway</html>", "", "\x00\xff"])
async def test_error_without_json_is_told_by_status(text: str) -> None:
    with pytest.raises(ProviderUnavailable):
        await completed(of_text(text, status=502))


async def test_error_keeps_numbers_and_ids_and_no_word_of_the_provider() -> None:
    async with answering(of_json(error("rate_limit_error"), 429, retry_after="12", request_id="req_3")) as server:
        client = server.client("anthropic", key=CANARY)
        with pytest.raises(RateLimited) as caught:
            await client.complete(HELLO)
    assert (caught.value.retry_after_s, caught.value.request_id) == (12.0, "req_3")
    assert caught.value.code == "rate_limit_error"
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(vars(caught.value))
    assert CANARY not in shown
    assert "SECRET" not in shown


# Lists of models


async def test_models_are_listed_page_by_page() -> None:
    first = {
        "data": [
            {"type": "model", "id": "claude-sonnet-5-5", "display_name": "Sonnet!", "max_input_tokens": 900_000},
            {"type": "model", "id": "claude-old", "display_name": "Old", "lifecycle": "retired"},
        ],
        "has_more": True,
        "last_id": "claude-old",
    }
    second = {"data": [{"type": "model", "id": "claude-opus-4-5-20251101"}, {"no": "id"}], "has_more": False}
    async with answering(of_json(first), of_json(second)) as server:
        models = await server.client("anthropic").list_models()
        asked = server.asked
    assert [(model.id, model.label, model.context_window) for model in models] == [
        ("claude-sonnet-5-5", "Sonnet!", 900_000),
        ("claude-opus-4-5-20251101", "Claude Opus 4.5", 200_000),
    ]
    assert all("vision" in model.capabilities for model in models)
    assert [entry.path for entry in asked] == ["/v1/models", "/v1/models"]
    assert asked[1].query["after_id"] == "claude-old"


@pytest.mark.parametrize("body", [[], {}, {"data": 7}])
async def test_malformed_list_of_models_is_a_bad_response(body: Any) -> None:
    async with answering(of_json(body)) as server:
        with pytest.raises(BadProviderResponse):
            await server.client("anthropic").list_models()


async def test_wrong_key_shows_in_the_list_of_models() -> None:
    async with answering(of_json(error("authentication_error"), 401)) as server:
        with pytest.raises(AuthenticationFailed):
            await server.client("anthropic").list_models()


# The SDK


async def test_environment_reaches_neither_address_nor_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    async with answering(of_json(message())) as decoy, answering(of_json(message())) as server:
        for name, value in {
            "ANTHROPIC_BASE_URL": decoy.url,
            "ANTHROPIC_API_KEY": "key-of-the-server",
            "ANTHROPIC_AUTH_TOKEN": "token-of-the-server",
            "ANTHROPIC_CUSTOM_HEADERS": "x-decoy: leaked\nauthorization: Bearer leaked",
            "ANTHROPIC_PROFILE": "decoy",
            "HTTP_PROXY": decoy.url,
            "ALL_PROXY": decoy.url,
        }.items():
            monkeypatch.setenv(name, value)
        client = server.client("anthropic", key="key-of-alice")
        await client.complete(HELLO)
        assert not decoy.asked
        headers = server.asked[-1].headers
    assert headers["authorization"] == "Bearer key-of-alice"
    assert "x-decoy" not in headers
    assert not any("server" in value or "leaked" in value for value in headers.values())


async def test_client_works_in_one_event_loop_after_another() -> None:
    async with answering(of_json(message())) as server:
        client = server.client("anthropic")
        await client.complete(HELLO)

        def elsewhere() -> str:
            async def call() -> str:
                from llm_credentials.providers import transport

                try:
                    return (await client.complete(HELLO)).text
                finally:
                    await transport.close_connections()

            return asyncio.run(call())

        assert await asyncio.to_thread(elsewhere) == "Hello."
        assert (await client.complete(HELLO)).text == "Hello."


def sdk_of(server: Answering) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(api_key="key-of-alice", base_url=server.url, max_retries=0)


async def test_closed_client_takes_no_other_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "key-of-the-server")
    async with answering(of_json(message())) as server:
        client = server.client("anthropic")
        await client.aclose()
        with pytest.raises(ProviderUnavailable):
            await client.complete(HELLO)
        assert not server.asked


async def test_our_reading_agrees_with_the_sdks() -> None:
    asked: Any = {"model": "claude-opus-4-5", "max_tokens": 50, "messages": [{"role": "user", "content": "Hello"}]}
    async with answering(of_events(*EVERYTHING, named=True, size=11)) as server, sdk_of(server) as sdk:
        async with sdk.messages.stream(**asked) as stream:
            theirs = await stream.get_final_message()
        ours = [chunk async for chunk in server.client("anthropic").stream(HELLO)][-1].response
    assert ours is not None
    thinking, text, first, second = theirs.content
    assert (thinking.type, text.type, first.type, second.type) == ("thinking", "text", "tool_use", "tool_use")
    assert (ours.reasoning, ours.text) == (thinking.thinking, text.text)
    assert [(call.id, call.name, call.arguments) for call in ours.tool_calls] == [
        (first.id, first.name, first.input),
        (second.id, second.name, second.input),
    ]
    assert ours.usage.output_tokens == theirs.usage.output_tokens
    assert ours.usage.input_tokens == theirs.usage.input_tokens + 5 + 2
