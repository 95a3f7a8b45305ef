"""Removes each guard of ``guards/`` from a copy of this tree and checks which test fails.

python -m benchmarks.prove.mutations [--only WORD …] [--at-once 2]
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from benchmarks.prove.guards import GUARDS, Guard
from benchmarks.prove.report import Line, print_lines
from benchmarks.prove.warm import Ended, Warm

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = shutil.ignore_patterns(
    ".venv", ".git", ".run", ".env", "*.sqlite3*", "__pycache__", ".*_cache", "node_modules"
)
ANY_TEST = "llm_credentials/tests/test_fields.py::test_d08_no_model_form_has_the_column"
"""A fast test that uses the database."""
LIMIT_S = 900
AGAIN_LIMIT_S = 3600
AT_ONCE = 2
_RED = re.compile(r"^FAILED (.+?)(?: - .*)?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Verdict:
    guard: Guard
    outcome: str
    """The test that failed; or SURVIVED, STALE (the guard no longer exists), BROKEN (nothing could be run)."""
    holds: bool
    took_s: float


@dataclass(frozen=True, slots=True)
class Copy:
    directory: Path
    warm: Warm


def lines(only: Sequence[str] = (), at_once: int = AT_ONCE) -> Iterator[Line]:
    chosen = [guard for guard in GUARDS if not only or any(word in f"{guard.name} {guard.path}" for word in only)]
    red: set[str] = set()
    caught = 0
    with _copies(at_once) as copies:
        for verdict in _verdicts(chosen, copies):
            caught += verdict.holds
            if verdict.holds:
                red.add(verdict.outcome)
            said = f"{verdict.outcome} ({verdict.took_s:.0f} s)"
            yield Line(f"taken out: {verdict.guard.name}", said, verdict.holds)
        # A test that also fails with the guard in place proves nothing.
        again = _outcome(copies[0].warm.run(sorted(red), AGAIN_LIMIT_S)) if red else ""
        yield Line("nothing taken out: each of these tests is green", again or "green", not again)
    yield Line(
        f"guards whose removal turns a test red: {len(chosen)}", f"{caught} of {len(chosen)}", caught == len(chosen)
    )


@contextmanager
def _copies(count: int) -> Iterator[list[Copy]]:
    with tempfile.TemporaryDirectory(prefix="keyswitch-mutations-") as name:
        copies = []
        try:
            for number in range(count):
                directory = Path(name) / str(number)
                shutil.copytree(ROOT, directory, ignore=LEFT_OUT)
                copies.append(Copy(directory, Warm(directory, Path(name) / f"scratch-{number}")))
                made = copies[-1].warm.make_database(ANY_TEST, LIMIT_S)
                if made.code:
                    raise RuntimeError(f"no database could be made: {made.said[-1000:]}")
            yield copies
        finally:
            for copy in copies:
                copy.warm.close()


def _verdicts(guards: list[Guard], copies: list[Copy]) -> Iterator[Verdict]:
    """In order of completion, one guard at a time in each copy."""
    free: SimpleQueue[Copy] = SimpleQueue()
    for copy in copies:
        free.put(copy)

    def judge(guard: Guard) -> Verdict:
        copy = free.get()
        began = time.monotonic()
        try:
            outcome, holds = _judge(guard, copy)
        finally:
            free.put(copy)
        return Verdict(guard, outcome, holds, time.monotonic() - began)

    with ThreadPoolExecutor(len(copies)) as pool:
        for done in as_completed(pool.submit(judge, guard) for guard in guards):
            yield done.result()


def _judge(guard: Guard, copy: Copy) -> tuple[str, bool]:
    file = copy.directory / guard.path
    text = file.read_text(encoding="utf-8")
    mutated = without(text, guard)
    if mutated is None:
        return "STALE: the guard is not where guards/ says", False
    file.write_text(mutated, encoding="utf-8")
    try:
        red = _outcome(copy.warm.run(guard.tests, LIMIT_S, migrate=guard.path in MAKE_THE_DATABASE))
    finally:
        file.write_text(text, encoding="utf-8")
    return (red, not red.startswith("BROKEN")) if red else (f"SURVIVED {', '.join(guard.tests)}", False)


MAKE_THE_DATABASE = ("llm_credentials/audit/guard.py",)
"""Files that migrations run."""


def without(text: str, guard: Guard) -> str | None:
    """The text without the guard; None if it does not occur as often as ``guards/`` says."""
    pieces = text.split(guard.before)
    if len(pieces) <= guard.nth or (guard.nth == 1 and len(pieces) > 2 and (guard.path, guard.before) not in _REPEATED):
        return None
    return guard.before.join(pieces[: guard.nth]) + guard.after + guard.before.join(pieces[guard.nth :])


_REPEATED = {(guard.path, guard.before) for guard in GUARDS if guard.nth > 1}


def _outcome(ended: Ended) -> str:
    """The first failing test; empty if all pass."""
    if ended.code == 0:
        return ""
    found = _RED.search(ended.said)
    if ended.code == 1 and found:
        return found[1]
    said = ended.said.strip().splitlines() or ["nothing"]
    return f"BROKEN: pytest ended with {ended.code}: {said[-1][:200]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="guards with one of these in their name or path")
    parser.add_argument("--at-once", type=int, default=AT_ONCE)
    options = parser.parse_args()
    return 1 if print_lines(lines(options.only, options.at_once)) else 0


if __name__ == "__main__":
    sys.exit(main())
