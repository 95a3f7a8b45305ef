"""Measures what ``/v1`` costs, beside a minimal gateway: an ASGI application that only forwards ("the floor").

Both run on one uvicorn worker pinned to one core; the upstream (fixed bytes) and the load run on the other. Their
rounds alternate. Token, routing, rates, budget and ledger are on. Throughput on a shared machine is noise, so the
worker's CPU per request is printed with it; the ratios are what counts.

    python benchmarks/gateway.py [--quick] [--database postgres] [--streams-minutes 10] [--peers] [--only paced]
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.parts import peers  # noqa: E402
from benchmarks.parts.load import (  # noqa: E402
    ASK,
    LOAD_CORE,
    SERVER_CORE,
    Target,
    free_port,
    load,
    paced,
    running,
)
from benchmarks.parts.upstream import PACE_S  # noqa: E402
from project.embedded import valkey_command  # noqa: E402
from project.tests import servers  # noqa: E402

KEY = "sk-benchmark-0123456789"
STREAMS = 500
GROWTH_LIMIT = 0.10

FLOOR = """
import aiohttp, os
UPSTREAM = os.environ["UPSTREAM"]
session = None
async def application(scope, receive, send):
    global session
    if scope["type"] != "http":
        return
    if session is None:
        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), auto_decompress=False)
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    headers = {"content-type": "application/json", "authorization": "Bearer key"}
    async with session.post(UPSTREAM, data=body, headers=headers) as answer:
        kind = answer.headers["content-type"].encode()
        await send({"type": "http.response.start", "status": answer.status, "headers": [(b"content-type", kind)]})
        async for piece in answer.content.iter_any():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
"""

SETUP = """
from decimal import Decimal
from django.contrib.auth.models import User
from llm_credentials import services
from llm_credentials.models import LLMSettings, UserCredential
user = User.objects.create_user("bench")
LLMSettings.objects.create(user=user, monthly_budget_usd=Decimal(100000))
for provider, address in (("openai", "{url}/v1"), ("anthropic", "{url}")):
    services.credential_save(user=user, provider=provider, api_key="{key}", base_url=address, model="gpt-4o-mini")
print(services.token_create(user=user, scopes=["gateway"])[1])
"""


def _uvicorn(application: str, port: int) -> list[str]:
    options = ["--port", str(port), "--no-access-log", "--no-proxy-headers", "--no-server-header"]
    options += ["--log-level", "warning"]
    return [sys.executable, "-m", "uvicorn", application, *options]


def site_environment(folder: Path, database: str, cache: int, upstream: int) -> dict[str, str]:
    return {
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "LOCAL": "true",
        "SECRET_KEY": secrets.token_urlsafe(64),
        "CREDENTIAL_KEYS": f"bench:{base64.b64encode(secrets.token_bytes(32)).decode()}",
        "DATABASE_URL": database or f"sqlite:///{folder / 'bench.sqlite3'}",
        "REDIS_URL": f"redis://127.0.0.1:{cache}/0",
        "LLM_EGRESS_ALLOW": f"127.0.0.1:{upstream}",
        "LLM_RATE_GATEWAY_USER": "9999999/s",
        "LLM_RATE_GATEWAY_TOKEN": "9999999/s",
        "LOG_LEVEL": "WARNING",
    }


def prepared(environment: dict[str, str], url: str) -> str:
    """Create the site's tables and the user ``bench`` with keys for the provider at ``url``; returns the
    user's token.
    """
    manage, everything = [sys.executable, "manage.py"], {**os.environ, **environment}
    subprocess.run([*manage, "migrate", "-v0"], cwd=ROOT, env=everything, check=True)
    made = subprocess.run(
        [*manage, "shell", "-v0", "-c", SETUP.format(url=url, key=KEY)],
        cwd=ROOT, env=everything, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return made.stdout.split()[-1]


@contextmanager
def _database(named: str) -> Iterator[str]:
    """Its URL; for ``postgres`` that of a new database in the tests' cluster, which does not fsync."""
    if named != "postgres":
        yield named
        return
    server = servers._embedded_postgres_url()
    name = f"test_keyswitch_{os.getpid()}_gateway"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        try:
            yield server.replace("/postgres?", f"/{name}?")
        finally:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@contextmanager
