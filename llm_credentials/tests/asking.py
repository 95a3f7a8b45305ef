"""Asking the gateway in one's own process."""

from __future__ import annotations

import httpx2
from asgiref.sync import async_to_sync

from llm_credentials.gateway.app import application


def ask_gateway(
    method: str, path: str, body: object = None, *, raw: bytes | None = None, **headers: str
) -> httpx2.Response:
    """Through the gateway's application, without a server."""

    async def ask() -> httpx2.Response:
        transport = httpx2.ASGITransport(app=application)
        async with httpx2.AsyncClient(transport=transport, base_url="http://testserver") as client:
            return await client.request(method, path, json=body, content=raw, headers=headers)

    return async_to_sync(ask)()
