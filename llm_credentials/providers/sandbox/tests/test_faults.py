"""Every fault, on every wire format where it makes sense, as it arrives over a real socket."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from llm_credentials.providers.sandbox import faults
from llm_credentials.providers.sandbox.delivery import REDIRECTED_PATH
from llm_credentials.providers.sandbox.tests.asking import END, WIRES, data_of, read
from llm_credentials.providers.sandbox.tests.conftest import KEY, Door

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: dict[str, Any] = {
    "chat": [{"type": "function", "function": {"name": name, "parameters": CITY}} for name in ("look", "listen")],
    "messages": [{"name": name, "input_schema": CITY} for name in ("look", "listen")],
    "generate": [{"functionDeclarations": [{"name": name, "parameters": CITY} for name in ("look", "listen")]}],
}


def test_faults_are_all_in_the_documentation() -> None:
    text = (Path(__file__).parents[4] / "docs" / "sandbox.md").read_text()
    documented = set(re.findall(r"`([a-z0-9-]+)`", text.partition("## Faults")[2]))
    assert documented >= faults.ALL


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("stream", [False, True])
async def test_fault_status_comes_in_the_shape_of_the_format(door: Door, wire: str, stream: bool) -> None:
    for status in faults.STATUSES:
        response, raw = await read(door, wire, status, stream=stream)
        body = json.loads(raw)
        assert response.status == int(status)
        assert response.headers["content-type"].startswith("application/json")
        assert body["error"]["message"]
        if wire == "messages":
            assert body["type"] == "error" and body["request_id"] == response.headers["request-id"]
        if wire == "generate":
            assert body["error"]["code"] == int(status) and body["error"]["status"].isupper()


@pytest.mark.parametrize(
    ("wire", "status", "where", "value"),
    [
        ("chat", 429, ("error", "code"), "insufficient_quota"),
        ("messages", 400, ("error", "message"), "Your credit balance is too low"),
        ("generate", 429, ("error", "status"), "RESOURCE_EXHAUSTED"),
    ],
)
async def test_fault_quota_is_told_as_each_format_tells_it(
    door: Door, wire: str, status: int, where: tuple[str, str], value: str
) -> None:
    response, raw = await read(door, wire, "quota")
    assert response.status == status
    assert json.loads(raw)[where[0]][where[1]].startswith(value)


@pytest.mark.parametrize(
    ("wire", "field", "value"),
    [
        ("chat", "code", "context_length_exceeded"),
        ("messages", "message", "prompt is too long"),
        ("generate", "message", "The input token count"),
    ],
)
async def test_fault_context_is_told_as_each_format_tells_it(door: Door, wire: str, field: str, value: str) -> None:
    response, raw = await read(door, wire, "context")
    assert response.status == 400
    assert json.loads(raw)["error"][field].startswith(value)


async def test_fault_refused_prompt_is_an_error_or_an_answer(door: Door) -> None:
    response, raw = await read(door, "chat", "prompt-refused")
    assert (response.status, json.loads(raw)["error"]["code"]) == (400, "content_filter")
    response, raw = await read(door, "messages", "prompt-refused")
    assert response.status == 400
    response, raw = await read(door, "generate", "prompt-refused")
    assert (response.status, json.loads(raw)["promptFeedback"]["blockReason"]) == (200, "SAFETY")
    _, raw = await read(door, "generate", "prompt-refused", stream=True)
    (event,) = data_of(raw)
    assert event["promptFeedback"] and "candidates" not in event


@pytest.mark.parametrize("wire", WIRES)
async def test_fault_429_says_when_to_come_back(door: Door, wire: str) -> None:
    response, _ = await read(door, wire, "429,retry-after=7")
    assert response.headers["retry-after"] == "7"
    expected = {"429-negative": "-5", "429-text": "soon", "429-huge": "1000000000"}
    for fault, value in expected.items():
        response, _ = await read(door, wire, fault)
        assert (response.status, response.headers["retry-after"]) == (429, value)
    response, _ = await read(door, wire, "429-ms")
    assert response.headers["retry-after-ms"] == "1500"
    now = datetime.now(UTC)
    for fault, later in (("429-date", True), ("429-past", False)):
        response, _ = await read(door, wire, fault)
        assert (parsedate_to_datetime(response.headers["retry-after"]) > now) is later
    response, _ = await read(door, wire, "429-bare")
    assert "retry-after" not in response.headers


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("stream", [False, True])
async def test_fault_error_200_is_an_error_with_status_200(door: Door, wire: str, stream: bool) -> None:
    response, raw = await read(door, wire, "error-200", stream=stream)
    assert response.status == 200
    (body,) = data_of(raw) if stream else [json.loads(raw)]
    assert body["error"]["message"]


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("stream", [False, True])
async def test_fault_replaces_the_answer(door: Door, wire: str, stream: bool) -> None:
    response, raw = await read(door, wire, "empty", stream=stream)
    assert (response.status, raw) == (200, b"")
    response, raw = await read(door, wire, "204", stream=stream)
    assert (response.status, raw) == (204, b"")
    response, raw = await read(door, wire, "html", stream=stream)
    assert response.headers["content-type"].startswith("text/html") and raw.startswith(b"<!doctype")
    response, raw = await read(door, wire, "html-stream", stream=stream)
    assert raw.startswith(b"<!doctype") and ("event-stream" in response.headers["content-type"]) is stream
    response, raw = await read(door, wire, "wrong-type", stream=stream)
    assert raw.startswith((b"data", b"event") if stream else b"{")
    assert response.headers["content-type"].startswith("application/json" if stream else "text/plain")


@pytest.mark.parametrize("status", sorted(faults.REDIRECTS))
async def test_fault_redirect_points_to_a_place_that_is_counted(door: Door, status: str) -> None:
    response, _ = await read(door, "chat", status)
    assert (response.status, response.headers["location"]) == (int(status), REDIRECTED_PATH)
    async with door.session.get(door.url + REDIRECTED_PATH, headers={"authorization": f"Bearer {KEY}"}):
        pass
    assert [entry["path"] for entry in await door.entries()][-1] == REDIRECTED_PATH


@pytest.mark.parametrize("wire", WIRES)
async def test_fault_bad_json_cannot_be_parsed(door: Door, wire: str) -> None:
    for fault in ("badjson", "badjson-chunk"):
        _, raw = await read(door, wire, fault)
        with pytest.raises(json.JSONDecodeError):
            json.loads(raw)
        _, raw = await read(door, wire, fault, stream=True)
        with pytest.raises(json.JSONDecodeError):
            data_of(raw)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(("fault", "nothing"), [("choices-empty", []), ("choices-null", None)])
async def test_fault_choices_are_empty(door: Door, wire: str, fault: str, nothing: Any) -> None:
    key = {"chat": "choices", "messages": "content", "generate": "candidates"}[wire]
    _, raw = await read(door, wire, fault)
    assert json.loads(raw)[key] == nothing
    _, raw = await read(door, wire, fault, stream=True)
    if wire != "messages":
        assert all(event.get(key) == nothing for event in data_of(raw))
    else:
        assert all(not event["delta"] for event in data_of(raw) if event["type"] == "content_block_delta")


@pytest.mark.parametrize(
    ("wire", "reason"), [("chat", "finish_reason"), ("messages", "stop_reason"), ("generate", "finishReason")]
)
@pytest.mark.parametrize("stream", [False, True])
async def test_fault_finish_reasons(door: Door, wire: str, reason: str, stream: bool) -> None:
    told = {
        "unknown-finish": {"sandbox_unknown", "SANDBOX_UNKNOWN"},
        "filter": {"content_filter", "refusal", "SAFETY"},
        "refusal": {"stop", "refusal", "PROHIBITED_CONTENT"},
    }
    for fault, values in told.items():
        _, raw = await read(door, wire, fault, stream=stream)
        found = re.findall(rf'"{reason}":\s?"(\w+)"', raw.decode())
        assert len(found) == 1 and found[0] in values


async def test_fault_refusal_has_its_own_field_in_chat(chat: openai.AsyncOpenAI) -> None:
    answer = await chat.chat.completions.create(
        model="sandbox-chat~fault=refusal", messages=[{"role": "user", "content": "Hi"}]
    )
    assert answer.choices[0].message.refusal and answer.choices[0].message.content is None


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("stream", [False, True])
async def test_fault_error_event_comes_after_five_chunks(door: Door, wire: str, stream: bool) -> None:
    _, raw = await read(door, wire, "error-event", stream=stream, text="count to 50")
    events = data_of(raw) if stream else [json.loads(raw)]
    assert "error" in events[-1]
    assert END[wire] not in raw.decode()
    if stream:
        assert len(events) >= 5


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("stream", [False, True])
async def test_fault_usage_is_missing_negative_twice_or_no_number(door: Door, wire: str, stream: bool) -> None:
    _, raw = await read(door, wire, "usage-missing", stream=stream)
    assert b"okens" not in raw and b"TokenCount" not in raw
    _, raw = await read(door, wire, "usage-negative", stream=stream)
    numbers = [int(number) for number in re.findall(rb'oken(?:s|Count)":\s?(-?\d+)', raw)]
    assert numbers and all(number < 0 for number in numbers)
    _, once = await read(door, wire, "wrong-type", stream=stream)
    _, twice = await read(door, wire, "usage-twice", stream=stream)
    names = rb'"usage":|"usageMetadata":'
    assert len(re.findall(names, twice)) == len(re.findall(names, once)) + 1
    _, raw = await read(door, wire, "usage-nan", stream=stream)
    assert b"NaN" in raw


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("stream", [False, True])
async def test_fault_bom_and_line_ends_are_odd_but_readable(door: Door, wire: str, stream: bool) -> None:
    _, raw = await read(door, wire, "bom", stream=stream)
    assert raw.startswith(b"\xef\xbb\xbf")
    _, raw = await read(door, wire, "crlf", stream=stream)
    assert b"\r\n" in raw
    assert data_of(raw) if stream else json.loads(raw)


def calls_in(wire: str, raw: bytes) -> list[Any]:
    """The tool calls of an answer that is not streamed."""
    body = json.loads(raw)
    if wire == "chat":
        return [call | call["function"] for call in body["choices"][0]["message"]["tool_calls"]]
    if wire == "messages":
        return [block for block in body["content"] if block["type"] == "tool_use"]
    return [part["functionCall"] for part in body["candidates"][0]["content"]["parts"]]


@pytest.mark.parametrize("wire", WIRES)
async def test_fault_tool_arguments_are_bad_or_huge(door: Door, wire: str) -> None:
    _, raw = await read(door, wire, "toolargs-bad", tools=TOOLS[wire])
    (call,) = calls_in(wire, raw)
    assert '{"city": "Par' in call.values()
    _, raw = await read(door, wire, "toolargs-huge,mb=2", tools=TOOLS[wire])
    assert len(raw) > 2_000_000
    _, raw = await read(door, wire, "toolargs-huge,mb=2", stream=True, tools=TOOLS[wire])
    assert len(raw) > 2_000_000


@pytest.mark.parametrize("wire", WIRES)
async def test_fault_tool_ids_are_missing_or_the_same_and_names_unknown(door: Door, wire: str) -> None:
    _, raw = await read(door, wire, "tool-noid", tools=TOOLS[wire])
    assert "id" not in calls_in(wire, raw)[0]
    _, raw = await read(door, wire, "tool-noid", stream=True, tools=TOOLS[wire])
    assert b"call_sbx" not in raw
    _, raw = await read(door, wire, "tool-sameid", tools=TOOLS[wire])
    ids = [call["id"] for call in calls_in(wire, raw)]
    assert len(ids) == 2 and len(set(ids)) == 1
    _, raw = await read(door, wire, "tool-unknown", tools=TOOLS[wire])
    assert calls_in(wire, raw)[0]["name"] == "no_such_tool"


def deltas(raw: bytes) -> list[dict[str, Any]]:
    """The tool call deltas of a chat stream."""
    choices = [event["choices"][0] for event in data_of(raw) if event["choices"]]
    return [call for choice in choices for call in choice["delta"].get("tool_calls", [])]


async def test_fault_tool_indexes_are_missing_or_all_zero(door: Door) -> None:
    _, raw = await read(door, "chat", "tool-noindex", stream=True, tools=TOOLS["chat"])
    assert len([call for call in deltas(raw) if "id" in call]) == 2
    assert not any("index" in call for call in deltas(raw))
    _, raw = await read(door, "chat", "tool-index0", stream=True, tools=TOOLS["chat"])
    assert {call["index"] for call in deltas(raw)} == {0}
    assert len({call["id"] for call in deltas(raw) if "id" in call}) == 2


async def test_fault_tool_deltas_are_interleaved(door: Door) -> None:
    _, raw = await read(door, "chat", "tool-interleaved", stream=True, tools=TOOLS["chat"])
    assert [call["index"] for call in deltas(raw)][:4] == [0, 1, 0, 1]
    _, raw = await read(door, "messages", "tool-interleaved", stream=True, tools=TOOLS["messages"])
    places = [event["index"] for event in data_of(raw) if "index" in event]
    assert places[:5] == [0, 0, 1, 0, 1]


@pytest.mark.parametrize("wire", ["chat", "messages"])
async def test_fault_tool_arguments_come_in_single_characters(door: Door, wire: str) -> None:
    _, raw = await read(door, wire, "toolargs-split", stream=True, tools=TOOLS[wire])
    pieces = re.findall(r'"(?:arguments|partial_json)":"((?:\\.|[^"\\])*)"', raw.decode())
    texts = [json.loads(f'"{piece}"') for piece in pieces if piece]
    assert {len(text) for text in texts} == {1}
    assert json.loads("".join(texts)).keys() == {"city"}


async def test_fault_holds_for_the_first_requests_only(door: Door) -> None:
    model = "sandbox-chat~fault=500@2~fault=429@1,retry-after=3"
    statuses = []
    for _ in range(5):
        async with door.post("chat", model) as response:
            statuses.append(response.status)
    assert statuses == [500, 500, 429, 200, 200]
    async with door.post("chat", model, key="sbx-good-other") as response:
        assert response.status == 500


async def test_fault_counts_begin_again_after_a_reset(door: Door) -> None:
    for _ in range(2):
        async with door.post("chat", "sandbox-chat~fault=500@1") as response:
            assert response.status == 500
        async with door.session.delete(f"{door.url}/_sandbox/requests") as response:
            assert response.status == 204


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("sign", ["=", ":"])
async def test_fault_can_be_named_in_the_key(door: Door, wire: str, sign: str) -> None:
    async with door.post(wire, "sandbox-chat", key=f"sbx-good-demo~fault{sign}503@1") as response:
        assert response.status == 503
    async with door.post(wire, "sandbox-chat", key=f"sbx-good-demo~fault{sign}503@1") as response:
        assert response.status == 200


async def test_fault_in_the_key_strikes_model_lists_and_embeddings(chat: openai.AsyncOpenAI) -> None:
    broken = chat.with_options(api_key="sbx-good-demo~fault=500")
    with pytest.raises(openai.InternalServerError):
        await broken.models.list()
    with pytest.raises(openai.InternalServerError):
        await broken.embeddings.create(model="sandbox-embed", input="cat")


@pytest.mark.parametrize(
    "model", ["sandbox-chat~fault=no-such-fault", "sandbox-chat~fault", "sandbox-chat~", "sandbox-chat~x=1"]
)
async def test_fault_that_is_none_changes_nothing(door: Door, model: str) -> None:
    async with door.post("chat", model) as response:
        assert response.status == 200


async def test_fault_errors_reach_the_sdks_as_their_own_classes(
    chat: openai.AsyncOpenAI, messages: anthropic.AsyncAnthropic
) -> None:
    ask: Any = [{"role": "user", "content": "Hi"}]
    with pytest.raises(openai.RateLimitError):
        await chat.chat.completions.create(model="sandbox-chat~fault=429", messages=ask)
    with pytest.raises(openai.PermissionDeniedError):
        await chat.chat.completions.create(model="sandbox-chat~fault=403", messages=ask)
    with pytest.raises(anthropic.APIStatusError) as caught:
        await messages.messages.create(model="sandbox-chat~fault=529", max_tokens=9, messages=ask)
    assert caught.value.type == "overloaded_error"


async def test_fault_error_event_reaches_the_sdks_in_the_stream(
    chat: openai.AsyncOpenAI, messages: anthropic.AsyncAnthropic
) -> None:
    ask: Any = [{"role": "user", "content": "count to 50"}]
    with pytest.raises(openai.APIError):
        async for _ in await chat.chat.completions.create(
            model="sandbox-chat~fault=error-event", messages=ask, stream=True
        ):
            pass
    with pytest.raises(anthropic.APIError):
        async for _ in await messages.messages.create(
            model="sandbox-chat~fault=error-event", max_tokens=99, messages=ask, stream=True
        ):
            pass
