"""What gateways and providers beside the great ones put on the wires, read for what it means."""

from __future__ import annotations

from typing import Any

import pytest

from llm_credentials.providers import (
    ContentFiltered,
    LLMError,
    LLMMessage,
    LLMResponse,
    ModelNotFound,
    PermissionDenied,
    ProviderUnavailable,
    QuotaExhausted,
    Usage,
)
from llm_credentials.providers.passing import passed_answer, passed_stream
from llm_credentials.providers.tests.answering import Answer, answering, of_events, of_json
from llm_credentials.providers.usage import count

HELLO = [LLMMessage.user("Hello")]
DONE = b"data: [DONE]\n\n"
PATCH: Any = {"id": "call_1", "type": "custom", "custom": {"name": "patch", "input": "*** Begin"}}


def _whole(finish: str = "stop", usage: object = None, **message: Any) -> Answer:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    return of_json({"id": "chatcmpl-1", "model": "m", "choices": [choice], "usage": usage})


async def _complete(answer: Answer, provider: str = "openai_compatible") -> LLMResponse:
    async with answering(answer) as server:
        return await server.client(provider).complete(HELLO)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("COMPLETE", "stop"),
        ("eos_token", "stop"),
        ("sensitive", "content_filter"),
        ("content_filter: PROHIBITED_CONTENT", "content_filter"),
        ("repetition_truncation", "other"),
    ],
)
async def test_chat_finish_reasons_that_others_have_are_understood(said: str, meant: str) -> None:
    assert (await _complete(_whole(said, content="Hi"))).finish_reason == meant


async def test_chat_answer_that_broke_off_by_its_own_word_is_no_answer() -> None:
    with pytest.raises(ProviderUnavailable):
        await _complete(_whole("network_error", content="Hi"))


@pytest.mark.parametrize(
    "usage", [{"prompt_tokens": 3.0, "completion_tokens": 4.0}, {"input_tokens": 3, "output_tokens": 4}]
)
async def test_chat_counts_under_other_names_and_as_decimals_are_read(usage: dict[str, Any]) -> None:
    assert (await _complete(_whole(content="Hi", usage=usage))).usage == Usage(input_tokens=3, output_tokens=4)


@pytest.mark.parametrize("value", [1.5, -1.0, float("nan"), float("inf"), 2.0**60, True, "7"])
def test_count_takes_no_number_that_is_not_whole_and_exact(value: object) -> None:
    assert count(value) is None


async def test_chat_content_may_be_a_list_of_texts() -> None:
    assert (await _complete(_whole(content=["Hi ", {"type": "text", "text": "there"}]))).text == "Hi there"


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (404, {"error": "model «x» not found, try pulling it first"}, ModelNotFound),
        (429, {"error": {"code": "1113", "message": "Insufficient balance"}}, QuotaExhausted),
        (403, {"error": {"code": 403, "metadata": {"reasons": ["violence"], "flagged_input": "…"}}}, ContentFiltered),
        (403, {"error": {"code": 403, "metadata": None}}, PermissionDenied),
    ],
)
async def test_chat_errors_of_gateways_are_told_apart(status: int, body: object, kind: type[LLMError]) -> None:
    with pytest.raises(LLMError) as caught:
        await _complete(of_json(body, status))
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("You have reached your specified API usage limits. You will regain access on 2026-12-01.", QuotaExhausted),
        ("Output blocked by content filtering policy", ContentFiltered),
    ],
)
async def test_messages_refusals_with_one_type_are_told_apart(message: str, kind: type[LLMError]) -> None:
    body = {"type": "error", "error": {"type": "invalid_request_error", "message": message}}
    with pytest.raises(LLMError) as caught:
        await _complete(of_json(body, 400), "anthropic")
    assert type(caught.value) is kind


async def test_a_tool_that_takes_plain_text_is_called() -> None:
    response = await _complete(_whole("tool_calls", content=None, tool_calls=[PATCH]))
    (call,) = response.tool_calls
    assert (call.id, call.name, call.arguments, call.invalid_arguments) == ("call_1", "patch", {}, "*** Begin")


async def test_a_call_of_a_tool_that_takes_plain_text_passes() -> None:
    body = {"messages": [{"role": "user", "content": "Hello"}]}
    pieces = [{**PATCH, "custom": {"name": "patch", "input": ""}}, {"custom": {"input": "*** Begin"}}]
    events = [
        {"id": "c", "choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, **each}]}}]} for each in pieces
    ]
    finish = {"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}
    streamed = of_events(*events, finish)
    streamed.pieces = [*streamed.pieces, DONE]
    async with answering(_whole("tool_calls", content=None, tool_calls=[PATCH]), streamed) as server:
        client, sending = server.client("openai"), {"path": "/chat/completions", "model": "a-model"}
        assert b"*** Begin" in (await passed_answer(client, body, **sending)).data
        passed = [piece async for piece in passed_stream(client, body, **sending)]
    assert b"*** Begin" in b"".join(piece.data for piece in passed)
    assert passed[-1].response is not None


def _message(*blocks: Any) -> list[dict[str, Any]]:
    begin = {"id": "msg_1", "model": "m", "usage": {"input_tokens": 3, "output_tokens": 1}}
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 4}}
    return [{"type": "message_start", "message": begin}, *blocks, end, {"type": "message_stop"}]


async def test_messages_block_that_comes_at_once_is_streamed_and_not_lost() -> None:
    blocks: list[dict[str, Any]] = []
    for index, block in enumerate(({"type": "thinking", "thinking": "Hm"}, {"type": "text", "text": "Hi"})):
        blocks += [{"type": "content_block_start", "index": index, "content_block": block}]
        blocks += [{"type": "content_block_stop", "index": index}]
    async with answering(of_events(*_message(*blocks), named=True)) as server:
        chunks = [chunk async for chunk in server.client("anthropic").stream(HELLO)]
    assert [(chunk.type, chunk.text) for chunk in chunks[:-1]] == [("reasoning", "Hm"), ("delta", "Hi")]
    done = chunks[-1].response
    assert done is not None and (done.reasoning, done.text) == ("Hm", "Hi")


async def test_messages_stream_may_end_as_other_wires_do() -> None:
    start = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    said = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}}
    answer = of_events(*_message(start, said, {"type": "content_block_stop", "index": 0}), named=True)
    answer.pieces = [b"".join(answer.pieces) + DONE]
    async with answering(answer) as server:
        chunks = [chunk async for chunk in server.client("anthropic").stream(HELLO)]
    assert chunks[-1].response is not None and chunks[-1].response.text == "Hi"
