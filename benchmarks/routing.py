"""Measures what routing, ledger and budget add to a call: CPU of this process, against a sandbox in a separate process.

    python benchmarks/routing.py [--calls 400]

Prints the figures required by the design beside the measured medians; rounds alternate.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.parts.sandbox import running_sandbox  # noqa: E402 isort: skip (it chooses the settings)

from django.contrib.auth.models import User  # noqa: E402
from django.db import connection  # noqa: E402
from django.test.utils import CaptureQueriesContext  # noqa: E402

from llm_credentials import bridge, wall  # noqa: E402
from llm_credentials.factory import client_for, explain_route, open_client  # noqa: E402
from llm_credentials.ledger import prices, writer  # noqa: E402
from llm_credentials.models import LLMSettings, UsageRecord, UserCredential  # noqa: E402
from llm_credentials.providers import LLMMessage  # noqa: E402
from llm_credentials.routing import health, snapshot_cache  # noqa: E402
from llm_credentials.routing.resolve import resolve  # noqa: E402
from llm_credentials.routing.values import Request  # noqa: E402
from llm_credentials.wall import open_for  # noqa: E402

ASK = [LLMMessage.user("What is 17 * 23?")]
ROUNDS = 7
Case: TypeAlias = Callable[[], Awaitable[Any]]
WARM_LIMIT_US = 50
COLD_LIMIT_MS = 5.0
COLD_QUERIES = 3
WHOLE_LIMIT = 0.75
"""Times the bare SDK's CPU."""


def _report(name: str, value: str, limit: str) -> None:
    print(f"  {name:<48} {value:>12}   asked for: {limit}", flush=True)


async def _cpu_us(call: Case, calls: int, at_once: int) -> float:
    """Of all threads of this process, including writes after the answers."""

    async def one_after_the_other() -> None:
        for _ in range(calls // at_once):
            await call()

    await writer.flushed()
    before = time.process_time()
    await asyncio.gather(*(one_after_the_other() for _ in range(at_once)))
    await writer.flushed()
    return (time.process_time() - before) / (calls // at_once * at_once) * 1e6


async def _warm_us(user: User, credential: UserCredential, calls: int = 2000) -> float:
    """Resolving a route and client with warm caches."""
    await open_client(credential)
    loaded = snapshot_cache.find(user)
    assert loaded is not None
    request, figures = Request(), []
    for _ in range(ROUNDS):
        before = time.process_time()
        for _ in range(calls // ROUNDS):
            resolve(loaded.snapshot, request, health.known(loaded.targets) or {})
            await open_client(credential)
        figures.append((time.process_time() - before) / (calls // ROUNDS) * 1e6)
    return statistics.median(figures)


def _cases(user: User, credential: UserCredential, url: str) -> tuple[dict[str, Case], dict[str, Case], Any]:
    """Whole calls and streams with the SDK alone, our client alone, and everything."""
    import openai

    sdk = openai.AsyncOpenAI(api_key="sbx-good-benchmark-1", base_url=f"{url}/v1", max_retries=0)
    routed = client_for(user)
    messages: list[Any] = [{"role": "user", "content": ASK[0].text}]

    async def direct() -> Any:
        return await (await open_client(credential)).complete(ASK)

    async def sdk_stream() -> None:
        options: Any = {"include_usage": True}
        async for _ in await sdk.chat.completions.create(
            model="sandbox-instant", messages=messages, stream=True, stream_options=options
        ):
            pass

    async def direct_stream() -> None:
        async for _ in (await open_client(credential)).stream(ASK):
            pass

    async def routed_stream() -> None:
        async for _ in routed.stream(ASK):
            pass

    whole: dict[str, Case] = {
        "bare SDK": lambda: sdk.chat.completions.create(model="sandbox-instant", messages=messages),
        "our client": direct,
        "RoutedClient": lambda: routed.complete(ASK),
    }
    return whole, {"bare SDK": sdk_stream, "our client": direct_stream, "RoutedClient": routed_stream}, sdk


async def _against_the_sdk(user: User, credential: UserCredential, url: str, calls: int) -> None:
    whole, streamed, sdk = _cases(user, credential, url)
    for what, cases in (("call", whole), ("stream", streamed)):
        for at_once in (1, 50):
            await _compare(f"{what}, {at_once} at once", cases, calls, at_once)
    await sdk.close()


async def _compare(what: str, cases: dict[str, Case], calls: int, at_once: int) -> None:
    figures: dict[str, list[float]] = {name: [] for name in cases}
    for call in cases.values():
        await call()
    for _ in range(ROUNDS):
        for name, call in cases.items():
            figures[name].append(await _cpu_us(call, max(calls // ROUNDS, at_once), at_once))
    bare = statistics.median(figures["bare SDK"])
    for name, measured in figures.items():
        median = statistics.median(measured)
        limit = f"<= {WHOLE_LIMIT} of the SDK" if name == "RoutedClient" else "-"
        _report(f"{name}, {what}", f"{median:.0f} us {median / bare:.2f}", limit)


def _give_a_price() -> None:
    """Prices and budgets ignore free calls: give the sandbox's models the price of one of OpenAI's."""
    tariff = prices._tariff
    prices._tariff = lambda provider, model, minute: tariff("openai", "gpt-4o-mini", minute)  # type: ignore[assignment]


def _cold(user: User) -> None:
    other = User.objects.create_user("other")
    explain_route(other)
    figures, cpu = [], []
    for _ in range(21):
        snapshot_cache.forget(user.pk)
        before, cpu_before = time.perf_counter(), time.thread_time()
        explain_route(user)
        figures.append((time.perf_counter() - before) * 1e3)
        cpu.append((time.thread_time() - cpu_before) * 1e3)
    snapshot_cache.forget(user.pk)
    with CaptureQueriesContext(connection) as queries:
        explain_route(user)
    _report("resolve, nothing known of the user", f"{statistics.median(figures):.2f} ms", f"<= {COLD_LIMIT_MS} ms")
    _report("its CPU here", f"{statistics.median(cpu):.2f} ms", "-")
    _report("its queries", str(len(queries)), f"<= {COLD_QUERIES}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=700)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    with running_sandbox() as url, open_for("a benchmark"):
        _give_a_price()
        user = User.objects.create_user("bench")
        LLMSettings.objects.create(user=user, monthly_budget_usd=1_000_000)
        credential = UserCredential(user=user, provider="openai", base_url=f"{url}/v1", model="sandbox-instant")
        credential.seal("sbx-good-benchmark-1")
        credential.save()
        print(f"routing on {connection.vendor}")
        _cold(user)
        snapshot_cache.KEPT_S = 60.0  # so that the whole round is warm
        snapshot_cache.forget()
        bridge.run(client_for(user).complete, ASK)
        warm_us = bridge.run(_warm_us, user, credential)
        _report("resolve and client, warm", f"{warm_us:.0f} us", f"<= {WARM_LIMIT_US} us")
        snapshot_cache.KEPT_S = 0.45
        bridge.run(_against_the_sdk, user, credential, url, options.calls)
        rows = UsageRecord.objects.filter(user=user)
        unsettled = rows.exclude(state="settled").count()
        _report("rows that are not settled, of all", f"{unsettled} of {rows.count()}", "0")


if __name__ == "__main__":
    with wall.open_for("a benchmark"):
        main()
