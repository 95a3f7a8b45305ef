"""What comes back on the generateContent wire: answers, streams, errors, lists."""

from __future__ import annotations

from typing import Any

import pytest

from llm_credentials.providers import (
    BadProviderResponse,
    ConnectionFailed,
    ContentFiltered,
    ProviderUnavailable,
    RateLimited,
    StreamInterrupted,
    Usage,
)
from llm_credentials.providers.tests.answering import Answer, answering, of_json, of_text
from llm_credentials.providers.tests.generate_wire import (
    EVERYTHING,
    HELLO,
    MODEL,
    completed,
    event,
    of_events,
    streamed,
)

# Whole answers


async def test_answer_is_read() -> None:
    response = await completed(of_json(event({"text": "Hel"}, {"text": "lo."}, finish="STOP")))
    assert (response.text, response.finish_reason, response.model) == ("Hello.", "stop", "gemini-3.8-flash-001")
    assert (response.provider, response.request_id) == ("gemini", "r-1")
    assert len(response.message.parts) == 1


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"),
        ("BLOCKLIST", "content_filter"),
        ("PROHIBITED_CONTENT", "content_filter"),
        ("SPII", "content_filter"),
        ("IMAGE_SAFETY", "content_filter"),
        ("MALFORMED_FUNCTION_CALL", "other"),
        ("LANGUAGE", "other"),
        ("SOMETHING_NEW", "other"),
    ],
)
async def test_finish_reason_becomes_our_word(reason: str, expected: str) -> None:
    assert (await completed(of_json(event({"text": "x"}, finish=reason)))).finish_reason == expected


async def test_filtered_answer_without_content_is_an_answer() -> None:
    body = {"candidates": [{"content": {}, "finishReason": "SAFETY"}], "usageMetadata": {"promptTokenCount": 14}}
    response = await completed(of_json(body))
    assert (response.text, response.finish_reason) == ("", "content_filter")


async def test_refused_prompt_is_content_filtered() -> None:
    body = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {"promptTokenCount": 14}}
    with pytest.raises(ContentFiltered) as caught:
        await completed(of_json(body))
    assert caught.value.code == "PROHIBITED_CONTENT"
    with pytest.raises(ContentFiltered):
        await streamed(of_events(body))


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (
            {"promptTokenCount": 10, "candidatesTokenCount": 4, "thoughtsTokenCount": 6, "cachedContentTokenCount": 8},
            Usage(input_tokens=10, output_tokens=10, cache_read_tokens=8, reasoning_tokens=6),
        ),
        ({"promptTokenCount": 10, "toolUsePromptTokenCount": 5}, Usage(input_tokens=15)),
        (
            {"promptTokenCount": 10, "thoughtsTokenCount": 6},
            Usage(input_tokens=10, output_tokens=6, reasoning_tokens=6),
        ),
        ({}, Usage()),
        ({"promptTokenCount": -1, "candidatesTokenCount": "4", "toolUsePromptTokenCount": 5}, Usage()),
    ],
)
async def test_usage_counts_thoughts_and_leaves_unknown_unknown(usage: Any, expected: Usage) -> None:
    assert (await completed(of_json(event({"text": "x"}, finish="STOP", usage=usage)))).usage == expected


async def test_calls_without_or_with_the_same_id_are_told_apart() -> None:
    parts = [
        {"functionCall": {"name": "a"}},
        {"functionCall": {"id": "same", "name": "b", "args": None}},
        {"functionCall": {"id": "same", "name": "c", "args": [1]}},
    ]
    response = await completed(of_json(event(*parts, finish="STOP")))
    assert response.finish_reason == "tool_calls"
    assert len({call.id for call in response.tool_calls}) == 3
    assert [call.invalid_arguments for call in response.tool_calls] == [None, None, "[1]"]


@pytest.mark.parametrize(
    "answer",
    [
        of_text("<html>Not here</html>"),
        of_text("", "application/json"),
        of_text("{", "application/json"),
        of_json([]),
        of_json("Hello."),
        of_json({}),
        of_json({"candidates": []}),
        of_json({"candidates": 7}),
        of_json({"candidates": ["x"]}),
        of_json({"candidates": [{"content": {"parts": 7}}]}),
        of_json({"candidates": [{"content": {"parts": ["x"]}}]}),
        of_json({"candidates": [{"content": {"parts": [{"functionCall": {}}]}}]}),
        of_json({"candidates": [{"content": {"parts": [{"functionCall": "x"}]}}]}),
        of_json({"candidates": [{}]}),
        of_json({"usageMetadata": {"promptTokenCount": 3}}),
        Answer([], 204),
        Answer([], 302, {"location": "https://example.com/"}),
    ],
)
async def test_answer_of_the_wrong_shape_is_a_bad_response(answer: Answer) -> None:
    with pytest.raises(BadProviderResponse):
        await completed(answer)


