"""``make test``: all tests on SQLite, again on PostgreSQL, then the browser's in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field

from project import env
from project.env import BASE_DIR

BROWSER_TESTS = BASE_DIR / "project/tests/e2e"
NO_TESTS_FOUND = 5
"""pytest's exit code for a folder without tests."""


@dataclass
class Pass:
    name: str
    arguments: list[str]
    extra: dict[str, str] = field(default_factory=dict)
    closing_line: str = "did not run"
    code: int = 1
    seconds: float = 0

    def run(self) -> None:
        print(f"\n=== {self.name}", flush=True)
        begun = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *self.arguments],
            cwd=BASE_DIR,
            env=env.child_environment(**self.extra),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        assert process.stdout
        for line in process.stdout:
            print(line, end="", flush=True)
            if line.strip():
                self.closing_line = line.strip().strip("= ")
        self.code = process.wait()
        self.seconds = time.monotonic() - begun


def main() -> int:
    # One more than there are processors: tests wait, too, for servers and for processes that they start.
    jobs = int(env.outer("JOBS") or min((os.cpu_count() or 1) + 1, 8))
    parallel = ["-n", str(jobs), "--dist", "loadgroup"] if jobs > 1 else []
    common = ["-q", "--no-header", *parallel]
    passes = [
        Pass("SQLite", common),
        # The provider layer has no database: once is enough.
        Pass(
            "PostgreSQL",
            [*common, "-m", "not slow", "--ignore=llm_credentials/providers"],
            {"TEST_DATABASE": "postgres"},
        ),
    ]
    if any(BROWSER_TESTS.glob("test_*.py")):
        from project.tests.browser import ensure_browser

        ensure_browser()
        # The async loop of the browser's driver lives in the main thread, where Django then refuses the database.
        unguarded = {"DJANGO_ALLOW_ASYNC_UNSAFE": "true"}
        options = [*common, "-o", "addopts=-ra --strict-markers", str(BROWSER_TESTS.relative_to(BASE_DIR))]
        passes.append(Pass("Browser", options, unguarded))
    for one in passes:
        one.run()
    print()
    for one in passes:
        print(f"{one.name}: {one.closing_line} ({one.seconds:.0f} s)")
    return max(one.code for one in passes)


if __name__ == "__main__":
    sys.exit(main())
