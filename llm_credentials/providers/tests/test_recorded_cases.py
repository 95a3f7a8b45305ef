"""What real providers really sent, replayed over a real socket.

``LLM_CASES_DIR`` names the folder of the cases; ``replay.py`` stands beside it. The expectations there were read from
the wire, without any SDK; usage is compared by the rules of ``Usage``, worked out here from what the provider sent.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_credentials.providers import (
    AuthenticationFailed,
    BadProviderResponse,
    EgressPolicy,
    LLMClient,
    LLMError,
    LLMMessage,
    LLMResponse,
    ModelNotFound,
    ProviderUnavailable,
    RateLimited,
    RequestRejected,
    StreamInterrupted,
    ToolDefinition,
    UnknownProvider,
    Usage,
    build_client,
    get_spec,
)

_FOLDER = os.environ.get("LLM_CASES_DIR", "")
_RENAMED = {"google": "gemini", "azure": "azure_openai"}
_ROOT_ADDRESSES = frozenset({"anthropic", "gemini", "azure_openai"})
_STATUS_ERRORS: dict[int, type[LLMError]] = {
    400: RequestRejected,
    401: AuthenticationFailed,
    404: ModelNotFound,
    429: RateLimited,
    529: ProviderUnavailable,
}
_FINISH_REASONS = {
    "stop": "stop",
    "STOP": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "max_tokens": "length",
    "MAX_TOKENS": "length",
    "tool_calls": "tool_calls",
    "tool_use": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "refusal": "content_filter",
    "SAFETY": "content_filter",
}


def _cases() -> list[Any]:
    if not _FOLDER:
        return [pytest.param(None, marks=pytest.mark.skip(reason="LLM_CASES_DIR is not set: no recorded traffic here"))]
    cases = [json.loads(path.read_text()) for path in sorted(Path(_FOLDER).glob("*.json"))]
    assert cases, f"{_FOLDER} holds no recorded traffic"
    return [pytest.param(case, id=case["id"]) for case in cases if case["api"] != "count_tokens"]


@pytest.fixture(scope="module")
def replay() -> Iterator[str]:
    """The replay server's address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = Path(_FOLDER).parent / "replay.py"
    command = [sys.executable, str(script), "--cases", _FOLDER, "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert "replay on" in process.stdout.readline()
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


def _slug(case: dict[str, Any]) -> str:
    slug = _RENAMED.get(case["provider"], case["provider"])
    try:
        get_spec(slug)
    except UnknownProvider:
        return "openai_compatible"
    return slug


def _client(case: dict[str, Any], host: str, modifiers: str = "") -> LLMClient:
    slug = _slug(case)
    address = f"http://{host}/{case['id']}{modifiers}" + ("" if slug in _ROOT_ADDRESSES else "/v1")
    return build_client(
        slug,
        api_key="test-key",
        model=case["model"] or "any-model",
        base_url=address,
        egress=EgressPolicy(allow=[host]),
    )


def _tools(case: dict[str, Any]) -> list[ToolDefinition]:
    return [
        ToolDefinition(name=call["name"], description="", parameters={"type": "object", "properties": {}})
        for call in {call["name"]: call for call in case["expect"].get("tool_calls") or ()}.values()
    ]


async def _answer(client: LLMClient, case: dict[str, Any]) -> LLMResponse:
    messages = [LLMMessage.user("Hello.")]
    if not case["stream"]:
        return await client.complete(messages, tools=_tools(case))
    chunks = [chunk async for chunk in client.stream(messages, tools=_tools(case))]
    done = chunks[-1].response
    assert done is not None
    assert "".join(chunk.text for chunk in chunks if chunk.type == "delta") == done.text
    assert "".join(chunk.text for chunk in chunks if chunk.type == "reasoning") == done.reasoning
    assert tuple(chunk.tool_call for chunk in chunks if chunk.type == "tool_call") == done.tool_calls
    return done


def _usage(case: dict[str, Any]) -> Usage:
    raw = (case["expect"].get("usage") or {}).get("raw") or {}
    if case["api"] == "messages":
        parts = [raw.get(n) for n in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")]
        thinking = (raw.get("output_tokens_details") or {}).get("thinking_tokens")
        return Usage(
            input_tokens=_sum(*parts),
            output_tokens=raw.get("output_tokens"),
            cache_read_tokens=parts[1],
            cache_write_tokens=parts[2],
            reasoning_tokens=thinking,
        )
    if case["api"] == "generateContent":
        prompt = _sum(raw.get("promptTokenCount"), raw.get("toolUsePromptTokenCount"))
        return Usage(
            input_tokens=prompt,
            output_tokens=_sum(raw.get("candidatesTokenCount"), raw.get("thoughtsTokenCount")),
            cache_read_tokens=raw.get("cachedContentTokenCount"),
            reasoning_tokens=raw.get("thoughtsTokenCount"),
        )
    prompt_details, output_details = (raw.get(f"{n}_tokens_details") or {} for n in ("prompt", "completion"))
    return Usage(
        input_tokens=raw.get("prompt_tokens"),
        output_tokens=raw.get("completion_tokens"),
        cache_read_tokens=prompt_details.get("cached_tokens", raw.get("cached_tokens")),
        cache_write_tokens=prompt_details.get("cache_write_tokens"),
        reasoning_tokens=output_details.get("reasoning_tokens"),
    )


def _sum(*values: int | None) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _finish(expect: dict[str, Any]) -> str:
    reason = _FINISH_REASONS.get(expect.get("finish_reason") or "", "other")
    return "tool_calls" if expect.get("tool_calls") and reason in ("stop", "other") else reason


async def _check_answer(client: LLMClient, case: dict[str, Any]) -> None:
    expect = case["expect"]
    response = await _answer(client, case)
    assert response.text == expect["text"]
    assert response.reasoning == (expect.get("reasoning") or "")
    assert [(call.name, call.arguments) for call in response.tool_calls] == [
        (call["name"], call["arguments"]) for call in expect.get("tool_calls") or ()
    ]
    for call, wanted in zip(response.tool_calls, expect.get("tool_calls") or (), strict=True):
        assert call.id == wanted["id"] if wanted.get("id") else call.id
    assert response.finish_reason == _finish(expect)
    assert response.usage == _usage(case)


@pytest.mark.parametrize("case", _cases())
async def test_recorded_case_means_what_it_meant(case: dict[str, Any], replay: str) -> None:
    client, expect = _client(case, replay), case["expect"]
    if status := (expect.get("error") or {}).get("status"):
        with pytest.raises(_STATUS_ERRORS[status]) as caught:
            await (client.embed(["Hello."]) if case["api"] == "embeddings" else _answer(client, case))
        assert caught.value.status_code == status
        assert str(caught.value) == type(caught.value).user_message
    elif expect.get("stream_error"):
        with pytest.raises(StreamInterrupted) as interrupted:
            await _answer(client, case)
        assert interrupted.value.partial is not None
        assert interrupted.value.partial.text == expect["text"]
    elif case["api"] == "models":
        assert [model.id for model in await client.list_models()] == expect["ids"]
    elif case["api"] == "embeddings":
        embeddings = await client.embed(["Hello."] * expect["count"])
        assert [len(vector) for vector in embeddings.vectors] == expect["dims"]
        for vector, head in zip(embeddings.vectors, expect["head"], strict=True):
            assert vector[: len(head)] == pytest.approx(head, abs=1e-6)
        assert embeddings.usage.input_tokens == (expect.get("usage") or {}).get("input")
    else:
        await _check_answer(client, case)


def _ends_late(case: dict[str, Any]) -> bool:
    """Whether the proper end of a stream lies in its second half."""
    body = case["response"]["body"].encode()
    return not re.search(rb'"(finish_reason|finishReason)": ?"', body[: int(len(body) * 0.5)])


@pytest.mark.parametrize(
    "case",
    [each for each in _cases() if each.values[0] is None or (each.values[0]["stream"] and _ends_late(each.values[0]))],
)
async def test_recorded_stream_cut_in_the_middle_is_an_error(case: dict[str, Any], replay: str) -> None:
    client = _client(case, replay, "~cut=0.5")
    given = 0
    with pytest.raises(LLMError) as caught:
        async for chunk in client.stream([LLMMessage.user("Hello.")]):
            given += 1
            assert chunk.type != "done"
    if given:
        assert isinstance(caught.value, StreamInterrupted)
    elif isinstance(caught.value, StreamInterrupted):
        assert case["expect"]["tool_calls"], "a tool call that has begun is content too"
    else:
        assert isinstance(caught.value, ProviderUnavailable | BadProviderResponse)
