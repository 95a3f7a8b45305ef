"""Chat completions: calls of tools, however they come."""

from __future__ import annotations

import pytest

from llm_credentials.providers.tests.chat_wire import (
    call_piece,
    chunk,
    complete,
    stream,
    streamed,
    whole,
)

# Tool calls in pieces

WAYS = {
    "by index": [
        [call_piece(index=0, id="a", name="look", arguments="")],
        [call_piece(index=0, arguments='{"at"')],
        [call_piece(index=0, arguments=': "sky"}')],
        [call_piece(index=1, id="b", name="hear", arguments="{}")],
    ],
    "interleaved": [
        [
            call_piece(index=0, id="a", name="look", arguments=""),
            call_piece(index=1, id="b", name="hear", arguments=""),
        ],
        [call_piece(index=1, arguments="{")],
        [call_piece(index=0, arguments='{"at": "s')],
        [call_piece(index=1, arguments="}")],
        [call_piece(index=0, arguments='ky"}')],
    ],
    "whole, without index": [
        [call_piece(id="a", name="look", arguments='{"at": "sky"}')],
        [call_piece(id="b", name="hear", arguments="{}")],
    ],
    "pieces without index": [
        [call_piece(id="a", name="look", arguments='{"at"')],
        [call_piece(arguments=': "sky"}')],
        [call_piece(id="b", name="hear", arguments="{}")],
    ],
    "index always 0": [
        [call_piece(index=0, id="a", name="look", arguments="")],
        [call_piece(index=0, arguments='{"at": "sky"}')],
        [call_piece(index=0, id="b", name="hear", arguments="")],
        [call_piece(index=0, arguments="{}")],
    ],
    "id repeated in every piece": [
        [call_piece(index=0, id="a", name="look", arguments='{"at"')],
        [call_piece(index=0, id="a", name="look", arguments=': "sky"}')],
        [call_piece(index=1, id="b", name="hear", arguments="{}")],
    ],
    "empty id in later pieces": [
        [call_piece(index=0, id="a", name="look", arguments="")],
        [call_piece(index=0, id="", name="", arguments='{"at": "sky"}')],
        [call_piece(index=1, id="b", name="hear", arguments="{}")],
    ],
    "arguments as an object": [
        [call_piece(index=0, id="a", name="look", arguments={"at": "sky"})],
        [call_piece(index=1, id="b", name="hear", arguments={})],
    ],
    "no arguments at all": [
        [call_piece(index=0, id="a", name="look", arguments='{"at": "sky"}')],
        [call_piece(index=1, id="b", name="hear")],
    ],
    "both in one chunk, without id": [
        [
            call_piece(index=0, name="look", arguments='{"at": "sky"}'),
            call_piece(index=1, name="hear", arguments="{}"),
        ]
    ],
    "without id or index": [
        [call_piece(name="look", arguments='{"at": "sky"}')],
        [call_piece(name="hear", arguments="{}")],
    ],
    "without id, index always 0": [
        [call_piece(index=0, name="look", arguments='{"at": "sky"}')],
        [call_piece(index=0, name="hear", arguments="{}")],
    ],
    "the same id twice": [
        [call_piece(index=0, id="a", name="look", arguments='{"at": "sky"}')],
        [call_piece(index=1, id="a", name="hear", arguments="{}")],
    ],
    "the same id twice at index 0": [
        [call_piece(index=0, id="a", name="look", arguments='{"at": "sky"}')],
        [call_piece(index=0, id="a", name="hear", arguments="{}")],
    ],
}


@pytest.mark.parametrize("way", WAYS)
async def test_tool_calls_are_put_together_however_they_come(way: str) -> None:
    events = [chunk(tool_calls=pieces) for pieces in WAYS[way]]
    chunks, response = await stream(streamed(*events, chunk("tool_calls")))
    assert [(call.name, call.arguments) for call in response.tool_calls] == [("look", {"at": "sky"}), ("hear", {})]
    assert [each.tool_call for each in chunks] == list(response.tool_calls)
    ids = [call.id for call in response.tool_calls]
    assert all(ids)
    assert len(set(ids)) == 2
    given = [piece["id"] for pieces in WAYS[way] for piece in pieces if piece.get("id")]
    assert not given or ids[0] == "a"
    assert "b" not in given or ids[1] == "b"


async def test_same_tool_twice_without_ids_is_two_calls() -> None:
    events = [chunk(tool_calls=[call_piece(index=0, name="look", arguments='{"at": 1}')])] * 2
    _, response = await stream(streamed(*events, chunk("tool_calls")))
    assert len(response.tool_calls) == 2


async def test_arguments_in_a_thousand_pieces() -> None:
    text = '{"text": "' + "x" * 990 + '"}'
    pieces = [chunk(tool_calls=[call_piece(index=0, arguments=letter)]) for letter in text]
    first = chunk(tool_calls=[call_piece(index=0, id="a", name="look", arguments="")])
    _, response = await stream(streamed(first, *pieces, chunk("tool_calls"), size=17))
    assert response.tool_calls[0].arguments == {"text": "x" * 990}


@pytest.mark.parametrize("text", ['{"a": ', "[1]", '"x"', "nonsense", '{"a": 1}{"a": 2}'])
async def test_arguments_that_are_no_object_are_kept_as_text(text: str) -> None:
    answer = whole("tool_calls", content=None, tool_calls=[call_piece(id="a", name="look", arguments=text)])
    (call,) = (await complete(answer)).tool_calls
    assert (call.arguments, call.invalid_arguments) == ({}, text)


async def test_old_function_call_is_a_tool_call() -> None:
    function = {"name": "look", "arguments": '{"at": "sky"}'}
    response = await complete(whole("function_call", content=None, function_call=function))
    (call,) = response.tool_calls
    assert (call.name, call.arguments, response.finish_reason) == ("look", {"at": "sky"}, "tool_calls")
    events = [
        chunk(function_call={"name": "look", "arguments": '{"at"'}),
        chunk(function_call={"arguments": ': "sky"}'}),
    ]
    _, again = await stream(streamed(*events, chunk("function_call")))
    assert again.tool_calls[0].arguments == {"at": "sky"}
