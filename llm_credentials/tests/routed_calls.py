"""Calls through a chain of two keys at the sandbox."""

from __future__ import annotations

import hashlib
from typing import Any

import aiohttp

from llm_credentials.factory import RoutedClient, RoutedResponse
from llm_credentials.providers import (
    LLMMessage,
)
from llm_credentials.routing.receipt import Receipt

ASK = [LLMMessage.user("What is 17 * 23?")]
ANSWER = "391"
FIRST, SECOND = "sbx-good-first-000001", "sbx-good-second-00002"


async def requests_of(sandbox_url: str, key: str = FIRST) -> list[dict[str, Any]]:
    fingerprint = hashlib.sha256(key.encode()).hexdigest()[:12]
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{sandbox_url}/_sandbox/requests?key={fingerprint}") as answer,
    ):
        found: list[dict[str, Any]] = (await answer.json())["items"]
        return found


async def completed(client: RoutedClient, **extra: Any) -> RoutedResponse:
    return await client.complete(ASK, **extra)


def outcomes(receipt: Receipt) -> list[str]:
    return [attempt.outcome for attempt in receipt.attempts]
