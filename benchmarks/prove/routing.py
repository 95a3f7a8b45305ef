"""Checks failover, ledger and budgets under faults and kills: measured counts beside the required ones. Exits with 1 if
one fails.

make prove-routing                 # SQLite; TEST_DATABASE=postgres for PostgreSQL
python benchmarks/prove/routing.py [--calls 10000] [--kills 20] [--only faults|decision|ledger|budget|valkey]

``outage.py`` beside it takes the database away.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.parts.sandbox import running_sandbox  # noqa: E402 isort: skip (it chooses the settings)

import aiohttp  # noqa: E402
import redis  # noqa: E402
from asgiref.sync import async_to_sync  # noqa: E402
from django.conf import settings  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.db import connections  # noqa: E402

from benchmarks.prove.report import Line, print_lines, to_its_end  # noqa: E402
from llm_credentials import bridge, wall  # noqa: E402
from llm_credentials.factory import client_for  # noqa: E402
from llm_credentials.ledger import books, budgets, prices  # noqa: E402
from llm_credentials.ledger.budgets import Limits  # noqa: E402
from llm_credentials.ledger.prices import Price  # noqa: E402
from llm_credentials.models import BudgetCounter, LLMSettings, UsageRecord, UserCredential  # noqa: E402
from llm_credentials.providers import BudgetExceeded, LLMError, LLMMessage  # noqa: E402
from llm_credentials.routing import health  # noqa: E402
from llm_credentials.tests.fault_matrix import ADAPTERS, FAULTS, Findings, make_chain, run_case  # noqa: E402
from llm_credentials.wall import open_for  # noqa: E402
from project.embedded import valkey_command  # noqa: E402
from project.tests import apart, servers  # noqa: E402

ASK = [LLMMessage.user("What is 17 * 23?")]
AT_ONCE = 16
DECISION_LIMIT_MS = 200
DEGRADED_LIMIT_S = 1.0
RECOVERY_LIMIT_S = 5.0


def _figure(name: str, value: object, good: bool, must: str) -> Line:
    return Line(f"{name}: {must}", str(value), good)


@contextmanager
def _priced() -> Iterator[None]:
    """The sandbox is free; here it has the price of one of OpenAI's models."""
    price = prices._price
    prices._price = lambda provider, self_hosted, model, at, **tokens: price("openai", False, "gpt-4o", at, **tokens)
    try:
        yield
    finally:
        prices._price = price


@contextmanager
def _breakers_off() -> Iterator[None]:
    """For planned failures, which must not keep the next case from calling the provider."""
    failed, rest = health.failed, health.rest
    health.failed, health.rest = (lambda destination: None), (lambda target, seconds: None)
    try:
        yield
    finally:
        health.failed, health.rest = failed, rest


def faults(url: str) -> Iterator[Line]:
    user = User.objects.create_user("faults")
    findings = Findings()
    with _breakers_off():
        for adapter in ADAPTERS:
            first = make_chain(user, adapter, url)
            async_to_sync(client_for(user, provider=adapter, credential=first.pk).list_models)()
            for fault in FAULTS:
                first.model = f"sandbox-fast~fault={fault}"
                first.save(update_fields=["model"])
                for stream in (False, True):
                    bridge.run(run_case, user, adapter, fault, stream, findings)
    print(f"faults: {len(FAULTS)} x {len(ADAPTERS)} adapters, whole and streamed: {findings.runs} runs")
    for name, cases in (
        ("hangs past the deadline", findings.hangs),
        ("tracebacks", findings.tracebacks),
        ("silently cut answers", findings.truncated),
        ("wrong classes", findings.wrong_class),
    ):
        yield _figure(name, len(cases), not cases, "0")
        for case in cases[:20]:
            print(f"          {case}", flush=True)