async def test_error_with_status_200_is_its_own_class() -> None:
    with pytest.raises(ProviderUnavailable):
        await completed(of_json({"error": {"code": 503, "status": "UNAVAILABLE", "message": "x"}}))


@pytest.mark.parametrize("body", [[], {}, {"embeddings": []}, {"embeddings": [{}]}, {"embeddings": [{"values": 7}]}])
async def test_malformed_embeddings_are_a_bad_response(body: Any) -> None:
    async with answering(of_json(body)) as server:
        with pytest.raises(BadProviderResponse):
            await server.client("gemini").embed(["x"])


# Streams


@pytest.mark.parametrize("size", [0, 1, 7])
async def test_stream_gives_everything_wherever_it_is_cut(size: int) -> None:
    chunks = await streamed(of_events(*EVERYTHING, size=size))
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
    assert [call.arguments for call in response.tool_calls] == [{"city": "Zürich"}, {}]
    assert response.tool_calls[0].id == "c1"
    assert (response.text, response.reasoning, response.finish_reason) == (
        "Grüße, 日本 🎉",
        "Let me see…",
        "tool_calls",
    )
    assert response.usage == Usage(input_tokens=13, output_tokens=27, cache_read_tokens=4, reasoning_tokens=7)
    assert len(response.message.parts) == 4


async def test_stream_and_whole_answer_say_the_same() -> None:
    parts = [part for value in EVERYTHING for part in value["candidates"][0]["content"]["parts"]]
    chunks = await streamed(of_events(*EVERYTHING))
    assert chunks[-1].response is not None
    assert chunks[-1].response.message == (await completed(of_json(event(*parts, finish="STOP")))).message


async def test_stream_asks_for_events() -> None:
    async with answering(of_events(*EVERYTHING)) as server:
        assert [chunk async for chunk in server.client("gemini", model=MODEL).stream(HELLO)]
        asked = server.asked[-1]
    assert asked.path == "/v1beta/models/gemini-3.8-flash:streamGenerateContent"
    assert asked.query == {"alt": "sse"}


@pytest.mark.parametrize("cut", [True, False])
async def test_stream_cut_before_content_is_a_failed_connection(cut: bool) -> None:
    with pytest.raises(ConnectionFailed):
        await streamed(of_events(event({"text": ""}), cut=cut))


@pytest.mark.parametrize("cut", [True, False])
async def test_stream_without_finish_reason_is_interrupted_and_keeps_the_partial_answer(cut: bool) -> None:
    with pytest.raises(StreamInterrupted) as caught:
        await streamed(of_events(event({"text": "Hel"}), event({"text": "lo."}), cut=cut))
    assert caught.value.partial is not None
    assert caught.value.partial.text == "Hello."
    assert caught.value.partial.usage.input_tokens == 10


async def test_error_event_before_and_after_content() -> None:
    error = {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "x"}}
    with pytest.raises(RateLimited):
        await streamed(of_events(error))
    with pytest.raises(StreamInterrupted) as caught:
        await streamed(of_events(event({"text": "Hello."}), error))
    assert (caught.value.code, caught.value.status_code) == ("RESOURCE_EXHAUSTED", 429)
    assert caught.value.partial is not None
    assert caught.value.partial.text == "Hello."


@pytest.mark.parametrize(
    "answer",
    [
        of_text("<html>Not here</html>"),
        of_text("", "text/event-stream"),
        of_text("data: {\n\n", "text/event-stream"),
        of_text("data: 7\n\n", "text/event-stream"),
        of_events({"candidates": 7}),
        of_events({"candidates": []}),
    ],
)
async def test_stream_of_the_wrong_shape_is_a_bad_response(answer: Answer) -> None:
    with pytest.raises(BadProviderResponse):
        await streamed(answer)


async def test_stream_may_come_as_a_list_of_its_pieces() -> None:
    chunks = await streamed(of_json(list(EVERYTHING)))
    assert chunks[-1].response is not None
    assert chunks[-1].response.text == "Grüße, 日本 🎉"
    assert [chunk.type for chunk in chunks] == ["reasoning"] * 2 + ["delta"] * 2 + ["tool_call"] * 2 + ["done"]


async def test_usage_may_come_alone_after_the_finish_reason() -> None:
    last = {"usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 99}}
    chunks = await streamed(of_events(event({"text": "Hello."}, finish="STOP"), last))
    assert chunks[-1].response is not None
    assert chunks[-1].response.usage.output_tokens == 99
