"""A copy of this checkout in a folder of its own, and the site that ``manage.py up`` starts in it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from project.env import BASE_DIR
from project.tests.servers import free_port, wait_until

LEFT_OUT = shutil.ignore_patterns(
    ".venv",
    ".git",
    ".run",
    ".env",
    "*.sqlite3*",
    "*.pyc.*",  # one that another test process is writing
    "*-pytest-*.pyc",
    ".*_cache",
    "staticfiles",
    "node_modules",
    "test-results",
)
START_LIMIT_S = 120.0
STOP_LIMIT_S = 15.0
"""What the site promises for a stop."""


def copy_checkout(target: Path) -> Path:
    shutil.copytree(BASE_DIR, target, ignore=LEFT_OUT)
    return target


def processes_in(directory: Path) -> list[str]:
    """The command lines of all processes that work in this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            where = (process / "cwd").readlink()
            if where == directory or directory in where.parents:
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if command.strip():  # a zombie has none, and waits for nothing but its parent
                    found.append(f"{process.name} {command}")
    return found


class Site:
    """``manage.py up`` with an environment that holds nothing of this process's."""

    def __init__(self, directory: Path, port: int | None = None) -> None:
        self.directory = directory
        self.port = port or free_port()
        self.out = directory.parent / f"{directory.name}-{self.port}.out"
        self.process: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        with self.out.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "up"],
                cwd=self.directory,
                env=bare_environment(PORT=str(self.port)),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def start(self) -> None:
        self.begin()
        self.wait_ready()

    def wait_ready(self) -> None:
        wait_until(lambda: self.ended or "Ctrl-C stops" in self.said, f"the start of {self.directory}", START_LIMIT_S)
        if self.ended:
            raise AssertionError(f"it ended instead of starting:\n{self.said}")

    @property
    def ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    @property
    def said(self) -> str:
        return self.out.read_text()

    def get(self, path: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
        return answer.status, json.loads(body) if body[:1] == b"{" else body

    def send(self, number: signal.Signals) -> None:
        assert self.process
        self.process.send_signal(number)

    def wait_end(self, limit_s: float = STOP_LIMIT_S) -> int:
        assert self.process
        return self.process.wait(limit_s)

    def manage(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another command in the same checkout, with nothing but its files to go by."""
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=self.directory,
            env=bare_environment(),
            capture_output=True,
            text=True,
            timeout=60,
        )

    def wipe_out(self) -> None:
        """For a test that failed half-way."""
        if not self.ended:
            self.send(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.wait_end(STOP_LIMIT_S + 5)
        for line in processes_in(self.directory):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(line.split()[0]), signal.SIGKILL)


def bare_environment(**extra: str) -> dict[str, str]:
    return {"PATH": os.defpath, "HOME": str(Path.home()), "LANG": "C.UTF-8", **extra}