def decision(url: str) -> Iterator[Line]:
    """From the end of the failing request to the arrival of the next one, as seen by the provider."""
    user = User.objects.create_user("decision")
    for number, (name, model) in enumerate((("first", "sandbox-fast~fault=401"), ("second", "sandbox-fast"))):
        _credential(user, name, model, priority=number)
    waits = []
    for _ in range(100):
        async_to_sync(_forget)(url)
        bridge.run(client_for(user).complete, ASK)
        failed, answered = async_to_sync(_entries)(url)
        waits.append((answered["started"] - failed["ended"]) * 1000)
    waits.sort()
    print(f"decision: 100 calls, median {waits[50]:.0f} ms")
    yield _figure(
        "slowest decision", f"{waits[-1]:.0f} ms", waits[-1] <= DECISION_LIMIT_MS, f"<= {DECISION_LIMIT_MS} ms"
    )


def ledger(url: str, calls: int = 10_000, kills: int = 20) -> Iterator[Line]:
    """Calls in processes that are killed; then compares the ledger with the provider's own count.

    They have prices and a budget that runs out meanwhile, so that the kills hit the counters as well.
    """
    async_to_sync(_forget)(url)
    user = User.objects.create_user("ledger")
    LLMSettings.objects.create(user=user, monthly_budget_usd=Decimal("1000.00"))
    credential = _credential(user, "first", "sandbox-instant")
    for kill in range(1, kills + 1):
        caller = apart.started(_call_for_ever, user)
        _wait_until(partial(_answered, url, calls * kill // kills), 300)
        apart.kill(caller)
        _wait_until(lambda: async_to_sync(_counts)(url)["open"] == 0, 30)
    counts = async_to_sync(_counts)(url)
    rows = UsageRecord.objects.filter(user=user)
    total, open_ = rows.count(), rows.filter(state="reserved").count()
    whole = counts["by_status"].get("200", 0) - counts["client_gone"]
    settled = rows.filter(state="settled").count()
    swept = books.sweep(older_than_s=0)
    left = rows.filter(state="reserved").count()
    print(f"ledger: {counts['requests']} requests of {credential.provider}, {kills} kills, {total} rows, {open_} open")
    yield _figure("requests without a row", max(0, counts["requests"] - total), counts["requests"] <= total, "0")
    beyond = total - counts["requests"]
    yield _figure("rows beyond the requests", beyond, beyond <= open_, f"<= {open_}, killed between ledger and wire")
    yield _figure("settled twice or without an answer", max(0, settled - whole), settled <= whole, "0")
    yield _figure("answers neither settled nor open", max(0, whole - settled - open_), whole <= settled + open_, "0")
    counter, spent = BudgetCounter.objects.get(user=user).used_e8, budgets.spent_usd("own", user.pk)
    # SQLite sums in floating point.
    beside = (Decimal(counter).scaleb(-8) - spent).quantize(Decimal("1e-8"))
    yield _figure("budget's counter beyond the sum of its rows", f"${beside} of ${spent}", beside == 0, "$0")
    yield _figure("open after the sweep", left, left == 0 and swept == open_, "0")


def budget(url: str) -> Iterator[Line]:
    """100 concurrent reservations on a budget for 10, 20 times."""
    limits, price = Limits(own_monthly_usd=Decimal("1.00")), Price(Decimal("0.10"), "proof")
    wrong, over = 0, Decimal(0)
    for round_ in range(20):
        user = User.objects.create_user(f"budget-{round_}")
        barrier = threading.Barrier(20)

        def call(number: int, user: User = user, barrier: threading.Barrier = barrier) -> bool:
            entry = books.Entry(
                call_id=uuid4(), user_id=user.pk, task="", provider="x", model="y", credential_id=None, key_owner="user"
            )
            if number < 20:
                barrier.wait(30)
            try:
                books.reserve(entry, limits, price, 1)
            except BudgetExceeded:
                return False
            finally:
                connections.close_all()
            return True

        with ThreadPoolExecutor(20) as pool:
            wrong += sum(pool.map(call, range(100))) != 10
        over = max(over, budgets.spent_usd("own", user.pk) - Decimal("1.00"))
    print("budget: 20 x 100 at once on a budget for 10")
    yield _figure("rounds that did not admit exactly 10", wrong, wrong == 0, "0")
    yield _figure("overshoot", f"${over:.2f}", over <= 0, "$0.00")


def valkey(url: str) -> Iterator[Line]:
    """Valkey goes away and comes back at the same address while calls continue."""
    user = User.objects.create_user("valkey")
    _credential(user, "first", "sandbox-instant")
    directory = Path(settings.REDIS_URL.removeprefix("unix://")).parent / "second"
    directory.mkdir()
    path = directory / "v.sock"
    settings.REDIS_URL = f"unix://{path}"

    def start() -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            valkey_command(directory, socket=path, durable=False), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        servers.wait_until(lambda: servers.valkey_answers(path), "Valkey")
        return process

    process = start()
    bridge.run(client_for(user).complete, ASK)
    process.kill()
    process.wait()
    slowest, calls = 0.0, 0
    # Long enough to retry Valkey several times.
    end = time.monotonic() + 5 * health.AWAY_FOR_S
    while time.monotonic() < end:
        started = time.monotonic()
        bridge.run(client_for(user).complete, ASK)
        slowest, calls = max(slowest, time.monotonic() - started), calls + 1
    process = start()
    started = time.monotonic()

    def shared() -> bool:
        """Whether a mark of this process reaches the others again."""
        health.rest("proof", 30.0)
        with redis.Redis(unix_socket_path=str(path)) as client:
            return client.zscore("llm:resting", "proof") is not None

    _wait_until(shared, 30)
    recovered_s = time.monotonic() - started
    process.kill()
    process.wait()
    print(f"valkey: killed, {calls} calls without it, started again")
    yield _figure(
        "slowest call without it", f"{slowest:.2f} s", slowest <= DEGRADED_LIMIT_S, f"<= {DEGRADED_LIMIT_S} s"
    )
    good = recovered_s <= RECOVERY_LIMIT_S
    yield _figure("marks shared again after", f"{recovered_s:.2f} s", good, f"<= {RECOVERY_LIMIT_S} s")


# Helpers


def _credential(user: User, name: str, model: str, priority: int = 1) -> UserCredential:
    row = UserCredential(user=user, provider="sandbox", name=name, model=model, priority=priority)
    row.seal(f"sbx-good-{user.username}-{name}")
    row.save()
    return row


def _call_for_ever(user: User) -> None:
    """Runs in a process that will be killed. Every tenth call meets a fault."""

    async def one(worker: int) -> None:
        number = worker
        while True:
            number += 1
            model = "sandbox-instant~fault=503" if number % 10 == 0 else "sandbox-instant"
            client = client_for(user, provider="sandbox", model=model)
            try:
                if number % 2:
                    await client.complete(ASK)
                else:
                    async for _ in client.stream(ASK):
                        pass
            except LLMError:
                pass

    async def all_() -> None:
        await asyncio.gather(*(one(worker * 1_000_000) for worker in range(AT_ONCE)))

    with _breakers_off(), _priced():
        bridge.run(all_)


async def _get(url: str, path: str) -> Any:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/_sandbox/{path}") as answer:
        return await answer.json()


async def _forget(url: str) -> None:
    async with aiohttp.ClientSession() as session, session.delete(f"{url}/_sandbox/requests"):
        pass


async def _counts(url: str) -> dict[str, Any]:
    return dict(await _get(url, "counts"))


async def _entries(url: str) -> list[dict[str, Any]]:
    return list((await _get(url, "requests"))["items"])


def _answered(url: str, goal: int) -> bool:
    return bool(async_to_sync(_counts)(url)["requests"] >= goal)


def _wait_until(true: Callable[[], bool], limit_s: float) -> None:
    end = time.monotonic() + limit_s
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {limit_s} s in vain")
        time.sleep(0.05)


PARTS: dict[str, Callable[..., Iterator[Line]]] = {
    "faults": faults,
    "decision": decision,
    "ledger": ledger,
    "budget": budget,
    "valkey": valkey,
}


def lines(only: str | None = None, **sizes: int) -> Iterator[Line]:
    with wall.open_for("a proof"), running_sandbox() as url:
        for name, part in PARTS.items():
            if only in (None, name):
                yield from to_its_end(partial(part, url, **(sizes if part is ledger else {})))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--only", choices=list(PARTS))
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    with open_for("a proof"):
        missed = print_lines(lines(options.only, calls=options.calls, kills=options.kills))
    print(f"{missed} missed" if missed else "all held")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
