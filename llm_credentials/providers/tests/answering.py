"""A local server that answers with the bytes a test gives it and keeps what it was asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

from llm_credentials.providers import EgressPolicy, LLMClient, build_client, transport


@dataclass
class Asked:
    method: str
    path: str
    query: dict[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


@dataclass
class Answering:
    """``answers`` are given in turn, the last one for ever."""

    url: str = ""
    answers: list[Answer] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)

    def client(self, provider: str, *, model: str = "a-model", key: str = "key-of-alice", **more: Any) -> LLMClient:
        return build_client(provider, api_key=key, model=model, base_url=self.url, egress=self.egress, **more)

    @property
    def egress(self) -> EgressPolicy:
        return EgressPolicy(allow=frozenset({self.url.removeprefix("http://")}))

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(
            Asked(request.method, request.path, dict(request.query), request.headers, await request.read())
        )
        answer = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        await response.prepare(request)
        for piece in answer.pieces:
            await response.write(piece)
        if answer.open_s:
            await asyncio.sleep(answer.open_s)
        if answer.cut and request.transport is not None:
            request.transport.abort()
        return response


@dataclass
class Answer:
    pieces: Iterable[bytes]
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    """Break the connection after the last piece."""
    open_s: float = 0.0
    """Stay silent so long after the last piece."""


def of_json(value: Any, status: int = 200, **headers: str) -> Answer:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Answer([json.dumps(value).encode()], status, {"content-type": "application/json", **named})


def of_text(text: str, content_type: str = "text/html", status: int = 200) -> Answer:
    return Answer([text.encode()], status, {"content-type": content_type})


def of_events(*events: Mapping[str, Any], cut: bool = False, size: int = 0, named: bool = False) -> Answer:
    """Server-sent events; ``size`` cuts them into pieces of so many bytes, ``named`` writes ``event:`` lines."""
    lines = [
        (f"event: {event['type']}\n" if named else "") + f"data: {json.dumps(event, ensure_ascii=False)}\n\n"
        for event in events
    ]
    data = "".join(lines).encode()
    pieces = [data[start : start + size] for start in range(0, len(data), size)] if size else [data]
    return Answer(pieces, 200, {"content-type": "text/event-stream"}, cut)


@asynccontextmanager
async def answering(*answers: Answer) -> AsyncIterator[Answering]:
    server = Answering(answers=list(answers))
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield server
    finally:
        await transport.close_connections()
        await runner.cleanup()
