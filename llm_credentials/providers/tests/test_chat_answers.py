"""What comes back on the chat-completions wire, whole and streamed."""

from __future__ import annotations

from typing import Any

import pytest

from llm_credentials.providers import (
    BadProviderResponse,
    ConnectionFailed,
    LLMError,
    ProviderUnavailable,
    RateLimited,
    RequestRejected,
    StreamInterrupted,
    ToolDefinition,
    Usage,
)
from llm_credentials.providers.tests.answering import Answer, answering, of_events, of_json, of_text
from llm_credentials.providers.tests.chat_wire import (
    DONE,
    HEAD,
    HELLO,
    call_piece,
    chunk,
    complete,
    stream,
    streamed,
    whole,
)


async def test_whole_answer_is_read() -> None:
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 5},
    }
    response = await complete(whole(content="Hi", usage=usage))
    assert (response.text, response.finish_reason, response.model, response.request_id) == (
        "Hi",
        "stop",
        "m-2024",
        "req_1",
    )
    assert response.usage == Usage(
        input_tokens=10, output_tokens=7, cache_read_tokens=4, cache_write_tokens=2, reasoning_tokens=5
    )


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (None, Usage()),
        ({}, Usage()),
        ([], Usage()),
        ({"prompt_tokens": -1, "completion_tokens": "7"}, Usage()),
        ({"prompt_tokens": True, "completion_tokens": 1.5}, Usage()),
        ({"prompt_tokens": 0, "completion_tokens": 0}, Usage(input_tokens=0, output_tokens=0)),
        (
            {"prompt_tokens": 9, "completion_tokens": 1, "prompt_cache_hit_tokens": 8},
            Usage(input_tokens=9, output_tokens=1, cache_read_tokens=8),
        ),
        (
            {"prompt_tokens": 9, "completion_tokens": 1, "cached_tokens": 3},
            Usage(input_tokens=9, output_tokens=1, cache_read_tokens=3),
        ),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 1,
                "total_tokens": 60,
                "completion_tokens_details": {"reasoning_tokens": 50},
            },
            Usage(input_tokens=9, output_tokens=51, reasoning_tokens=50),
        ),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 51,
                "total_tokens": 60,
                "completion_tokens_details": {"reasoning_tokens": 50},
            },
            Usage(input_tokens=9, output_tokens=51, reasoning_tokens=50),
        ),
        ({"prompt_tokens": 1, "prompt_tokens_details": None, "completion_tokens_details": 3}, Usage(input_tokens=1)),
    ],
)
async def test_usage_is_known_or_unknown_and_never_made_up(raw: Any, expected: Usage) -> None:
    assert (await complete(whole(content="Hi", usage=raw))).usage == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("model_length", "length"),
        ("tool_calls", "tool_calls"),
        ("function_call", "tool_calls"),
        ("content_filter", "content_filter"),
        ("brand_new_reason", "other"),
        (None, "other"),
        (7, "other"),
    ],
)
async def test_finish_reason_is_one_of_five(raw: Any, expected: str) -> None:
    assert (await complete(whole(raw, content="Hi"))).finish_reason == expected
    if isinstance(raw, str):
        _, response = await stream(streamed(chunk(content="Hi"), chunk(raw)))
        assert response.finish_reason == expected


async def test_calls_that_end_with_stop_still_ask_for_tools() -> None:
    calls = [call_piece(id="a", name="look", arguments="{}")]
    assert (await complete(whole("stop", content=None, tool_calls=calls))).finish_reason == "tool_calls"
    assert (await complete(whole("length", content=None, tool_calls=calls))).finish_reason == "length"


async def test_refusal_is_a_filtered_answer() -> None:
    response = await complete(whole(content=None, refusal="I cannot help with that."))
    assert (response.text, response.finish_reason) == ("I cannot help with that.", "content_filter")
    chunks, response = await stream(streamed(chunk(refusal="I can"), chunk(refusal="not."), chunk("stop")))
    assert [each.text for each in chunks] == ["I can", "not."]
    assert (response.text, response.finish_reason) == ("I cannot.", "content_filter")


@pytest.mark.parametrize("reason", ["error", "insufficient_system_resource"])
async def test_provider_that_gives_up_in_the_middle_is_unavailable(reason: str) -> None:
    with pytest.raises(ProviderUnavailable):
        await complete(whole(reason, content="Hi"))
    with pytest.raises(StreamInterrupted):
        await stream(streamed(chunk(content="Hi"), chunk(reason)))


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
async def test_reasoning_is_told_from_text(field: str) -> None:
    response = await complete(whole(content="So.", **{field: "Hmm."}), "deepseek")
    assert (response.reasoning, response.text) == ("Hmm.", "So.")
    (reasoning, _) = response.message.parts
    assert reasoning.details["deepseek"]["field"] == field  # type: ignore[union-attr]
    events = [chunk(**{field: "H"}), chunk(**{field: "mm."}), chunk(content="So."), chunk("stop")]
    chunks, again = await stream(streamed(*events), "deepseek")
    assert [each.type for each in chunks] == ["reasoning", "reasoning", "delta"]
    assert again.message == response.message


