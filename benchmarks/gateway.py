"""What ``/v1`` costs, beside the least that any gateway could: an ASGI application that only forwards.

Both run on one uvicorn worker pinned to one core; the upstream (fixed bytes) and the load are on the other. Rounds of
the two alternate. Token, routing, rates, budget and ledger are on. Throughput on a shared machine is noise, so CPU per
request of the worker is printed with it; the ratios are what counts.

    python benchmarks/gateway.py [--quick] [--database postgresql://…]
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from project.embedded import valkey_command  # noqa: E402

CHUNKS = 200
SERVER_CORE, LOAD_CORE = 0, 1
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
KEY = "sk-benchmark-0123456789"
BODY = {
    "model": "openai/gpt-4o-mini",
    "max_tokens": 200,
    "messages": [{"role": "user", "content": "Hello there, how are you today?"}],
}

UPSTREAM = """
import asyncio, json, sys
import uvloop
words = [f" word{n}" for n in range(%(chunks)d)]
def event(delta, finish=None, **more):
    body = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-mini",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], "usage": None, **more}
    return b"data: " + json.dumps(body).encode() + b"\\n\\n"
USAGE = {"prompt_tokens": 9, "completion_tokens": %(chunks)d, "total_tokens": 9 + %(chunks)d}
END = json.dumps({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-mini",
                  "choices": [], "usage": USAGE}).encode()
STREAM = b"".join([event({"role": "assistant", "content": ""}), *(event({"content": word}) for word in words),
                   event({}, "stop"), b"data: " + END + b"\\n\\ndata: [DONE]\\n\\n"])
