"""Anthropic: streamed answers, whole and broken."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llm_credentials.providers import (
    BadProviderResponse,
    ConnectionFailed,
    RateLimited,
    StreamInterrupted,
    Usage,
)
from llm_credentials.providers.tests.answering import (
    Answer,
    answering,
    of_events,
    of_json,
    of_text,
)
from llm_credentials.providers.tests.messages_wire import (
    EVERYTHING,
    HELLO,
    START,
    STOP,
    begin,
    completed,
    end,
    ending,
    message,
    piece,
    streamed,
)

TEXT = (START, begin(0, type="text", text=""), piece(0, "text_delta", text="Hel"), piece(0, "text_delta", text="lo."))


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