async def test_text_sent_in_both_fields_of_reasoning_counts_once() -> None:
    response = await complete(whole(content="So.", reasoning="Hmm.", reasoning_content="Hmm."))
    assert response.reasoning == "Hmm."


async def test_reasoning_details_go_back_as_they_came() -> None:
    pieces = [
        chunk(reasoning_details=[{"type": "reasoning.text", "index": 0, "text": "a"}], reasoning="a"),
        chunk(reasoning_details=[{"type": "reasoning.text", "index": 0, "text": "b", "signature": "s"}], reasoning="b"),
        chunk(reasoning_details=[{"type": "reasoning.encrypted", "index": 1, "data": "xyz"}]),
        chunk(tool_calls=[call_piece(index=0, id="c1", name="look", arguments="{}")]),
        chunk("tool_calls"),
    ]
    _, response = await stream(streamed(*pieces))
    async with answering(whole(content="ok")) as server:
        for model in ("a-model", "another-model"):
            await server.client("openai_compatible").complete([*HELLO, response.message], model=model)
        turn, elsewhere = (asked.json["messages"][1] for asked in server.asked)
    assert not {"reasoning", "reasoning_details"} & elsewhere.keys()
    assert turn["reasoning"] == "ab"
    assert turn["reasoning_details"] == [
        {"type": "reasoning.text", "index": 0, "text": "ab", "signature": "s"},
        {"type": "reasoning.encrypted", "index": 1, "data": "xyz"},
    ]


async def test_more_than_one_choice_gives_the_first() -> None:
    choices = [
        {"index": 1, "message": {"content": "second"}, "finish_reason": "stop"},
        {"index": 0, "message": {"content": "first"}, "finish_reason": "stop"},
    ]
    assert (await complete(of_json({"choices": choices}))).text == "first"
    second = {**HEAD, "choices": [{"index": 1, "delta": {"content": "2"}, "finish_reason": "length"}]}
    _, response = await stream(streamed(chunk(content="1"), second, chunk("stop")))
    assert (response.text, response.finish_reason) == ("1", "stop")


# Ends

BAD = [
    of_json([]),
    of_json("hello"),
    of_json(None),
    of_json({}),
    of_json({"choices": None}),
    of_json({"choices": []}),
    of_json({"choices": "x"}),
    of_json({"choices": [None]}),
    of_json({"choices": [{}]}),
    of_json({"choices": [{"message": None}]}),
    of_json({"choices": [{"message": {"content": 7}}]}),
    of_json({"choices": [{"message": {"content": "x", "tool_calls": "y"}}]}),
    of_json({"choices": [{"message": {"content": "x", "tool_calls": [7]}}]}),
    of_text("<html>Sign in</html>"),
    of_text(""),
    of_text("OK", "text/plain"),
]


@pytest.mark.parametrize("answer", BAD, ids=range(len(BAD)))
@pytest.mark.parametrize("streaming", [False, True])
async def test_answer_of_the_wrong_shape_is_a_bad_response(answer: Answer, streaming: bool) -> None:
    with pytest.raises(BadProviderResponse) as caught:
        await (stream(answer) if streaming else complete(answer))
    assert caught.value.provider == "openai_compatible"


async def test_tool_call_without_a_name_is_a_bad_response() -> None:
    with pytest.raises(BadProviderResponse):
        await complete(whole("tool_calls", content=None, tool_calls=[{"id": "a"}]))


