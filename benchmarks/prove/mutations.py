"""Takes each guard of ``guards.py`` out of a copy of this tree and sees which test goes red.

python -m benchmarks.prove.mutations [--only WORD] [--at-once 2]
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from benchmarks.prove.guards import GUARDS, Guard
from benchmarks.prove.report import Line, print_lines

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = shutil.ignore_patterns(
    ".venv", ".git", ".run", ".env", "*.sqlite3*", "__pycache__", ".*_cache", "node_modules"
)
LIMIT_S = 900
BASELINE_LIMIT_S = 3600
AT_ONCE = 2
_RED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Verdict:
    guard: Guard
    outcome: str
    """The test that went red; or SURVIVED, STALE (the guard is not found any more), BROKEN (nothing could be run)."""
    holds: bool


def lines(only: str = "", at_once: int = AT_ONCE) -> Iterator[Line]:
    chosen = [guard for guard in GUARDS if only in f"{guard.name} {guard.path}"]
    files = sorted({path for guard in chosen for path in guard.tests})
    with _copies(at_once) as copies:
        green = _run(copies[0], files, BASELINE_LIMIT_S)
        yield Line("nothing taken out: every test green", "green" if green == "" else green, green == "")
        caught = 0
        for verdict in _verdicts(chosen, copies):
            caught += verdict.holds
            yield Line(f"taken out: {verdict.guard.name}", verdict.outcome, verdict.holds)
    yield Line(
        f"guards whose removal turns a test red: {len(chosen)}", f"{caught} of {len(chosen)}", caught == len(chosen)
    )


@contextmanager
def _copies(count: int) -> Iterator[list[Path]]:
    with tempfile.TemporaryDirectory(prefix="keyswitch-mutations-") as directory:
        copies = [Path(directory) / str(number) for number in range(count)]
        for copy in copies:
            shutil.copytree(ROOT, copy, ignore=LEFT_OUT)
        yield copies


def _verdicts(guards: list[Guard], copies: list[Path]) -> Iterator[Verdict]:
    """As they come, one guard at a time in each copy."""
    free: SimpleQueue[Path] = SimpleQueue()
    for copy in copies:
        free.put(copy)

    def judge(guard: Guard) -> Verdict:
        copy = free.get()
        try:
            return _judge(guard, copy)
        finally:
            free.put(copy)

    with ThreadPoolExecutor(len(copies)) as pool:
        for done in as_completed(pool.submit(judge, guard) for guard in guards):
            yield done.result()


def _judge(guard: Guard, copy: Path) -> Verdict:
    file = copy / guard.path
    text = file.read_text(encoding="utf-8")
    mutated = without(text, guard)
    if mutated is None:
        return Verdict(guard, "STALE: the guard is not where guards.py says", False)
    file.write_text(mutated, encoding="utf-8")
    try:
        # One file after the other: the first red test says enough.
        for path in guard.tests:
            if red := _run(copy, [path]):
                return Verdict(guard, red, not red.startswith("BROKEN"))
    finally:
        file.write_text(text, encoding="utf-8")
    return Verdict(guard, f"SURVIVED {', '.join(guard.tests)}", False)


def without(text: str, guard: Guard) -> str | None:
    """The text without the guard; None when it is not there as often as ``guards.py`` knows."""
    pieces = text.split(guard.before)
    if len(pieces) <= guard.nth or (guard.nth == 1 and len(pieces) > 2 and (guard.path, guard.before) not in _REPEATED):
        return None
    return guard.before.join(pieces[: guard.nth]) + guard.after + guard.before.join(pieces[guard.nth :])


_REPEATED = {(guard.path, guard.before) for guard in GUARDS if guard.nth > 1}


def _run(copy: Path, paths: list[str], limit_s: float = LIMIT_S) -> str:
    """The first red test; empty when all are green."""
    command = [sys.executable, "-m", "pytest", *paths, "-q", "-x", "-p", "no:cacheprovider", "--no-header", "-rfE"]
    try:
        ended = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return f"BROKEN: not done in {limit_s:.0f} s"
    if ended.returncode == 0:
        return ""
    found = _RED.search(ended.stdout)
    if ended.returncode == 1 and found:
        return found[1]
    said = (ended.stdout + ended.stderr).strip().splitlines() or ["nothing"]
    return f"BROKEN: pytest ended with {ended.returncode}: {said[-1][:200]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="guards with this in their name or path")
    parser.add_argument("--at-once", type=int, default=AT_ONCE)
    options = parser.parse_args()
    return 1 if print_lines(lines(options.only, options.at_once)) else 0


if __name__ == "__main__":
    sys.exit(main())
