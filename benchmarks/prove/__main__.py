"""Everything that Keyswitch claims, measured: ``make prove``. Ends with 1 if something falls short.

make prove [PART=vault|routing|gateway|load|chaos|streams]   # TEST_DATABASE=postgres: on PostgreSQL
python -m benchmarks.prove [PART …] [--small]

Each line is a claim with its figure, what was measured, and whether it holds. ``streams`` (ten minutes of five hundred
open streams) runs only when it is named. Load and chaos run on a PostgreSQL of their own.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

from benchmarks.parts.machine import machine

Command = list[str]
PARTS: dict[str, list[Command]] = {
    "vault": [["benchmarks.prove.vault"]],
    "routing": [["benchmarks.prove.routing"], ["benchmarks.prove.outage"]],
    "gateway": [["benchmarks.prove.gateway"]],
    "load": [["benchmarks.prove.load"]],
    "chaos": [["benchmarks.prove.chaos"]],
    "streams": [["benchmarks.prove.gateway", "--streams-minutes", "10"]],
}
"""Modules with their arguments; each prints its lines and ends with 1 if one falls short."""
SMALL: dict[str, list[str]] = {
    "benchmarks.prove.vault": ["--small"],
    "benchmarks.prove.routing": ["--calls", "500", "--kills", "3"],
    "benchmarks.prove.gateway": ["--quick"],
    "benchmarks.prove.load": ["--quick"],
    "benchmarks.prove.chaos": ["--quick"],
}
APART = {"streams"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--small", action="store_true", help="the same with small counts: it says less")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    print(machine(), flush=True)
    chosen = options.parts or [name for name in PARTS if name not in APART]
    short = [part for part in chosen if not _holds(part, small=options.small)]
    print(f"\nfalls short: {', '.join(short)}" if short else "\nall of it holds")
    return 1 if short else 0


def _holds(part: str, *, small: bool) -> bool:
    """All commands of a part, each in a process of its own: none meets what another left open."""
    began, held = time.monotonic(), True
    print(f"\n== {part}", flush=True)
    for module, *arguments in PARTS[part]:
        command = [sys.executable, "-m", module, *arguments, *(SMALL.get(module, []) if small else [])]
        held &= subprocess.run(command, check=False, env=dict(os.environ)).returncode == 0
    print(f"   {part}: {'holds' if held else 'falls short'}, {(time.monotonic() - began) / 60:.1f} min", flush=True)
    return held


if __name__ == "__main__":
    sys.exit(main())
