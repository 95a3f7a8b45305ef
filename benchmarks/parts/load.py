"""Servers pinned to a core, and cheap callers: one connection each, and a request serialised once."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SERVER_CORE, LOAD_CORE = 0, 1
ASK = "Hello there, how are you today?"
BODY = {"model": "openai/gpt-4o-mini", "max_tokens": 200}


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
    model: str = BODY["model"]  # type: ignore[assignment]
    rates: dict[str, list[float]] = field(default_factory=dict)
    cpu_us: dict[str, list[float]] = field(default_factory=dict)

    def cpu_s(self) -> float:
        """From the kernel's CPU clock of that process, in nanoseconds."""
        return time.clock_gettime((~self.process.pid << 3) | 2)

    def memory_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def request(self, ask: str, *, stream: bool) -> bytes:
        asked = {**BODY, "model": self.model, "messages": [{"role": "user", "content": ask}], "stream": stream}
        body = json.dumps(asked).encode()
        lines = [f"POST {self.path} HTTP/1.1", f"host: 127.0.0.1:{self.port}", "content-type: application/json"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
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


async def load(
    target: Target, *, stream: bool, callers: int, count: int, ask: str = ASK
) -> tuple[float, float, list[float]]:
    """(requests per second, CPU of the worker in µs per request, each request's ms)"""
    request = target.request(ask, stream=stream)
    took_ms: list[float] = []
    cpu, began = target.cpu_s(), time.perf_counter()
    await asyncio.gather(*(_caller(target, request, max(count // callers, 1), took_ms) for _ in range(callers)))
    elapsed = time.perf_counter() - began
    return len(took_ms) / elapsed, (target.cpu_s() - cpu) / len(took_ms) * 1e6, took_ms


@dataclass
class Paced:
    """Result of many streams held open together."""

    whole: int = 0
    events: int = 0
    late_ms: list[float] = field(default_factory=list)
    """Delay of each event relative to the one before it, compared with the sender's interval."""
    memory_mb: list[float] = field(default_factory=list)
    """Of the worker, each second."""
    refused: int = 0
    begun: int = 0
    """Streams with a first event, or refused."""
    open_after: int | None = None
    """Number of ``memory_mb`` samples taken before all had begun."""


async def paced(target: Target, *, streams: int, events: int, pace_s: float) -> Paced:
    found = Paced()
    request = target.request(f"paced {events}", stream=True)
    watch = asyncio.create_task(_watched(target, found, streams))
    await asyncio.gather(*(_follow(target, request, found, pace_s, n / streams) for n in range(streams)))
    watch.cancel()
    return found


async def _watched(target: Target, found: Paced, streams: int) -> None:
    while True:
        found.memory_mb.append(target.memory_mb())
        if found.open_after is None and found.begun == streams:
            found.open_after = len(found.memory_mb)
        await asyncio.sleep(1)


async def _follow(target: Target, request: bytes, found: Paced, pace_s: float, wait_s: float) -> None:
    await asyncio.sleep(wait_s * 2)  # staggers the streams
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port, limit=1 << 20)
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    if b" 200 " not in head[:20]:
        found.refused += 1
        found.begun += 1
        writer.close()
        return
    last: float | None = None
    while line := await reader.readline():
        if line.startswith(b"data: [DONE]"):
            found.whole += 1
            break
        if line.startswith(b"data: "):
            now = time.perf_counter()
            found.begun += last is None
            if last is not None and b'"stop"' not in line:
                found.late_ms.append(max(now - last - pace_s, 0.0) * 1e3)
            last = now
            found.events += 1
    writer.close()


@contextmanager
def running(
    command: list[str], core: int, extra: dict[str, str], port: int, *, starts_within_s: float = 60
) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, **extra}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, {core % (os.cpu_count() or 1)}),
    )  # fmt: skip
    try:
        end = time.monotonic() + starts_within_s
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
