"""Finds out with small requests what a key can do with its model, because model lists and catalogues are often wrong.

``yes``: it worked. ``no``: the provider or the model refused it. ``unknown``: inconclusive, such as after a rate limit.
"""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final

import orjson

from llm_credentials.providers import (
    ImagePart,
    LLMClient,
    LLMError,
    LLMMessage,
    LLMResponse,
    PermissionDenied,
    RequestRejected,
    TextPart,
    ToolDefinition,
)

PROBE_S: Final = 6.0
"""For all requests together; they run concurrently."""
ABILITIES: Final = ("auth", "list", "chat", "stream", "tools", "json", "vision", "embeddings")
ENOUGH_TOKENS: Final = 400
"""Reasoning models need some before they call a tool."""
YES, NO, UNKNOWN = "yes", "no", "unknown"

_TOOL = ToolDefinition(
    name="report_ready",
    description="Reports that everything is ready.",
    parameters={"type": "object", "properties": {}},
)
_SCHEMA: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {"ready": {"type": "boolean"}},
    "required": ["ready"],
    "additionalProperties": False,
}


async def probe(client: LLMClient, *, lists: bool) -> dict[str, Any]:
    """Probe a key whose model has just answered: ``{"model", "results": {ability: answer}, "dimension", …}``.

    ``lists``: whether the key could list the provider's models. Raises no provider errors.
    """
    tried: Mapping[str, Callable[[LLMClient], Awaitable[str]]] = {
        "stream": _streams,
        "tools": _calls_tools,
        "json": _keeps_a_schema,
        "vision": _sees,
    }
    (dimension, embeds), *answers = await asyncio.gather(
        _embeds(client), *(_within(trial(client)) for trial in tried.values())
    )
    results = {
        "auth": YES,
        "list": YES if lists else NO,
        "chat": YES,
        **dict(zip(tried, answers, strict=True)),
        "embeddings": embeds,
    }
    return {"model": client.model, "results": results, "dimension": dimension}


async def _within(trial: Awaitable[str]) -> str:
    try:
        async with asyncio.timeout(PROBE_S):
            return await trial
    except (RequestRejected, PermissionDenied):
        return NO
    except (LLMError, TimeoutError):
        return UNKNOWN


async def _streams(client: LLMClient) -> str:
    chunks = client.stream([LLMMessage.user("Reply with the word OK.")], max_tokens=16)
    answer = NO
    async with aclosing(chunks):
        # Read to the end: only a real stream sends the last chunk.
        async for chunk in chunks:
            answer = YES if chunk.type == "done" else answer
    return answer


async def _calls_tools(client: LLMClient) -> str:
    asked = [LLMMessage.user("Call report_ready.")]
    response = await client.complete(asked, tools=[_TOOL], max_tokens=ENOUGH_TOKENS)
    return YES if response.tool_calls else _unless_cut(response)


async def _keeps_a_schema(client: LLMClient) -> str:
    asked = [LLMMessage.user("Say in JSON that everything is ready.")]
    response = await client.complete(asked, response_schema=_SCHEMA, max_tokens=ENOUGH_TOKENS)
    try:
        found = orjson.loads(response.text)
    except orjson.JSONDecodeError:
        found = None
    is_as_asked = isinstance(found, dict) and isinstance(found.get("ready"), bool)
    return YES if is_as_asked else _unless_cut(response)


async def _sees(client: LLMClient) -> str:
    picture = ImagePart(data=_picture(), media_type="image/png")
    await client.complete([LLMMessage.user([TextPart(text="Which colour is this?"), picture])], max_tokens=16)
    return YES


async def _embeds(client: LLMClient) -> tuple[int | None, str]:
    """(vector dimension, whether the key supports embeddings)."""
    if "embeddings" not in client.spec.capabilities:
        return None, NO
    lengths: list[int] = []

    async def trial() -> str:
        found = await client.embed(["OK"])
        lengths.append(len(found.vectors[0]))
        return YES

    answer = await _within(trial())
    return (lengths[0] if lengths else None), answer


def _unless_cut(response: LLMResponse) -> str:
    return UNKNOWN if response.finish_reason == "length" else NO


def _picture(side: int = 64) -> bytes:
    """A red square as PNG; some models reject smaller ones."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + b"\xdc\x28\x28" * side) * side
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