def _targets(database: str, *, with_peers: bool) -> Iterator[list[Target]]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream, cache, floor, site = (free_port() for _ in range(4))
        (folder / "floor.py").write_text(FLOOR)
        url = f"http://127.0.0.1:{upstream}"
        stub = [sys.executable, "-m", "benchmarks.parts.upstream", str(upstream)]
        stack.enter_context(running(stub, LOAD_CORE, {}, upstream))
        stack.enter_context(running(valkey_command(folder, port=cache), LOAD_CORE, {}, cache))
        environment = site_environment(folder, database, cache, upstream)
        bearer = {"authorization": f"Bearer {prepared(environment, url)}"}
        where = {"UPSTREAM": f"{url}/v1/chat/completions", "PYTHONPATH": str(folder)}
        passing = stack.enter_context(running(_uvicorn("floor:application", floor), SERVER_CORE, where, floor))
        serving = stack.enter_context(
            running(_uvicorn("project.asgi:application", site), SERVER_CORE, environment, site)
        )
        targets = [
            Target("floor", floor, passing, "/", {}),
            Target("gateway", site, serving, "/v1/chat/completions", bearer),
            Target("gateway, translated", site, serving, "/v1/messages", bearer),
        ]
        if with_peers:
            targets.append(stack.enter_context(peers.litellm(folder, url)))
        yield targets


# Measurement

ASKED = {"requests": "0.25", "streams, apart": "0.5", "streams, burst": "0.5", "streams, lump": "-"}
"""Required share of the floor's performance."""
KINDS = (
    ("requests", False, 4000, ASK),
    ("streams, apart", True, 600, f"{ASK} apart"),
    ("streams, burst", True, 600, ASK),
    ("streams, lump", True, 600, f"{ASK} lump"),
)
SLOWER = {"LiteLLM": 0.05}
"""Share of the calls for slow gateways."""


async def _measure(targets: list[Target], *, rounds: int, scale: float) -> None:
    floor, gateway, *_ = targets
    for target in targets:
        few = SLOWER.get(target.name, 1.0)
        await load(target, stream=False, callers=4, count=int(400 * few))
        await load(target, stream=True, callers=4, count=int(40 * few) + 4)
    for name, stream, count, ask in KINDS:
        for _ in range(rounds):
            for target in targets:
                part = int(count * scale * SLOWER.get(target.name, 1.0))
                rate, cpu_us, _ = await load(target, stream=stream, callers=50, count=part, ask=ask)
                target.rates.setdefault(name, []).append(rate)
                target.cpu_us.setdefault(name, []).append(cpu_us)
        for target in targets:
            _print(name, target, floor)
    await _latencies(floor, gateway, scale)
    for target in targets:
        if "," not in target.name:
            print(f"  memory of {target.name}: {target.memory_mb():.0f} MB   asked for: < 200", flush=True)


def _print(name: str, target: Target, floor: Target) -> None:
    rate, cpu_us = _median(target.rates[name]), _median(target.cpu_us[name])
    by_cpu = _median([f / t for f, t in zip(floor.cpu_us[name], target.cpu_us[name], strict=True)])
    by_rate = _median([t / f for f, t in zip(floor.rates[name], target.rates[name], strict=True)])
    asked = {"gateway": ASKED[name], "gateway, translated": "0.15"}.get(target.name, "-")
    ratios = f"{by_cpu:.3f} x the floor by CPU, {by_rate:.3f} by rate"
    print(
        f"  {name:<15} {target.name:<20} {rate:>7.0f}/s {cpu_us:>7.0f} us CPU   {ratios}   asked for: {asked}",
        flush=True,
    )


