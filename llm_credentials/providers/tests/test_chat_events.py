"""Events of chat completions that come together are read as one, and say what they say one by one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llm_credentials.providers import LLMMessage, LLMStreamChunk, build_client
from llm_credentials.providers.calls import make_call
from llm_credentials.providers.decoding import decoded
from llm_credentials.providers.errors import BadProviderResponse
from llm_credentials.providers.sse import Event

UNSAID: Any = dict.fromkeys(
    ("tools", "tool_choice", "response_schema", "model", "max_tokens", "temperature", "top_p", "stop", "seed")
)
WORDS = ("plain", "", "ünï — 漢", '"}', "\\", "a\nb", " ", "}]", '"content":"x"')


def _event(delta: object, index: int = 0, finish: str | None = None, **more: Any) -> bytes:
    choices = [{"index": index, "delta": delta, "finish_reason": finish}]
    return json.dumps({"id": "c", "model": "m", "choices": choices, **more}).encode()


def _read(events: list[bytes], *, joined: bool) -> tuple[list[LLMStreamChunk], Any, Exception | None]:
    client = build_client("openai_compatible", api_key="k", model="m", base_url="https://api.example/v1")
    decoder = client.decoder(make_call(client, [LLMMessage.user("hi")], **UNSAID), {})
    batch: list[Event] = [("", data) for data in events]
    chunks, fault = decoded(decoder, batch, joined=joined)
    return chunks, decoder.response(), fault


TEXTS = [_event({"role": "assistant", "content": ""}), *(_event({"content": word}) for word in WORDS * 3)]
END = [_event({}, finish="stop"), b"[DONE]"]
BETWEEN = [
    [_event({"content": [{"type": "text", "text": "a list"}]})],
    [_event({"content": None}), _event({"content": "x", "reasoning_content": "thought"})],
    [_event({"content": "other choice"}, index=1)],
    [_event({"content": "long id"}, obfuscation="aZ")],
    [_event({"tool_calls": [{"index": 0, "id": "t", "function": {"name": "f", "arguments": "{}"}}]})],
    [TEXTS[1].replace(b'"plain"', b'"\\ud83d"')],
    [TEXTS[1].replace(b'"plain"', b'"said", "content": "twice"')],
]


@pytest.mark.parametrize("between", BETWEEN)
def test_events_that_come_together_say_what_they_say_one_by_one(between: list[bytes]) -> None:
    events = [*TEXTS, *between, *TEXTS[1:], *END]
    chunks, response, fault = _read(events, joined=True)
    apart, reference, _ = _read(events, joined=False)
    alone = [_read([TEXTS[0], data], joined=False)[1].text for data in events]
    assert fault is None
    assert response.message == reference.message
    assert response.text == "".join(alone)
    assert "".join(each.text for each in chunks) == "".join(each.text for each in apart)
    assert len(chunks) < len(apart)


@pytest.mark.parametrize("broken", [b'"pla', b"7"])
def test_event_that_is_broken_ends_what_came_together(broken: bytes) -> None:
    events = [*TEXTS, TEXTS[1].replace(b'"plain"', broken), *TEXTS[1:]]
    chunks, response, fault = _read(events, joined=True)
    assert isinstance(fault, BadProviderResponse)
    assert response.text == "".join(WORDS * 3) == "".join(each.text for each in chunks)
