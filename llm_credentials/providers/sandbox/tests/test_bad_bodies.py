"""Requests with a part replaced by something senseless: each is answered or refused, none breaks the server."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_credentials.providers.sandbox.asks import Refused
from llm_credentials.providers.sandbox.mind import answer
from llm_credentials.providers.sandbox.operations import chat_embeddings, generate_embedding, generate_embeddings
from llm_credentials.providers.sandbox.server import WIRES
from llm_credentials.providers.sandbox.tests.conftest import KEY, Door
from llm_credentials.providers.sandbox.wires.base import Stamp

SCHEMA = {
    "type": "object",
    "properties": {
        "a": {"type": "string", "pattern": "^x+$", "minLength": 1, "format": "date"},
        "b": {"type": "array", "items": {"type": "integer", "minimum": 1, "multipleOf": 2}, "minItems": 2},
        "c": {"anyOf": [{"type": "null"}, {"enum": [1, 2]}], "allOf": [{"$ref": "#/$defs/d"}]},
    },
    "required": ["a"],
    "$defs": {"d": {"const": 1}},
}
USER = "call look"
ARGUMENTS: dict[str, Any] = {"name": "look", "arguments": "{}"}
SIGNATURE = "skip_thought_signature_validator"
BODIES: dict[str, Any] = {
    "chat": {
        "model": "sandbox-chat",
        "messages": [
            {"role": "system", "content": "Be kind."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": USER},
                    {"type": "image_url", "image_url": {"url": "https://x.org/a"}},
                ],
            },
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c1", "type": "function", "function": ARGUMENTS}],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "dust"},
        ],
        "tools": [{"type": "function", "function": {"name": "look", "description": "x", "parameters": SCHEMA}}],
        "tool_choice": {"type": "function", "function": {"name": "look"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
        "stop": ["x"],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 100,
        "temperature": 1,
    },
    "messages": {
        "model": "sandbox-chat",
        "max_tokens": 2000,
        "system": [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": USER},
                    {"type": "image", "source": {"type": "url", "url": "https://x.org/a"}},
                ],
            },
            {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "look", "input": {}}]},
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "dust"}]}
                ],
            },
        ],
        "tools": [{"name": "look", "description": "x", "input_schema": SCHEMA}],
        "tool_choice": {"type": "tool", "name": "look"},
        "thinking": {"type": "disabled"},
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
        "stop_sequences": ["x"],
    },
    "generate": {
        "systemInstruction": {"parts": [{"text": "Be kind."}]},
        "contents": [
            {
                "role": "user",
                "parts": [{"text": USER}, {"fileData": {"fileUri": "https://x.org/a", "mimeType": "image/png"}}],
            },
            {"role": "model", "parts": [{"functionCall": {"name": "look", "args": {}}, "thoughtSignature": SIGNATURE}]},
            {"role": "user", "parts": [{"functionResponse": {"name": "look", "response": {"result": "dust"}}}]},
        ],
        "tools": [{"functionDeclarations": [{"name": "look", "description": "x", "parameters": SCHEMA}]}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["look"]}},
        "generationConfig": {
            "responseMimeType": "application/json",
            "responseSchema": SCHEMA,
            "thinkingConfig": {"includeThoughts": True, "thinkingBudget": 5},
            "stopSequences": ["x"],
            "maxOutputTokens": 100,
        },
    },
}
JUNK = [None, True, 0, -1, 1.5, 2**63, 1e300, "", "x", [], {}, [[]], [None], {"x": 1}, ["x", 1], {"type": "x"}]


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where every part of a JSON value stands."""
    inner: list[tuple[Any, ...]] = []
    if isinstance(value, dict):
        inner = [found for key, one in value.items() for found in paths(one, (*path, key))]
    elif isinstance(value, list):
        inner = [found for key, one in enumerate(value) for found in paths(one, (*path, key))]
    return [path, *inner] if path else inner


def replaced(body: Any, path: tuple[Any, ...], junk: Any) -> Any:
    body = copy.deepcopy(body)
    node = body
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = junk
    return body


def exchange(wire_name: str, body: Any) -> None:
    """Read, answer and render, as the server does."""
    wire = WIRES[wire_name]
    try:
        ask = wire.read(body, "sandbox-chat" if wire_name == "generate" else "", True)
    except Refused:
        return
    reply = answer(ask, lambda: "call_1")
    json.dumps(wire.whole(ask, reply, Stamp(1, "run", 0)))
    assert wire.frames(ask, reply, Stamp(1, "run", 0)).tail


@pytest.mark.parametrize("wire", BODIES)
def test_bad_bodies_with_one_part_replaced(wire: str) -> None:
    for path in paths(BODIES[wire]):
        for junk in JUNK:
            exchange(wire, replaced(BODIES[wire], path, junk))


@pytest.mark.parametrize("wire", BODIES)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_bad_bodies_with_three_parts_replaced(wire: str, data: st.DataObject) -> None:
    body = BODIES[wire]
    for _ in range(3):
        body = replaced(body, data.draw(st.sampled_from(paths(body))), data.draw(st.sampled_from(JUNK)))
        if not paths(body):
            break
    exchange(wire, body)


@pytest.mark.parametrize("junk", JUNK, ids=repr)
def test_bad_bodies_of_embeddings(junk: Any) -> None:
    requests = [
        (chat_embeddings, {"input": junk}),
        (chat_embeddings, {"input": "x", "dimensions": junk}),
        (chat_embeddings, {"input": "x", "encoding_format": junk}),
        (generate_embedding, {"content": junk}),
        (generate_embedding, {"content": {"parts": [{"text": junk}]}, "outputDimensionality": junk}),
        (generate_embeddings, {"requests": junk}),
    ]
    for read, body in requests:
        try:
            read(body, "sandbox-embed")
        except Refused:
            continue


@pytest.mark.parametrize("wire", BODIES)
async def test_bad_bodies_with_half_a_character_are_refused(door: Door, wire: str) -> None:
    raw = json.dumps(BODIES[wire]).replace(USER, "\\ud800")
    paths_of = {
        "chat": "/v1/chat/completions",
        "messages": "/v1/messages",
        "generate": "/v1/models/sandbox-chat:generateContent",
    }
    headers = {"authorization": f"Bearer {KEY}", "x-goog-api-key": KEY} | (
        {"anthropic-version": "2023-06-01"} if wire == "messages" else {}
    )
    async with door.session.post(door.url + paths_of[wire], data=raw, headers=headers) as response:
        assert response.status == 400
