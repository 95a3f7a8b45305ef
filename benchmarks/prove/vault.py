"""Measures what the vault promises: ``make prove-vault``. Exits with 1 if any claim fails.

make prove-vault                   # SQLite; TEST_DATABASE=postgres for PostgreSQL
python -m benchmarks.prove.vault [--only rotation|tampering|egress|matrix|leaks|mutations] [--small]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterable

from benchmarks.parts.machine import machine
from benchmarks.prove import egress, leaks, matrix, mutations, rotation, tampering
from benchmarks.prove.report import Line, print_lines, to_its_end


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["rotation", "tampering", "egress", "matrix", "leaks", "mutations"])
    parser.add_argument("--small", action="store_true", help="the same with small counts")
    options = parser.parse_args()
    size = rotation.Size(keys=1000, kills=5) if options.small else rotation.Size()
    parts: dict[str, Callable[[], Iterable[Line]]] = {
        "rotation": lambda: rotation.lines(size),
        "tampering": lambda: tampering.lines(100 if options.small else 1000),
        "egress": egress.lines,
        "matrix": matrix.lines,
        "leaks": lambda: leaks.lines(300 if options.small else 10_000),
        "mutations": mutations.lines,
    }
    if options.only:
        return 1 if print_lines(to_its_end(parts[options.only])) else 0
    print(machine(), flush=True)
    missed = [name for name in parts if not _alone(name, small=options.small)]
    print(f"\nfalls short: {', '.join(missed)}" if missed else "\nall of it holds")
    return 1 if missed else 0


def _alone(part: str, *, small: bool) -> bool:
    """In its own process, so that no part is affected by another's leftovers."""
    began = time.monotonic()
    print(f"\n{part}", flush=True)
    command = [sys.executable, "-m", "benchmarks.prove.vault", "--only", part, *(["--small"] if small else [])]
    code = subprocess.run(command, check=False).returncode
    print(f"        {time.monotonic() - began:.0f} s", flush=True)
    return code == 0


if __name__ == "__main__":
    sys.exit(main())
