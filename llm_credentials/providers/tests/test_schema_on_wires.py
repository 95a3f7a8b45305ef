"""Schemas that no wire takes as they are, sent to every provider."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import jsonschema_rs
import orjson
import pytest

from llm_credentials.providers import (
    EgressPolicy,
    LLMClient,
    LLMMessage,
    LLMResponse,
    ToolDefinition,
    build_client,
    specs,
    transport,
)
from llm_credentials.providers.messages import Call
from llm_credentials.providers.sandbox.running import running_sandbox
from llm_credentials.providers.sandbox.server import SandboxOptions
from llm_credentials.providers.tests.answering import answering, of_events, of_json

ROOTS = ("anthropic", "gemini", "azure_openai")
PROVIDERS = sorted({spec.slug for spec in specs()} - {"sandbox"})
IN_WORDS = "deepseek"
"""Has a JSON mode only: the schema goes in words, which the sandbox does not read."""
PLACE = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": "https://example.com/place",
    "type": "object",
    "properties": {
        "name": {"$ref": "#/$defs/Name"},
        "kind": {"const": "city"},
        "size": {"type": ["integer", "null"], "exclusiveMinimum": 0},
        "tags": {"type": "array", "items": {"oneOf": [{"type": "string"}, {"type": "boolean"}]}, "uniqueItems": True},
        "mayor": {"allOf": [{"$ref": "#/$defs/Person"}], "description": "Who governs it"},
    },
    "required": ["name", "kind"],
    "additionalProperties": False,
    "$defs": {
        "Name": {"type": "string", "minLength": 1, "pattern": "^[^0-9]"},
        "Person": {
            "type": "object",
            "properties": {"name": {"$ref": "#/$defs/Name"}, "born": {"type": "string", "format": "date"}},
            "required": ["name"],
            "additionalProperties": False,
        },
    },
}
LOOSE = {
    **PLACE,
    "properties": {
        **PLACE["properties"],
        "labels": {"type": "object", "additionalProperties": {"type": "string"}, "propertyNames": {"pattern": "^x"}},
        "points": {"type": "array"},
        "pair": {"type": "array", "prefixItems": [{"type": "number"}, {"type": "string"}]},
        "any": True,
    },
    "anyOf": [{"required": ["labels"]}, {"required": ["name"]}],
    "patternProperties": {"^x-": {}},
    "dependentRequired": {"size": ["mayor"]},
    "if": {"properties": {"kind": {"const": "city"}}},
    "then": {"required": ["name"]},
}
TOOL = ToolDefinition(name="save_place", description="Saves a place", parameters=LOOSE)


@pytest.fixture
async def sandbox() -> AsyncIterator[str]:
    async with running_sandbox(options=SandboxOptions(delay_ms=0)) as url:
        yield url
        await transport.close_connections()


def client_of(provider: str, address: str, model: str = "sandbox-instant") -> LLMClient:
    policy = EgressPolicy(allow=[address.removeprefix("http://")])
    address += "" if provider in ROOTS else "/v1"
    return build_client(provider, api_key="sbx-good-0123456789", model=model, base_url=address, egress=policy)


async def answer(client: LLMClient, said: str, *, stream: bool, **more: Any) -> LLMResponse:
    if not stream:
        return await client.complete([LLMMessage.user(said)], **more)
    last = [chunk async for chunk in client.stream([LLMMessage.user(said)], **more)][-1].response
    assert last is not None
    return last


def refused_names(value: Any) -> set[str]:
    """The keywords in a request that some wire refuses; no property of the schemas above is called so."""
    names: set[str] = set()
    if isinstance(value, dict):
        names = set(value) & {"$schema", "$id", "$ref", "allOf", "oneOf", "const", "not", "if", "then", "propertyNames"}
        names |= set(value) & {"patternProperties", "dependentRequired", "$defs"}
        names |= {"type list"} if isinstance(value.get("type"), list) else set()
        names |= {"items"} if value.get("type") == "array" and "items" not in value else set()
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        names |= refused_names(one)
    return names


@pytest.mark.parametrize("schema", [PLACE, LOOSE], ids=["closed", "loose"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_request_has_only_what_the_wire_takes(provider: str, schema: dict[str, Any]) -> None:
    client = client_of(provider, "http://127.0.0.1:9", model="")
    model = client.spec.default_model or "a-model"
    call = Call(model=model, messages=(LLMMessage.user("Hello"),), tools=(TOOL,))
    asked = Call(model=model, messages=call.messages, response_schema=schema)
    for one in (call, asked):
        _, body = client.encode(one, stream=False)
        assert refused_names(body) == set()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("provider", sorted({*PROVIDERS} - {IN_WORDS}))
async def test_answer_fits_the_callers_own_schema(provider: str, stream: bool, sandbox: str) -> None:
    response = await answer(client_of(provider, sandbox), "About Zürich", stream=stream, response_schema=PLACE)
    assert jsonschema_rs.validator_for(PLACE).is_valid(orjson.loads(response.text)), response.text
    assert response.finish_reason == "stop"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_arguments_fit_the_callers_own_schema(provider: str, stream: bool, sandbox: str) -> None:
    client = client_of(provider, sandbox)
    response = await answer(client, "call save_place", stream=stream, tools=[TOOL])
    (call,) = response.tool_calls
    # What some wires cannot say is the order inside a pair.
    pair = {"type": "array"}
    assert jsonschema_rs.validator_for({**LOOSE, "properties": {**LOOSE["properties"], "pair": pair}}).is_valid(
        call.arguments
    )


@pytest.mark.parametrize("stream", [False, True])
async def test_nulls_of_strict_mode_are_taken_back(stream: bool) -> None:
    text = '{"name":"Zürich","kind":"city","size":null,"tags":null,"mayor":{"name":"Ada","born":null}}'
    head = {"id": "x", "model": "gpt-6-luna"}
    choice = {"index": 0, "finish_reason": "stop", ("delta" if stream else "message"): {"content": text}}
    given = {**head, "choices": [choice]}
    async with answering(of_events(given) if stream else of_json(given)) as server:
        client = server.client("openai", model="gpt-6-luna")
        response = await answer(client, "About Zürich", stream=stream, response_schema=PLACE)
        sent = server.asked[-1].json["response_format"]["json_schema"]
    assert sent["strict"] is True
    assert sent["schema"]["required"] == list(PLACE["properties"])
    assert orjson.loads(response.text) == {"name": "Zürich", "kind": "city", "size": None, "mayor": {"name": "Ada"}}


@pytest.mark.parametrize(
    ("model", "strict"), [("openai/gpt-oss-120b", True), ("moonshotai/kimi-k3", False), ("qwen/qwen3.8-27b", None)]
)
def test_strict_mode_is_asked_of_models_that_have_it(model: str, strict: bool | None) -> None:
    call = Call(model=model, messages=(LLMMessage.user("Hello"),), response_schema=PLACE)
    _, body = client_of("groq", "http://127.0.0.1:9").encode(call, stream=False)
    assert body["response_format"].get("json_schema", {}).get("strict") is strict


def test_fine_tune_is_asked_for_less_than_its_base() -> None:
    def pattern_of(model: str) -> bool:
        call = Call(model=model, messages=(LLMMessage.user("Hello"),), response_schema=PLACE)
        _, body = client_of("openai", "http://127.0.0.1:9").encode(call, stream=False)
        return "pattern" in body["response_format"]["json_schema"]["schema"]["properties"]["name"]

    assert pattern_of("gpt-6-luna")
    assert not pattern_of("ft:gpt-6-luna:acme::1")
