"""A key is replaced again and again while processes call with it: for the test in small and for the proof."""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User

from llm_credentials import bridge
from llm_credentials.connection_tests import test_run
from llm_credentials.factory import client_for
from llm_credentials.models import ConnectionTest
from llm_credentials.providers import LLMMessage
from llm_credentials.replacement import replacement_start
from llm_credentials.routing import snapshot_cache
from llm_credentials.services import Draft, credential_save
from project.tests import apart
from project.tests.servers import wait_until

MODEL = "sandbox-chat+delay:20+chunks:30"
"""A stream takes a good half second, so that some are always under way."""
WITHIN_S = 1.0


@dataclass
class Findings:
    calls: int = 0
    failed: list[str] = field(default_factory=list)
    replaced: int = 0
    late: int = 0
    """Calls that began with an old key more than ``WITHIN_S`` after it was replaced."""
    slowest_s: float = 0.0
    """The last call with an old key began so long after."""
    outlived: int = 0
    """Calls that were under way when their key was replaced, and went on to their end."""
    broken: int = 0
    """Requests that we left before their end."""


def key(number: int) -> str:
    return f"sbx-good-replaced-{number:04d}"


def replace_under_load(
    user: User, url: str, *, processes: int = 2, replacements: int = 3, hold_s: float = 1.6
) -> Findings:
    """``hold_s``: how long calls go on with each key."""
    credential_save(user=user, provider="sandbox", api_key=key(0), model=MODEL)
    findings = Findings()
    swapped: list[float] = []
    with tempfile.TemporaryDirectory() as directory:
        stop = Path(directory) / "stop"
        reports = [Path(directory) / f"{number}.json" for number in range(processes)]
        callers = [apart.started(_caller, user, snapshot_cache.KEPT_S, stop, report) for report in reports]
        try:
            wait_until(lambda: len(_requests(url, key(0))) >= 4 * processes, "the first calls")
            for number in range(1, replacements + 1):
                test = replacement_start(user=user, provider="sandbox", unsaved=Draft(api_key=key(number)))
                test_run(test.pk)
                swapped.append(time.time())
                findings.replaced += ConnectionTest.objects.get(pk=test.pk).replacement == "done"
                wait_until(lambda at=swapped[-1]: time.time() - at >= hold_s, "calls with the new key")
        finally:
            stop.touch()
            for caller in callers:
                apart.ended(caller)
        for report in reports:
            told = json.loads(report.read_text())
            findings.calls += told["calls"]
            findings.failed += told["failed"]
    _judge(findings, url, swapped)
    return findings


def _judge(findings: Findings, url: str, swapped: list[float]) -> None:
    for number, at in enumerate(swapped):
        for entry in _requests(url, key(number)):
            after_s = entry["started"] - at
            findings.late += after_s > WITHIN_S
            findings.slowest_s = max(findings.slowest_s, after_s)
            findings.outlived += after_s < 0 and (entry["ended"] or 0) > at and not entry["client_gone"]
    findings.broken = sum(
        entry["client_gone"] for number in range(len(swapped) + 1) for entry in _requests(url, key(number))
    )


def _requests(url: str, secret: str) -> list[dict[str, Any]]:
    async def ask() -> list[dict[str, Any]]:
        fingerprint = hashlib.sha256(secret.encode()).hexdigest()[:12]
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{url}/_sandbox/requests?key={fingerprint}") as answer,
        ):
            items: list[dict[str, Any]] = (await answer.json())["items"]
        return [item for item in items if item["operation"] == "chat" and item["stream"]]

    return async_to_sync(ask)()


def _caller(user: User, kept_s: float, stop: Path, report: Path) -> None:
    snapshot_cache.KEPT_S = kept_s
    told: dict[str, Any] = {"calls": 0, "failed": []}
    is_over = stop.exists

    async def one() -> None:
        while not is_over():
            try:
                async for _ in client_for(user).stream([LLMMessage.user("count to 500")]):
                    pass
                told["calls"] += 1
            except Exception as error:
                told["failed"].append(f"{type(error).__name__}: {error}")

    async def several() -> None:
        await asyncio.gather(*(one() for _ in range(4)))

    try:
        bridge.run(several)
    finally:
        report.write_text(json.dumps(told))
