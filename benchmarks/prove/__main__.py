"""Measures everything that Keyswitch claims: ``make prove``. Exits with 1 if any claim fails.

make prove [PART=vault|routing|gateway|load|chaos|streams] [QUICK=1]   # TEST_DATABASE=postgres: on PostgreSQL
python -m benchmarks.prove [PART …] [--quick] [--within MINUTES]

Each line is a claim with its figure, the measured value, and whether it holds. All lines go to docs/proof.md (with
--quick to .run/prove/proof.md), the other output of the parts to .run/prove/. Each step is a process with a time limit;
one that hangs is ended and fails. ``streams`` (ten minutes of five hundred open streams) runs only when named. Load and
chaos run on their own PostgreSQL.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace

from benchmarks.parts.machine import machine
from benchmarks.prove import page
from benchmarks.prove.report import Line
from benchmarks.prove.running import Step, run
from project import env


def _vault(only: str, minutes: float, limit_minutes: float) -> Step:
    return Step(
        module="benchmarks.prove.vault",
        arguments=("--only", only),
        small=("--small",),
        minutes=minutes,
        limit_minutes=limit_minutes,
    )


PARTS: dict[str, list[Step]] = {
    "gateway": [Step(module="benchmarks.prove.gateway", small=("--quick",), minutes=4, limit_minutes=10)],
    "load": [Step(module="benchmarks.prove.load", small=("--quick",), minutes=6, limit_minutes=12)],
    "routing": [
        Step(
            module="benchmarks.prove.routing",
            small=("--calls", "500", "--kills", "3"),
            minutes=5,
            limit_minutes=12,
        ),
        Step(module="benchmarks.prove.replacement", minutes=1, limit_minutes=4),
        Step(module="benchmarks.prove.outage", minutes=2, limit_minutes=5),
        Step(module="benchmarks.prove.usage", small=("--rows", "20000"), minutes=2, limit_minutes=6),
    ],
    "chaos": [
        Step(
            module="benchmarks.prove.chaos",
            arguments=("--only", only),
            small=("--quick",),
            minutes=minutes,
            limit_minutes=limit_minutes,
        )
        for only, minutes, limit_minutes in (("kills", 5, 12), ("disk", 3, 10), ("clock", 2, 7), ("network", 2, 8))
    ],
    "vault": [
        _vault("tampering", 0.5, 3),
        _vault("egress", 1, 6),
        _vault("matrix", 2, 8),
        _vault("rotation", 4, 12),
        _vault("leaks", 13, 22),
        _vault("mutations", 14, 30),
    ],
    "streams": [
        Step(
            module="benchmarks.prove.gateway",
            arguments=("--streams-minutes", "10"),
            small=("--streams-minutes", "0.5"),
            minutes=11,
            limit_minutes=16,
        )
    ],
}
"""The short ones first."""
APART = {"streams"}
WITHIN_MINUTES = 75.0
LOGS = env.RUN_DIR / "prove"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="the same with small counts: it says less")
    parser.add_argument("--within", type=float, default=WITHIN_MINUTES, help="minutes for all of it")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    chosen = [name for name in PARTS if name in options.parts or (not options.parts and name not in APART)]
    LOGS.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + options.within * 60
    found: dict[str, list[Line]] = {}
    print(f"{machine()}\n{page.commit()}", flush=True)
    for part in chosen:
        # Written after each part, so that later failures do not lose earlier results.
        found[part] = _measured(part, end, small=options.quick)
    print(_table(found))
    missed = sum(not line.holds for lines in found.values() for line in lines)
    print(f"\n{missed} fall short" if missed else "\nall of it holds")
    return 1 if missed else 0


def _measured(part: str, end: float, *, small: bool) -> list[Line]:
    """All steps of a part, each in its own process, so that none is affected by another's leftovers."""
    where, began = f"{machine()}\n{page.commit()}", time.monotonic()
    print(f"\n== {part}, about {sum(step.minutes for step in PARTS[part]):g} min at full size", flush=True)
    lines = [line for step in PARTS[part] for line in _step(step, end, small=small)]
    minutes = (time.monotonic() - began) / 60
    target = LOGS / "proof.md" if small else page.PAGE
    page.write(page.text_of({part: lines}, {part: minutes}, where), list(PARTS), target)
    print(f"   {part}: {sum(line.holds for line in lines)} of {len(lines)} hold, {minutes:.1f} min", flush=True)
    return lines


def _step(step: Step, end: float, *, small: bool) -> list[Line]:
    began, log = time.monotonic(), LOGS / f"{step.name.replace(' ', '-')}.log"
    limit_s = min(step.limit_minutes * 60, end - began)
    if limit_s < 10:
        print(f"-- {step.name}: left out", flush=True)
        return [Line(f"{step.name}: measured", "left out: no time was left", False)]
    print(f"-- {step.name}: {log}", flush=True)
    lines = run(step.command(small=small), log, limit_s, lambda text: print(text, flush=True))
    # Several steps of a part make the same claim, such as the ledger checks after each disaster.
    lines = [replace(line, claim=f"{step.name.rpartition(' ')[2]}: {line.claim}") for line in lines]
    print(f"   {time.monotonic() - began:.0f} s", flush=True)
    return lines


def _table(found: dict[str, list[Line]]) -> str:
    rows = [(part, line) for part, lines in found.items() for line in lines]
    wide = max((len(line.claim) for _, line in rows), default=0)
    return "\n" + "\n".join(
        f"{part:<8} {line.claim:<{min(wide, 100)}}  {'holds      ' if line.holds else 'FALLS SHORT'}  {line.measured}"
        for part, line in rows
    )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped")