async def test_whole_answer_to_a_stream_is_taken() -> None:
    chunks, response = await stream(whole(content="Hi", usage={"prompt_tokens": 1}))
    assert [each.text for each in chunks] == ["Hi"]
    assert (response.text, response.finish_reason, response.usage.input_tokens) == ("Hi", "stop", 1)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (of_events(chunk(role="assistant", content="")), ConnectionFailed),
        (of_events(), BadProviderResponse),
        (streamed(), BadProviderResponse),
        (streamed({**HEAD, "choices": []}), BadProviderResponse),
        (Answer([b"data: {\n\n"], 200, {}), BadProviderResponse),
        (of_events({"error": {"message": "slow down", "code": "rate_limit_exceeded"}}), RateLimited),
        (of_events({"error": {"message": "x", "code": 429}}), RateLimited),
        (of_events({"error": {"message": "x", "type": "invalid_request_error", "status_code": 400}}), RequestRejected),
        (of_json({"error": {"message": "x", "code": "rate_limit_exceeded"}}), RateLimited),
        (of_json({"error": {"message": "x", "code": "503"}}), ProviderUnavailable),
        (of_json({"error": "something went wrong"}), BadProviderResponse),
    ],
)
async def test_stream_that_fails_before_content(answer: Answer, kind: type[LLMError]) -> None:
    with pytest.raises(kind) as caught:
        await stream(answer)
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    "rest",
    [
        [],
        [b"data: {\n\n"],
        [b"data: <html>\n\n"],
        [b"data: 7\n\n"],
        [b'data: {"choices": [{"delta": 7}]}\n\n'],
        [b'data: {"choices": 7}\n\n'],
        [b'event: error\ndata: {"message": "x"}\n\n'],
        [b'data: {"error": {"message": "x", "code": 500}}\n\n', DONE],
        [b'data: {"choices": [{"index": 0, "delta": {"cont'],
    ],
)
async def test_stream_that_fails_after_content_carries_what_came(rest: list[bytes]) -> None:
    answer = of_events(chunk(content="Half an "), chunk(content="answer"))
    answer.pieces = [*answer.pieces, *rest]
    async with answering(answer) as server:
        given = []
        with pytest.raises(StreamInterrupted) as caught:
            async for each in server.client("openai_compatible").stream(HELLO):
                given.append(each.text)
    assert given == ["Half an ", "answer"]
    assert caught.value.partial is not None
    assert caught.value.partial.text == "Half an answer"
    assert caught.value.partial.model == "m-2024"


async def test_cut_in_a_tool_call_gives_no_half_call() -> None:
    piece = chunk(tool_calls=[call_piece(index=0, id="a", name="look", arguments='{"at')])
    with pytest.raises(StreamInterrupted) as caught:
        await stream(of_events(piece, cut=True))
    assert caught.value.partial is not None
    assert caught.value.partial.tool_calls == ()


async def test_either_end_is_a_proper_end() -> None:
    _, by_reason = await stream(streamed(chunk(content="Hi"), chunk("stop"), done=False))
    _, by_mark = await stream(streamed(chunk(content="Hi")))
    assert (by_reason.finish_reason, by_mark.finish_reason) == ("stop", "other")
    assert by_reason.text == by_mark.text == "Hi"


async def test_usage_is_taken_wherever_it_comes() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    last = {**HEAD, "choices": [], "usage": usage}
    for events in (
        [chunk(content="Hi"), chunk("stop"), last],
        [chunk(content="Hi"), {**chunk("stop"), "usage": usage}],
        [chunk(content="Hi"), {**chunk("stop"), "x_groq": {"id": "req_7", "usage": usage}}],
        [{**chunk(content="Hi"), "usage": None}, {**chunk("stop"), "usage": None}, last],
        [{**chunk(content="Hi"), "usage": {"prompt_tokens": 3, "completion_tokens": 1}}, chunk("stop"), last],
    ):
        _, response = await stream(streamed(*events))
        assert response.usage == Usage(input_tokens=3, output_tokens=2)


async def test_connection_kept_open_behind_the_last_event_does_not_hold_the_answer() -> None:
    answer = streamed(chunk(content="Hi"), chunk("stop"))
    answer.open_s = 30
    _, response = await stream(answer, timeout_s=20)
    assert response.text == "Hi"


# Structured answers through a tool


async def test_answer_through_a_tool_becomes_text(monkeypatch: pytest.MonkeyPatch) -> None:
    from llm_credentials.providers.adapters._chat import client as module
    from llm_credentials.providers.adapters._chat.dialect import Dialect

    monkeypatch.setattr(module, "dialect_of", lambda spec: Dialect(schema="tool"))
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    calls = [call_piece(index=0, id="a", name="final_answer", arguments='{"n": 4}')]
    tools = [ToolDefinition(name="final_answer", description="", parameters={})]
    async with answering(whole("tool_calls", content=None, tool_calls=calls)) as server:
        response = await server.client("openai_compatible").complete(HELLO, response_schema=schema)
        assert server.asked[0].json["tool_choice"] == {"type": "function", "function": {"name": "final_answer"}}
        await server.client("openai_compatible").complete(HELLO, response_schema=schema, tools=tools)
        assert server.asked[1].json["tool_choice"] == "required"
        assert [tool["function"]["name"] for tool in server.asked[1].json["tools"]] == [
            "final_answer",
            "final_answer_2",
        ]
    assert (response.text, response.tool_calls, response.finish_reason) == ('{"n":4}', (), "stop")
    events = [chunk(tool_calls=calls), chunk("tool_calls")]
    chunks, again = await stream(streamed(*events), response_schema=schema)
    assert [each.text for each in chunks] == ['{"n":4}']
    assert again.text == response.text
