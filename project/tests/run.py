"""``make test``: all tests on SQLite, again on PostgreSQL, then the browser tests in their own process.

If only a few tests fail, they are run once more alone. Those that pass then are listed at the end as unsteady: the
machine was too busy, or they found a rare race. Either is a fault to fix, but must not block others.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field

from project import env
from project.env import BASE_DIR
from project.tests.template import FOLDER, folder_of_the_run

BROWSER_TESTS = BASE_DIR / "project/tests/e2e"
FAILED_BEFORE = BASE_DIR / ".pytest_cache" / "v" / "cache" / "lastfailed"
TESTS_FAILED = 1
"""pytest's exit code."""
AGAIN_MAX = 3
"""More failures at once are no coincidence."""
PASS_LIMIT_S = 40 * 60.0
"""For hangs that the time limit of a single test cannot end."""


@dataclass
class Pass:
    name: str
    arguments: list[str]
    extra: dict[str, str] = field(default_factory=dict)
    closing_line: str = "did not run"
    code: int = 1
    seconds: float = 0
    unsteady: list[str] = field(default_factory=list)

    def run(self) -> None:
        begun = time.monotonic()
        print(f"\n=== {self.name}", flush=True)
        self.code = self._run("--cache-clear")
        if self.code == TESTS_FAILED and 0 < len(failed := _failed()) <= AGAIN_MAX:
            print(f"\n=== {self.name}: what failed, by itself", flush=True)
            among_others = self.closing_line
            self.code = self._run("-n", "0", "--last-failed", "--last-failed-no-failures", "none")
            self.closing_line = f"{among_others}; by itself: {self.closing_line}"
            self.unsteady = [] if self.code else failed
        self.seconds = time.monotonic() - begun

    def _run(self, *how: str) -> int:
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *self.arguments, *how],
            cwd=BASE_DIR,
            env=env.child_environment(**self.extra),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # so that everything it started can be ended with it
        )
        limit = threading.Timer(PASS_LIMIT_S, self._end, [process])
        limit.daemon = True
        limit.start()
        try:
            self._read(process)
        except KeyboardInterrupt:
            os.killpg(process.pid, signal.SIGINT)
            self._read(process)
            raise
        finally:
            limit.cancel()
        return process.wait()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout
        for line in process.stdout:
            print(line, end="", flush=True)
            if line.strip():
                self.closing_line = line.strip().strip("= ")

    def _end(self, process: subprocess.Popen[str]) -> None:
        print(f"\n=== {self.name}: ended, after {PASS_LIMIT_S / 60:.0f} minutes it was not over", flush=True)
        os.killpg(process.pid, signal.SIGKILL)


def _failed() -> list[str]:
    """Names of the tests that failed in the last run; empty if it broke off before any ran."""
    try:
        return sorted(json.loads(FAILED_BEFORE.read_text()))
    except (OSError, ValueError):
        return []


def _side_by_side(jobs: int) -> list[str]:
    """Tests are distributed one by one, so that all processes end at about the same time."""
    return ["-n", str(jobs), "--dist", "load", "--maxschedchunk", "1"] if jobs > 1 else []


def main() -> int:
    # One more than there are processors: tests also wait for servers and for processes that they start.
    jobs = int(env.outer("JOBS") or min((os.cpu_count() or 1) + 1, 8))
    common = ["-q", "--no-header"]
    passes = [
        Pass("SQLite", [*common, *_side_by_side(jobs)]),
        # The provider layer has no database: once is enough.
        Pass(
            "PostgreSQL",
            [*common, *_side_by_side(jobs), "-m", "not slow", "--ignore=llm_credentials/providers"],
            {"TEST_DATABASE": "postgres"},
        ),
    ]
    if any(BROWSER_TESTS.glob("test_*.py")):
        from project.tests.browser import ensure_browser

        ensure_browser()
        # The async loop of the browser's driver lives in the main thread, where Django then refuses the database.
        unguarded = {"DJANGO_ALLOW_ASYNC_UNSAFE": "true"}
        options = ["-o", "addopts=-ra --strict-markers", str(BROWSER_TESTS.relative_to(BASE_DIR))]
        # More processes than for other tests, because each mostly waits for its browser.
        many = _side_by_side(jobs + 1 if jobs > 1 else 1)
        passes.append(Pass("Browser", [*common, *many, *options], unguarded))
    with folder_of_the_run() as folder:
        for one in passes:
            one.extra[FOLDER] = folder
            one.run()
    print()
    for one in passes:
        print(f"{one.name}: {one.closing_line} ({one.seconds:.0f} s)")
        for name in one.unsteady:
            print(f"  unsteady, to be mended: {name}")
    return int(any(one.code for one in passes))  # negative if killed by a signal


if __name__ == "__main__":
    sys.exit(main())
