"""Our reading of recorded answers beside that of the official SDKs, which read the same bytes."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import anthropic
import pytest
from google import genai

from llm_credentials.providers import LLMMessage, LLMResponse
from llm_credentials.providers.tests.answering import Answer, Answering, answering

_FOLDER = os.environ.get("LLM_CASES_DIR", "")


def _cases(api: str) -> list[Any]:
    if not _FOLDER:
        return [pytest.param(None, marks=pytest.mark.skip(reason="LLM_CASES_DIR is not set: no recorded traffic here"))]
    cases = [json.loads(path.read_text()) for path in sorted(Path(_FOLDER).glob("*.json"))]
    wanted = [case for case in cases if case["api"] == api and case["response"]["status"] == 200]
    assert wanted
    return [pytest.param(case, id=case["id"]) for case in wanted]


def _answer(case: dict[str, Any]) -> Answer:
    kind = "text/event-stream" if case["stream"] else "application/json"
    return Answer([case["response"]["body"].encode()], 200, {"content-type": kind})


async def _ours(server: Answering, provider: str, case: dict[str, Any]) -> LLMResponse:
    client = server.client(provider, model=case["model"])
    messages = [LLMMessage.user("Hello")]
    if not case["stream"]:
        return await client.complete(messages)
    last = [chunk async for chunk in client.stream(messages)][-1].response
    assert last is not None
    return last


@pytest.mark.parametrize("case", _cases("messages"))
async def test_messages_are_read_as_the_sdk_reads_them(case: dict[str, Any]) -> None:
    asked: Any = {"model": case["model"], "max_tokens": 64, "messages": [{"role": "user", "content": "Hello"}]}
    async with answering(_answer(case)) as server:
        ours = await _ours(server, "anthropic", case)
        async with anthropic.AsyncAnthropic(api_key="k", base_url=server.url, max_retries=0) as sdk:
            with warnings.catch_warnings(action="ignore"):
                if case["stream"]:
                    async with sdk.messages.stream(**asked) as stream:
                        theirs = await stream.get_final_message()
                else:
                    theirs = await sdk.messages.create(**asked)
    assert ours.text == "".join(block.text for block in theirs.content if block.type == "text")
    assert ours.reasoning == "".join(block.thinking for block in theirs.content if block.type == "thinking")
    assert [(call.id, call.name, call.arguments) for call in ours.tool_calls] == [
        (block.id, block.name, block.input) for block in theirs.content if block.type == "tool_use"
    ]
    assert len(ours.message.parts) == len(theirs.content)
    counted = theirs.usage
    cached = (counted.cache_read_input_tokens or 0) + (counted.cache_creation_input_tokens or 0)
    assert ours.usage.input_tokens == counted.input_tokens + cached
    assert ours.usage.output_tokens == counted.output_tokens
    assert (ours.model, ours.details["anthropic"]["stop_reason"]) == (theirs.model, theirs.stop_reason)


@pytest.mark.parametrize("case", _cases("generateContent"))
async def test_contents_are_read_as_the_sdk_reads_them(case: dict[str, Any]) -> None:
    asked: Any = {"model": case["model"], "contents": "Hello"}
    async with answering(_answer(case)) as server:
        ours = await _ours(server, "gemini", case)
        options = genai.types.HttpOptions(base_url=server.url, api_version="v1beta")
        sdk = genai.Client(api_key="k", http_options=options)
        with warnings.catch_warnings(action="ignore"):
            if case["stream"]:
                pieces = [piece async for piece in await sdk.aio.models.generate_content_stream(**asked)]
            else:
                pieces = [await sdk.aio.models.generate_content(**asked)]
        await sdk.aio.aclose()
    candidates = [candidate for piece in pieces for candidate in piece.candidates or []]
    parts = [part for candidate in candidates for part in (candidate.content and candidate.content.parts) or []]
    assert ours.text == "".join(part.text for part in parts if part.text and not part.thought)
    assert ours.reasoning == "".join(part.text for part in parts if part.text and part.thought)
    assert [(call.name, call.arguments) for call in ours.tool_calls] == [
        (part.function_call.name, part.function_call.args or {}) for part in parts if part.function_call
    ]
    counted = pieces[-1].usage_metadata
    assert ours.usage.input_tokens == counted.prompt_token_count + (counted.tool_use_prompt_token_count or 0)
    assert (ours.usage.output_tokens or 0) == (counted.candidates_token_count or 0) + (
        counted.thoughts_token_count or 0
    )
    assert ours.model == pieces[-1].model_version
    assert ours.details["gemini"]["finishReason"] == candidates[-1].finish_reason.value