WHOLE = json.dumps({"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-4o-mini",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello there."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}}).encode()
def answer(body, kind):
    return (b"HTTP/1.1 200 OK\\r\\ncontent-type: " + kind + b"\\r\\ncontent-length: "
            + str(len(body)).encode() + b"\\r\\n\\r\\n" + body)
ANSWERS = {True: answer(STREAM, b"text/event-stream"), False: answer(WHOLE, b"application/json")}
class Stub(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.data = transport, b""
    def data_received(self, data):
        self.data += data
        while (end := self.data.find(b"\\r\\n\\r\\n")) >= 0:
            head = self.data[:end].lower()
            at = head.find(b"content-length:")
            size = int(head[at + 15:].split(b"\\r\\n", 1)[0]) if at >= 0 else 0
            if len(self.data) < end + 4 + size:
                return
            body, self.data = self.data[end + 4:end + 4 + size], self.data[end + 4 + size:]
            self.transport.write(ANSWERS[b'"stream":true' in body or b'"stream": true' in body])
async def main():
    server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()
uvloop.run(main())
"""

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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Target:
    name: str
    port: int
    process: subprocess.Popen[bytes]
    path: str
    headers: dict[str, str]
    rates: dict[str, list[float]] = field(default_factory=dict)
    cpu_us: dict[str, list[float]] = field(default_factory=dict)

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * TICK_S

    def memory_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024


# The load: one connection per caller, the bytes of the request made once


def _request(target: Target, *, stream: bool) -> bytes:
    body = json.dumps({**BODY, "stream": stream}).encode()
    lines = [f"POST {target.path} HTTP/1.1", f"host: 127.0.0.1:{target.port}", "content-type: application/json"]
    lines += [f"{name}: {value}" for name, value in target.headers.items()]
    lines.append(f"content-length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def _caller(target: Target, request: bytes, count: int, took_ms: list[float]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port, limit=1 << 20)
    for _ in range(count):
        began = time.perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head[:20]:
            raise SystemExit(f"{target.name}: {head[:80]!r} {await reader.read(500)!r}")
        lowered = head.lower()
        if (at := lowered.find(b"content-length:")) >= 0:
            await reader.readexactly(int(lowered[at + 15 :].split(b"\r\n", 1)[0]))
        else:
            await reader.readuntil(b"\r\n0\r\n\r\n")
        took_ms.append((time.perf_counter() - began) * 1e3)
    writer.close()


async def _load(target: Target, *, stream: bool, callers: int, count: int) -> tuple[float, float, list[float]]:
    """(requests a second, CPU of the worker in µs a request, each request's ms)."""
    request = _request(target, stream=stream)
    took_ms: list[float] = []
    cpu, began = target.cpu_s(), time.perf_counter()
    await asyncio.gather(*(_caller(target, request, count // callers, took_ms) for _ in range(callers)))
    elapsed = time.perf_counter() - began
    return len(took_ms) / elapsed, (target.cpu_s() - cpu) / len(took_ms) * 1e6, took_ms


# The processes


@contextmanager
def _running(command: list[str], core: int, extra: dict[str, str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, **extra}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, preexec_fn=lambda: os.sched_setaffinity(0, {core % (os.cpu_count() or 1)})
    )
    try:
        end = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > end or process.poll() is not None:
                    raise SystemExit(f"did not start: {command}") from None
                time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        process.wait(20)


def _uvicorn(application: str, port: int) -> list[str]:
    options = ["--port", str(port), "--no-access-log", "--no-proxy-headers", "--no-server-header"]
    options += ["--log-level", "warning"]
    return [sys.executable, "-m", "uvicorn", application, *options]


@contextmanager
def _targets(database: str) -> Iterator[list[Target]]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream, cache, floor, site = (free_port() for _ in range(4))
        (folder / "upstream.py").write_text(UPSTREAM % {"chunks": CHUNKS})
        (folder / "floor.py").write_text(FLOOR)
        url = f"http://127.0.0.1:{upstream}"
        stack.enter_context(
            _running([sys.executable, str(folder / "upstream.py"), str(upstream)], LOAD_CORE, {}, upstream)
        )
        stack.enter_context(_running(valkey_command(folder, port=cache), LOAD_CORE, {}, cache))
        environment = {
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
        manage = [sys.executable, "manage.py"]
        subprocess.run([*manage, "migrate", "-v0"], cwd=ROOT, env={**os.environ, **environment}, check=True)
        made = subprocess.run(
            [*manage, "shell", "-v0", "-c", SETUP.format(url=url, key=KEY)],
            cwd=ROOT, env={**os.environ, **environment}, check=True, capture_output=True, text=True,
        )  # fmt: skip
        token = made.stdout.split()[-1]
        chat = f"{url}/v1/chat/completions"
        passing = stack.enter_context(_running(
            _uvicorn("floor:application", floor), SERVER_CORE, {"UPSTREAM": chat, "PYTHONPATH": str(folder)}, floor
        ))  # fmt: skip
        serving = stack.enter_context(
            _running(_uvicorn("project.asgi:application", site), SERVER_CORE, environment, site)
        )
        bearer = {"authorization": f"Bearer {token}"}
        yield [
            Target("floor", floor, passing, "/", {}),
            Target("gateway", site, serving, "/v1/chat/completions", bearer),
            Target("gateway, translated", site, serving, "/v1/messages", bearer),
        ]


# What is measured

ASKED = {"requests": 0.25, "streams": 0.5, "translated": 0.15}


def _median(values: list[float]) -> float:
    return statistics.median(values)


async def _measure(targets: list[Target], *, rounds: int, scale: float) -> None:
    floor, gateway, translated = targets
    for target in targets:
        await _load(target, stream=False, callers=4, count=100)
        await _load(target, stream=True, callers=4, count=20)
    for name, stream, count, measured in (
        ("requests", False, 4000, targets),
        ("streams", True, 600, [floor, gateway, translated]),
    ):
        for _ in range(rounds):
            for target in measured:
                rate, cpu_us, _ = await _load(target, stream=stream, callers=50, count=int(count * scale))
                target.rates.setdefault(name, []).append(rate)
                target.cpu_us.setdefault(name, []).append(cpu_us)
        for target in measured:
            rate, cpu_us = _median(target.rates[name]), _median(target.cpu_us[name])
            by_cpu = [f / t for f, t in zip(floor.cpu_us[name], target.cpu_us[name], strict=True)]
            by_rate = _median(target.rates[name]) / _median(floor.rates[name])
            asked = {"floor": "-", "gateway": ASKED[name]}.get(target.name, ASKED["translated"])
            ratios = f"{_median(by_cpu):.2f} x the floor by CPU, {by_rate:.2f} by rate"
            print(f"  {name:<9} {target.name:<20} {rate:>7.0f}/s {cpu_us:>7.0f} us CPU   {ratios}   asked for: {asked}")
    await _latencies(floor, gateway, scale)
    print(f"  memory of the worker: {gateway.memory_mb():.0f} MB   asked for: < 200")


async def _latencies(floor: Target, gateway: Target, scale: float) -> None:
    found: dict[str, list[float]] = {"floor": [], "gateway": []}
    for _ in range(5):
        for target in (floor, gateway):
            found[target.name] += (await _load(target, stream=False, callers=1, count=int(400 * scale)))[2]
    (f50, f99), (g50, g99) = (_quantiles(found[name]) for name in ("floor", "gateway"))
    print(f"  one at a time: added p50 {g50 - f50:.2f} ms   asked for: <= 1")
    print(f"  one at a time: p99 {g99:.2f} ms, {g99 / f99:.1f} x the floor's   asked for: <= 5")
    _, _, took = await _load(gateway, stream=False, callers=50, count=int(4000 * scale))
    p50, p99 = _quantiles(took)
    print(f"  fifty at a time: p99 {p99:.1f} ms, {p99 / p50:.1f} x p50   asked for: < 3")


def _quantiles(values: list[float]) -> tuple[float, float]:
    cut = statistics.quantiles(values, n=100)
    return cut[49], cut[98]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--database", default="", help="URL of an empty database; a SQLite file without it")
    options = parser.parse_args()
    os.sched_setaffinity(0, {LOAD_CORE % (os.cpu_count() or 1)})
    with _targets(options.database) as targets:
        print(f"{options.database.partition(':')[0] or 'sqlite'}:")
        asyncio.run(_measure(targets, rounds=3 if options.quick else 9, scale=0.25 if options.quick else 1.0))


if __name__ == "__main__":
    main()
