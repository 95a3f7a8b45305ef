"""Checks the gateway's cost claims, beside a minimal gateway: CPU, delay, memory, streams held open.

make prove PART=gateway | PART=streams        # TEST_DATABASE=postgres for PostgreSQL
python -m benchmarks.prove.gateway [--quick] [--streams-minutes 10]

CPU ratios are medians of alternating rounds and carry over to other machines; delays are judged as ratios if the claim
is one. Judges the figures of ``benchmarks/gateway.py``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks import gateway
from benchmarks.parts.load import LOAD_CORE, Target, load, paced
from benchmarks.parts.upstream import PACE_S
from benchmarks.prove.report import Line, print_lines, to_its_end
from project import env

AT_LEAST = {"requests": 0.25, "streams, apart": 0.5}
"""Share of the floor's performance, by CPU."""
TRANSLATED_AT_LEAST = 0.15
MEMORY_LIMIT_MB = 200
ADDED_P50_LIMIT_MS = 1.0
P99_LIMIT = 5.0
"""Times the floor's, one call at a time."""
BUSY_P99_LIMIT = 3.0
"""Times p50, fifty calls at a time."""


def lines(*, quick: bool = False) -> Iterator[Line]:
    with _targets() as targets:
        rounds, scale = (3, 0.25) if quick else (9, 1.0)
        for target in targets:
            asyncio.run(_warm(target))
        for name, stream, count, ask in gateway.KINDS:
            if name in AT_LEAST:
                ratios = asyncio.run(_ratios(targets, stream, int(count * scale), ask, rounds))
                yield from _judged(name, ratios)
        yield from asyncio.run(_delays(targets[0], targets[1], scale))
        memory = targets[1].memory_mb()
        yield Line(f"memory of the worker: < {MEMORY_LIMIT_MB} MB", f"{memory:.0f} MB", memory < MEMORY_LIMIT_MB)


@contextmanager
def _targets() -> Iterator[list[Target]]:
    named = "postgres" if env.outer("TEST_DATABASE") == "postgres" else ""
    with gateway._database(named) as database, gateway._targets(database, with_peers=False) as targets:
        yield targets


async def _warm(target: Target) -> None:
    await load(target, stream=False, callers=4, count=400)
    await load(target, stream=True, callers=4, count=44)


async def _ratios(targets: list[Target], stream: bool, count: int, ask: str, rounds: int) -> dict[str, list[float]]:
    """The floor's CPU per call divided by the target's: 1 is as cheap as the floor."""
    found: dict[str, list[float]] = {target.name: [] for target in targets[1:]}
    for _ in range(rounds):
        cpu = {}
        for target in targets:
            _, cpu[target.name], _ = await load(target, stream=stream, callers=50, count=count, ask=ask)
        for name, ratios in found.items():
            ratios.append(cpu["floor"] / cpu[name])
    return found


def _judged(kind: str, ratios: dict[str, list[float]]) -> Iterator[Line]:
    for name, found in ratios.items():
        middle = statistics.median(found)
        least = AT_LEAST[kind] if name == "gateway" else TRANSLATED_AT_LEAST
        measured = f"{middle:.3f} ({min(found):.3f} to {max(found):.3f})"
        yield Line(f"{kind}, {name}, of the floor by CPU: >= {least:g}", measured, middle >= least)


async def _delays(floor: Target, target: Target, scale: float) -> Iterator[Line]:
    alone: dict[str, list[float]] = {floor.name: [], target.name: []}
    added: list[float] = []
    for _ in range(20):
        middles = []
        for each in (floor, target):
            took = (await load(each, stream=False, callers=1, count=max(20, int(100 * scale))))[2]
            alone[each.name] += took
            middles.append(statistics.median(took))
        added.append(middles[1] - middles[0])
    p50, f99, g99 = statistics.median(added), *(gateway._quantiles(alone[each.name])[1] for each in (floor, target))
    _, _, busy = await load(target, stream=False, callers=50, count=int(4000 * scale))
    b50, b99 = gateway._quantiles(busy)
    return iter(
        [
            Line(f"added p50, one at a time: <= {ADDED_P50_LIMIT_MS:g} ms", f"{p50:.2f} ms", p50 <= ADDED_P50_LIMIT_MS),
            Line(f"p99, one at a time: <= {P99_LIMIT:g} x the floor's", f"{g99 / f99:.1f} x", g99 / f99 <= P99_LIMIT),
            Line(
                f"p99, fifty at a time: <= {BUSY_P99_LIMIT:g} x p50", f"{b99 / b50:.1f} x", b99 / b50 <= BUSY_P99_LIMIT
            ),
        ]
    )


def streams(minutes: float) -> Iterator[Line]:
    """Five hundred at once, each with an event every half second."""
    with _targets() as targets:
        target, events = targets[1], int(minutes * 60 / PACE_S)
        asyncio.run(_warm(target))
        found = asyncio.run(paced(target, streams=gateway.STREAMS, events=events, pace_s=PACE_S))
    memory = found.memory_mb
    # From when all streams are open; in the last seconds they end.
    opened = found.open_after or 0
    begin, end = statistics.median(memory[opened : opened + 3]), statistics.median(memory[-10:-4])
    grown, limit = end / begin - 1, gateway.GROWTH_LIMIT
    whole = f"{found.whole} of {gateway.STREAMS}, {found.events:,} events"
    yield Line(f"streams that end whole after {minutes:g} min: all", whole, found.whole == gateway.STREAMS)
    measured = f"{grown:+.1%}, {begin:.0f} to {end:.0f} MB"
    yield Line(f"memory of the worker grows meanwhile by <= {limit:.0%}", measured, grown <= limit)
    most = max(memory)
    yield Line(f"memory at most: < {MEMORY_LIMIT_MB} MB", f"{most:.0f} MB", most < MEMORY_LIMIT_MB)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three short rounds instead of nine")
    parser.add_argument("--streams-minutes", type=float, default=0.0, help="only streams that are open for so long")
    options = parser.parse_args()
    os.sched_setaffinity(0, {LOAD_CORE % (os.cpu_count() or 1)})
    if options.streams_minutes:
        return 1 if print_lines(to_its_end(lambda: streams(options.streams_minutes))) else 0
    return 1 if print_lines(to_its_end(lambda: lines(quick=options.quick))) else 0


if __name__ == "__main__":
    sys.exit(main())
