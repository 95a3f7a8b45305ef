"""Tries every refused address on every surface, with a listener that must get no connection, and allowed ones that must
work.

python benchmarks/prove/egress.py
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.prove.report import Line, print_lines
from benchmarks.prove.stage import stage

# isort: split
import pytest
from django.contrib.auth.models import User
from django.test import override_settings

from llm_credentials import limits
from llm_credentials.providers import EgressBlocked, EgressPolicy
from llm_credentials.providers.fetch import FetchFailed, fetch
from llm_credentials.tests import ssrf
from llm_credentials.tests.ssrf import GOOD, VECTORS, Surfaces, Watch

NO_LIMITS: dict[str, dict[str, dict[str, str]]] = {"LLM_RATES": {kind: {} for kind in limits.KINDS}}
REDIRECTS = (301, 302, 303, 307, 308)


def lines() -> Iterator[Line]:
    with (
        stage(),
        override_settings(**NO_LIMITS),
        pytest.MonkeyPatch.context() as patch,
        ssrf.watching(patch.setattr) as watch,
    ):
        surfaces = Surfaces(User.objects.create_user("egress"))
        yield from _refused(surfaces, watch)
        yield from _good(surfaces, watch)
        yield _redirected(watch)


def _refused(surfaces: Surfaces, watch: Watch) -> Iterator[Line]:
    for name, attempt in surfaces.every().items():
        watch.forget()
        reached = []
        for vector in VECTORS:
            before = watch.dialled
            attempt(vector.replace("{port}", str(watch.port)))
            if watch.dialled != before:
                reached.append(vector)
        measured = f"{watch.dialled} of {len(VECTORS)}" + "".join(f", {vector}" for vector in reached[:5])
        yield Line(f"refused addresses dialled by {name}: 0 of at least 150", measured, watch.dialled == 0)


def _good(surfaces: Surfaces, watch: Watch) -> Iterator[Line]:
    for name, attempt in surfaces.every().items():
        passed = 0
        for address in GOOD:
            watch.forget()
            refused = attempt(address)
            passed += bool(watch.public) and not watch.private and (name == "list" or not refused)
        holds = passed == len(GOOD)
        yield Line(f"good addresses that pass {name}: {len(GOOD)}", f"{passed} of {len(GOOD)}", holds)


def _redirected(watch: Watch) -> Line:
    """Every refused address again, as the redirect target of an allowed page."""
    watch.forget()
    tried, opened = asyncio.run(_redirects(watch))
    # Each attempt connects to the allowed page itself, on this machine.
    reached = watch.accepted + len(opened)
    return Line("refused addresses reached by redirect: 0", f"{reached} of {tried}", reached == 0)


async def _redirects(watch: Watch) -> tuple[int, list[str]]:
    target = {"location": ""}

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        status = head.split(b" ")[1].strip(b"/").decode()
        location = target["location"].encode("utf-8", "surrogateescape").replace(b"\r", b"").replace(b"\n", b"")
        writer.write(b"HTTP/1.1 %s Moved\r\nlocation: %s\r\n" % (status.encode(), location))
        writer.write(b"content-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    policy = EgressPolicy(allow=[f"127.0.0.1:{port}"])
    tried, opened = 0, []
    for number, vector in enumerate(VECTORS):
        target["location"] = vector.replace("{port}", str(watch.port))
        tried += 1
        try:
            await fetch(f"http://127.0.0.1:{port}/{REDIRECTS[number % 5]}", egress=policy)
        except (EgressBlocked, FetchFailed):
            continue
        opened.append(vector)
    server.close()
    return tried, opened


if __name__ == "__main__":
    sys.exit(1 if print_lines(lines()) else 0)
