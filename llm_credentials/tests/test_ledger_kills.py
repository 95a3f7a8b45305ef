"""Processes are killed in the middle of their calls; the ledger is held against what the provider counted itself."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from typing import Any

import aiohttp
import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User

from llm_credentials import bridge
from llm_credentials.factory import client_for
from llm_credentials.ledger import books
from llm_credentials.models import UsageRecord
from llm_credentials.providers import LLMError, LLMMessage
from llm_credentials.routing import health
from llm_credentials.tests.factories import UserCredentialFactory
from project.tests import apart

KILLS = 3
AT_ONCE = 8
KEY = "sbx-good-for-killing-1"


async def _calls(user: User) -> None:
    """Calls without end, every tenth of which fails."""

    async def one(worker: int) -> None:
        number = worker
        while True:
            number += 1
            model = "sandbox-fast+fault:500" if number % 10 == 0 else "sandbox-fast"
            client = client_for(user, provider="sandbox", model=model)
            try:
                if number % 2:
                    await client.complete([LLMMessage.user(f"What is {number} + 1?")])
                else:
                    async for _ in client.stream([LLMMessage.user(f"What is {number} + 1?")]):
                        pass
            except LLMError:
                pass

    await asyncio.gather(*(one(worker) for worker in range(AT_ONCE)))


def _call_for_ever(user: User) -> None:
    # The failures are part of the plan, and must not stop the calls.
    health.failed = lambda destination: None
    bridge.run(_calls, user)


async def _counted(sandbox_url: str) -> dict[str, Any]:
    """What the provider saw of our key: ended requests, and those under way."""
    fingerprint = hashlib.sha256(KEY.encode()).hexdigest()[:12]
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{sandbox_url}/_sandbox/counts") as answer:
            counts = await answer.json()
        async with session.get(f"{sandbox_url}/_sandbox/requests?key={fingerprint}&status=200") as answer:
            good = (await answer.json())["items"]
    ended = counts["by_key"].get(fingerprint, {}).get("requests", 0)
    whole = [entry for entry in good if not entry["open"] and not entry["client_gone"]]
    return {"requests": ended, "open": counts["open"], "whole": len(whole)}


def _wait_for(sandbox_url: str, **wanted: Any) -> dict[str, Any]:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        seen = async_to_sync(_counted)(sandbox_url)
        if all(check(seen[name]) for name, check in wanted.items()):
            return seen
        time.sleep(0.02)
    raise AssertionError(f"the provider did not come to it: {seen}")


@pytest.mark.django_db(transaction=True)
def test_ledger_has_every_request_after_kills_and_none_twice(alice: User, sandbox_url: str) -> None:
    UserCredentialFactory(user=alice, provider="sandbox", key=KEY)
    seen = {"requests": 0}
    for _ in range(KILLS):
        caller = apart.started(_call_for_ever, alice)
        before = seen["requests"]
        _wait_for(sandbox_url, requests=lambda count, before=before: count >= before + 40)
        apart.kill(caller)
        seen = _wait_for(sandbox_url, open=lambda count: count == 0)

    rows = UsageRecord.objects.filter(user=alice)
    unfinished = rows.filter(state="reserved").count()
    # Nothing that the provider saw is missing. Beyond that there is only what was killed between ledger and wire, or
    # found no connection on a busy machine.
    outcomes = Counter(rows.values_list("outcome", flat=True))
    lost_on_the_way = sum(outcomes[outcome] for outcome in ("ConnectionFailed", "DeadlineExceeded", "never_sent"))
    assert seen["requests"] <= rows.count() <= seen["requests"] + unfinished + lost_on_the_way, outcomes
    assert unfinished <= KILLS * AT_ONCE
    # Nothing is settled that the provider did not answer whole, and nothing twice.
    assert seen["whole"] - unfinished <= rows.filter(state="settled").count() <= seen["whole"]

    assert books.sweep(older_than_s=0) == unfinished
    assert set(rows.values_list("state", flat=True)) <= {"settled", "estimated", "void"}
    assert rows.filter(outcome=books.LOST).count() == unfinished
    assert books.sweep(older_than_s=0) == 0
