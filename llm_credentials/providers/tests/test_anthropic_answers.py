"""What comes back on the messages wire: answers, streams, errors, lists."""

from __future__ import annotations

from typing import Any

import pytest

from llm_credentials.providers import (
    BadProviderResponse,
    ProviderUnavailable,
    UnsupportedContent,
    Usage,
)
from llm_credentials.providers.tests.answering import (
    Answer,
    answering,
    of_json,
    of_text,
)
from llm_credentials.providers.tests.messages_wire import (
    completed,
    message,
)

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