def _median(values: list[float]) -> float:
    return statistics.median(values)


async def _latencies(floor: Target, gateway: Target, scale: float) -> None:
    found: dict[str, list[float]] = {"floor": [], "gateway": []}
    added: list[float] = []
    for _ in range(20):
        middles = []
        for target in (floor, gateway):
            took = (await load(target, stream=False, callers=1, count=max(20, int(100 * scale))))[2]
            found[target.name] += took
            middles.append(_median(took))
        added.append(middles[1] - middles[0])
    f99, g99 = (_quantiles(found[name])[1] for name in ("floor", "gateway"))
    least = f"the least of {len(added)} rounds {min(added):.2f}"
    print(f"  one at a time: added p50 {_median(added):.2f} ms, {least}   asked for: <= 1")
    print(f"  one at a time: p99 {g99:.2f} ms, {g99 / f99:.1f} x the floor's   asked for: <= 5")
    for target in (floor, gateway):
        _, _, took = await load(target, stream=False, callers=50, count=int(4000 * scale))
        p50, p99 = _quantiles(took)
        asked = "   asked for: < 3" if target is gateway else ""
        print(f"  fifty at a time, {target.name}: p99 {p99:.1f} ms, {p99 / p50:.1f} x p50{asked}", flush=True)


def _quantiles(values: list[float]) -> tuple[float, float]:
    cut = statistics.quantiles(values, n=100)
    return cut[49], cut[98]


async def _open_streams(gateway: Target, minutes: float) -> None:
    """Five hundred at once, each with an event every half second: memory and delay."""
    cpu = gateway.cpu_s()
    events = int(minutes * 60 / PACE_S)
    found = await paced(gateway, streams=STREAMS, events=events, pace_s=PACE_S)
    cpu = gateway.cpu_s() - cpu
    memory = found.memory_mb
    # From when all streams are open; in the last seconds they end.
    opened = found.open_after or 0
    begin, end = statistics.median(memory[opened : opened + 3]), statistics.median(memory[-10:-4])
    p50, p99 = _quantiles(found.late_ms)
    ended = f"{found.whole} whole, {found.refused} refused, {found.events} events"
    print(f"  {STREAMS} paced streams for {minutes:g} min: {ended}")
    print(f"  an event late by: p50 {p50:.1f} ms, p99 {p99:.1f} ms; CPU {cpu / found.events * 1e6:.0f} us an event")
    grown = f"{begin:.0f} to {end:.0f} MB, {end / begin - 1:+.1%}, at most {max(memory):.0f} MB"
    marks = " ".join(f"{each:.0f}" for each in memory[:: max(1, len(memory) // 12)])
    print(f"  memory of the worker as time goes, all open after {opened} s: {marks} MB")
    print(f"  memory of the worker: {grown}   asked for: <= +{GROWTH_LIMIT:.0%}, < 200 MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--database", default="", help="postgres, or the URL of an empty database; without it SQLite")
    parser.add_argument("--streams-minutes", type=float, default=0.5, help="for how long paced streams are open")
    parser.add_argument("--peers", action="store_true", help="LiteLLM's proxy too, installed on first use")
    parser.add_argument("--only", choices=("paced", "load"))
    options = parser.parse_args()
    if options.peers:
        version = peers.install()
        print(f"LiteLLM {version}" if version else "LiteLLM does not install here")
        options.peers = version is not None
    os.sched_setaffinity(0, {LOAD_CORE % (os.cpu_count() or 1)})
    with _database(options.database) as database, _targets(database, with_peers=options.peers) as targets:
        print(f"{database.partition(':')[0] or 'sqlite'}:", flush=True)
        if options.only != "paced":
            quick = options.quick
            asyncio.run(_measure(targets, rounds=3 if quick else 9, scale=0.25 if quick else 1.0))
        if options.only != "load":
            asyncio.run(_open_streams(targets[1], options.streams_minutes))


if __name__ == "__main__":
    main()
