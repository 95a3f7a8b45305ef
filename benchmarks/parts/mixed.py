"""Simulates users of every kind at once, who record the responses they got: pages, API, gateway, connection tests,
agent runs.

They count only complete responses. Everything confirmed must be found afterwards.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from benchmarks.parts.site import Person, Site

AWAY = 0
"""Status of a request without a complete response."""
ASK = [{"role": "user", "content": "What is 17 * 23?"}]
LONG = [{"role": "user", "content": "write 40 words"}]
PAGES = ("/settings/llm/", "/settings/llm/usage/", "/settings/llm/routing/", "/runs/", "/conversations/", "/agents/")


@dataclass
class Told:
    """Responses that clients got."""

    statuses: dict[str, Counter[int]] = field(default_factory=dict)
    answers: int = 0
    """Complete answers of the gateway."""
    cut: int = 0
    """Streams that began and were cut off."""
    changes: dict[str, tuple[int, int]] = field(default_factory=dict)
    """For each user who changes settings: (the last confirmed value, the last tried one)."""
    confirmed: int = 0
    runs: list[tuple[str, Person]] = field(default_factory=list)
    tests: list[tuple[str, Person]] = field(default_factory=list)

    def saw(self, surface: str, status: int) -> int:
        self.statuses.setdefault(surface, Counter())[status] += 1
        return status

    def wrong(self) -> dict[str, dict[int, int]]:
        """Responses that are neither an answer, nor a proper refusal, nor missing because a process was killed."""
        fine = (AWAY, 200, 201, 202, 204, 409, 429, 502, 503)
        bad = {name: {s: n for s, n in seen.items() if s not in fine} for name, seen in self.statuses.items()}
        return {name: seen for name, seen in bad.items() if seen}


class Mixed:
    def __init__(self, site: Site, people: list[Person]) -> None:
        self.site, self.people, self.told = site, people, Told()
        self.over = asyncio.Event()
        self.session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=30), connector=aiohttp.TCPConnector(limit=0, force_close=True)
        )

    async def run(self, seconds: Callable[[], Awaitable[None]]) -> Told:
        """Until ``seconds`` returns; then all users finish their current request."""
        kinds = (self._pages, self._changes, self._calls, self._streams, self._tests, self._runs)
        jobs = [asyncio.create_task(self._again(kinds[at % len(kinds)], one)) for at, one in enumerate(self.people)]
        try:
            await seconds()
        finally:
            self.over.set()
            await asyncio.gather(*jobs)
            await self.session.close()
        return self.told

    async def _again(self, act: Callable[[Person, int], Awaitable[bool]], person: Person) -> None:
        turn = 0
        while not self.over.is_set():
            turn += 1
            served = await act(person, turn)
            await asyncio.sleep(0.02 if served else 0.2)

    async def ask(
        self, surface: str, method: str, path: str, headers: dict[str, str], body: Any = None
    ) -> tuple[int, bytes]:
        port = random.choice(self.site.ports)
        try:
            async with self.session.request(
                method, f"http://127.0.0.1:{port}{path}", json=body, headers=headers, allow_redirects=False
            ) as answer:
                content = await answer.read()
                return self.told.saw(surface, answer.status), content
        except (aiohttp.ClientError, TimeoutError, OSError):
            return self.told.saw(surface, AWAY), b""

    async def _pages(self, person: Person, turn: int) -> bool:
        path = PAGES[turn % len(PAGES)]
        return (await self.ask("pages", "GET", path, {"cookie": person.cookie}))[0] == 200

    async def _changes(self, person: Person, turn: int) -> bool:
        confirmed, _ = self.told.changes.get(person.name, (0, 0))
        self.told.changes[person.name] = (confirmed, turn)
        body = {"monthly_budget_usd": str(turn)}
        status, _ = await self.ask("changes", "PATCH", "/api/user/llm-settings", person.bearer, body)
        if status == 200:
            self.told.changes[person.name] = (turn, turn)
            self.told.confirmed += 1
        return status == 200

    async def _calls(self, person: Person, turn: int) -> bool:
        body = {"model": "sandbox/sandbox-instant", "messages": ASK}
        status, content = await self.ask("calls", "POST", "/v1/chat/completions", person.bearer, body)
        self.told.answers += status == 200 and b"391" in content
        return status == 200

    async def _streams(self, person: Person, turn: int) -> bool:
        body = {"model": "sandbox/sandbox-chat", "messages": LONG, "stream": True}
        status, content = await self.ask("streams", "POST", "/v1/chat/completions", person.bearer, body)
        whole = status == 200 and b"[DONE]" in content and b'"error"' not in content
        self.told.answers += whole
        self.told.cut += status == 200 and not whole
        return whole

    async def _tests(self, person: Person, turn: int) -> bool:
        path = "/api/user/llm-credentials/sandbox/test?wait=5"
        status, content = await self.ask("tests", "POST", path, person.bearer, {"model": "sandbox-fast"})
        if status in (200, 202):
            self.told.tests.append((json.loads(content)["id"], person))
        return status == 200

    async def _runs(self, person: Person, turn: int) -> bool:
        path = "/api/agents/conversation/runs"
        status, content = await self.ask("runs", "POST", path, person.bearer, {"input": "What is 17 * 23?"})
        if status == 202:
            self.told.runs.append((json.loads(content)["id"], person))
            await asyncio.sleep(0.5)
        return status == 202
