"""A sandbox of its own for each test, and the three official SDKs pointed at it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import anthropic
import openai
import pytest
from google import genai
from google.genai import types

from llm_credentials.providers.sandbox.running import running_sandbox
from llm_credentials.providers.sandbox.server import SandboxOptions

KEY = "sbx-good-0123456789"


class Door:
    """Raw HTTP to a sandbox."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.session = session

    async def entries(self, **wanted: str) -> list[dict[str, Any]]:
        async with self.session.get(f"{self.url}/_sandbox/requests", params=wanted) as response:
            return (await response.json())["items"]

    async def counts(self) -> dict[str, Any]:
        async with self.session.get(f"{self.url}/_sandbox/counts") as response:
            return await response.json()

    def post(
        self, wire: str, model: str, *, stream: bool = False, key: str = KEY, text: str = "Hello", **extra: Any
    ) -> Any:
        """A plain question in one of the three formats."""
        if wire == "chat":
            body = {"model": model, "messages": [{"role": "user", "content": text}], **extra}
            if stream:
                body |= {"stream": True, "stream_options": {"include_usage": True}}
            path, headers = "/v1/chat/completions", {"authorization": f"Bearer {key}"}
        elif wire == "messages":
            body = {"model": model, "max_tokens": 500, "messages": [{"role": "user", "content": text}], **extra}
            if stream:
                body["stream"] = True
            path, headers = "/v1/messages", {"x-api-key": key, "anthropic-version": "2023-06-01"}
        else:
            body = {"contents": [{"role": "user", "parts": [{"text": text}]}], **extra}
            ending = "streamGenerateContent?alt=sse" if stream else "generateContent"
            path, headers = f"/v1beta/models/{model}:{ending}", {"x-goog-api-key": key}
        return self.session.post(self.url + path, json=body, headers=headers, allow_redirects=False)


@pytest.fixture
async def sandbox() -> AsyncIterator[str]:
    async with running_sandbox(options=SandboxOptions(delay_ms=0, slow_s=0.01, stall_s=60)) as url:
        yield url


@pytest.fixture
async def door(sandbox: str) -> AsyncIterator[Door]:
    async with aiohttp.ClientSession() as session:
        yield Door(sandbox, session)


@pytest.fixture
async def chat(sandbox: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(api_key=KEY, base_url=f"{sandbox}/v1", max_retries=0) as client:
        yield client


@pytest.fixture
async def azure(sandbox: str) -> AsyncIterator[openai.AsyncAzureOpenAI]:
    async with openai.AsyncAzureOpenAI(
        api_key=KEY, azure_endpoint=sandbox, api_version="2024-10-21", max_retries=0
    ) as client:
        yield client


@pytest.fixture
async def messages(sandbox: str) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(api_key=KEY, base_url=sandbox, max_retries=0) as client:
        yield client


@pytest.fixture
def google(sandbox: str) -> genai.Client:
    return genai.Client(api_key=KEY, http_options=types.HttpOptions(base_url=sandbox))
