"""Answers and streams of the generateContent wire, for tests."""

from __future__ import annotations

import json
from typing import Any

from llm_credentials.providers import (
    LLMMessage,
    LLMStreamChunk,
)
from llm_credentials.providers.tests.answering import Answer, answering

HELLO = [LLMMessage.user("Hello")]
MODEL = "gemini-3.8-flash"


def event(*parts: dict[str, Any], finish: str | None = None, usage: dict[str, int] | None = None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": list(parts), "role": "model"}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    counted = {"promptTokenCount": 10, "totalTokenCount": 10} if usage is None else usage
    return {
        "candidates": [candidate],
        "usageMetadata": counted,
        "modelVersion": "gemini-3.8-flash-001",
        "responseId": "r-1",
    }


EVERYTHING = (
    event({"text": "Let me ", "thought": True}),
    event({"text": "see…", "thought": True}),
    event({"text": "Grüße, "}),
    event({"text": "日本 🎉"}),
    event(
        {"functionCall": {"id": "c1", "name": "get_weather", "args": {"city": "Zürich"}}, "thoughtSignature": "c2ln"}
    ),
    event({"functionCall": {"name": "get_time", "args": {}}}),
    event(
        {"text": ""},
        finish="STOP",
        usage={
            "promptTokenCount": 10,
            "toolUsePromptTokenCount": 3,
            "cachedContentTokenCount": 4,
            "candidatesTokenCount": 20,
            "thoughtsTokenCount": 7,
        },
    ),
)


def of_events(*events: Any, cut: bool = False, size: int = 0) -> Answer:
    """As this wire sends them: no names, CRLF."""
    data = "".join(f"data: {json.dumps(value, ensure_ascii=False)}\r\n\r\n" for value in events).encode()
    pieces = [data[start : start + size] for start in range(0, len(data), size)] if size else [data]
    return Answer(pieces, 200, {"content-type": "text/event-stream"}, cut)


async def completed(answer: Answer, **more: Any) -> Any:
    async with answering(answer) as server:
        return await server.client("gemini", model=MODEL).complete(HELLO, **more)


async def streamed(answer: Answer, **more: Any) -> list[LLMStreamChunk]:
    async with answering(answer) as server:
        return [chunk async for chunk in server.client("gemini", model=MODEL).stream(HELLO, **more)]


def error(code: int, status: str, *details: dict[str, Any], text: str = "About AIzaSECRET") -> dict[str, Any]:
    return {"error": {"code": code, "message": text, "status": status, "details": list(details)}}
