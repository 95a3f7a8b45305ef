"""Failures without a killed process: a full disk, a clock that jumps, a bad network. Parts of the chaos proof, with the
same checks at the end.

Parts that need missing rights (mounting a small disk) or a compiler (the clock) are skipped and say so.
"""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.parts.clock import ShiftedClock
from benchmarks.parts.mixed import Mixed, Told
from benchmarks.parts.site import Person, Site, running_site
from benchmarks.parts.wire import Wire
from benchmarks.prove.chaos import BACK_LIMIT_S, afterwards, works_again
from benchmarks.prove.report import Line

DISK_MB = 400
SHIFTS_S = {"an hour on": 3600.0, "an hour back again": 0.0, "two hours before that": -7200.0, "a day on": 86_400.0}


def _load(site: Site, people: list[Person], until: Callable[[], Awaitable[None]]) -> Told:
    async def run() -> Told:
        return await Mixed(site, people).run(until)

    return asyncio.run(run())


def _people(site: Site) -> list[Person]:
    return site.people([f"chaos-{number}" for number in range(12)])


# A full disk


@contextmanager
def _small_disk() -> Iterator[Path | None]:
    """None if mounting is not permitted."""
    with tempfile.TemporaryDirectory(prefix="ks-") as folder:
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=755", "tmpfs", folder]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            yield None
            return
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=False)


def disk() -> Iterator[Line]:
    """Database, logs and the queue's file are on one disk, which is filled and freed again."""
    for engine in ("PostgreSQL", "SQLite"):
        with _small_disk() as home:
            if home is None:
                print("          a full disk: left out, nothing may be mounted here", flush=True)
                return
            with running_site(webs=1, workers=1, home=home, sqlite=engine == "SQLite") as site:
                yield from _full(site, home, engine)


def _full(site: Site, home: Path, engine: str) -> Iterator[Line]:
    at_work: list[Mixed] = []
    people, waits, full = _people(site), [0.0], dict[str, Counter[int]]()
    restarts = [0]

    async def filling() -> None:
        await asyncio.sleep(3)
        _fill(home / "ballast")
        before, restarts[0] = {name: Counter(seen) for name, seen in at_work[0].told.statuses.items()}, site.restarts
        await asyncio.sleep(8)
        full.update({name: seen - before.get(name, Counter()) for name, seen in at_work[0].told.statuses.items()})
        restarts[0] = site.restarts - restarts[0]
        (home / "ballast").unlink()
        waits[0] = await works_again(site, people[0])
        await asyncio.sleep(3)

    async def run() -> Told:
        at_work.append(Mixed(site, people))
        return await at_work[0].run(filling)

    told = asyncio.run(run())
    print(f"disk full under {engine}: " + ", ".join(f"{name} {dict(seen)}" for name, seen in sorted(full.items())))
    yield Line(f"processes that a full disk ends ({engine}): 0", str(restarts[0]), restarts[0] == 0)
    again = waits[0] <= BACK_LIMIT_S
    yield Line(f"works again once there is room: <= {BACK_LIMIT_S:.0f} s", f"{waits[0]:.1f} s", again)
    yield from afterwards(site, told)


def _fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


# A clock that jumps


def clock() -> Iterator[Line]:
    with tempfile.TemporaryDirectory(prefix="ks-") as folder:
        try:
            shifted = ShiftedClock(Path(folder))
        except (OSError, subprocess.CalledProcessError):
            print("          a clock that jumps: left out, there is no C compiler", flush=True)
            return
        with running_site(extra=shifted.variables) as site:
            people, waits = _people(site), dict[str, float]()

            async def jumping() -> None:
                await asyncio.sleep(3)
                for name, seconds in SHIFTS_S.items():
                    shifted.set(seconds)
                    waits[name] = await works_again(site, people[0])
                    await asyncio.sleep(4)
                shifted.set(0.0)
                await asyncio.sleep(3)

            told = _load(site, people, jumping)
            print(
                "clock set while all of it runs: " + ", ".join(f"{name} {took:.1f} s" for name, took in waits.items())
            )
            slowest = max(waits.values())
            yield Line(
                f"works on after each jump: <= {BACK_LIMIT_S:.0f} s", f"{slowest:.1f} s", slowest <= BACK_LIMIT_S
            )
            yield from afterwards(site, told)


# A bad network


def network(seconds: float = 30.0) -> Iterator[Line]:
    """Between the site and its provider, and between the site and Valkey. PostgreSQL uses its socket."""
    wires = {"sandbox": Wire(0, delay_s=0.08, cut=0.03), "valkey": Wire(0, delay_s=0.01, cut=0.02)}
    with running_site(wires=wires) as site:
        people = _people(site)
        began = time.monotonic()
        told = _load(site, people, lambda: asyncio.sleep(seconds))
        cuts = {name: f"{wire.cuts} cuts in {wire.connections} connections" for name, wire in wires.items()}
        print(f"bad lines for {time.monotonic() - began:.0f} s: {cuts}")
        for surface, seen in sorted(told.statuses.items()):
            print(f"          {surface}: {dict(sorted(seen.items()))}", flush=True)
        for wire in wires.values():
            wire.cut = 0.0  # everything that was accepted must finish once the lines hold; they stay slow
        yield from afterwards(site, told, cuts=wires["sandbox"].cuts)
