"""Child processes that end with their parent, and a parent that handles signals while it waits."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Literal

PR_SET_PDEATHSIG = 1
TAIL_LINES = 12


def parent_id() -> int:
    return os.getppid()


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent, with this process id, dies. Linux only; no
    effect elsewhere.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent died before prctl took effect
        os._exit(1)


class ChildStopped(RuntimeError):
    """A child ended unexpectedly; the message names it and shows the last lines of its log."""


@dataclass
class Child:
    """One process of the site, in its own session, so that Ctrl-C in the terminal reaches only the parent."""

    name: str
    command: Sequence[str]
    log: Path
    env: Mapping[str, str]
    cwd: Path
    pass_fds: Collection[int] = ()
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self._start("wb")

    def start_again(self) -> None:
        """Restart it after its end, appending to its log."""
        self.kill_all()
        self._start("ab")

    def _start(self, mode: Literal["wb", "ab"]) -> None:
        parent = os.getpid()
        with self.log.open(mode) as out:
            self.process = subprocess.Popen(  # noqa: S603
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=dict(self.env),
                cwd=self.cwd,
                start_new_session=True,
                pass_fds=self.pass_fds,
                preexec_fn=lambda: die_with_parent(parent),
            )

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def check(self) -> None:
        """Raises ChildStopped."""
        if not self.running:
            raise ChildStopped(f"{self.end()}. The end of {_short(self.log)}:\n{self.tail()}")

    def end(self) -> str:
        """Describes how it ended."""
        code = self.process.returncode
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        return f"The {self.name} stopped ({how})"

    def tail(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
        return "\n".join(f"  {line}" for line in lines) or "  (it wrote nothing)"

    def send(self, number: signal.Signals) -> None:
        if self.running:
            self.process.send_signal(number)

    def kill_all(self) -> None:
        """Kill the child and everything else in its session."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _short(path: Path) -> str:
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


def stop_together(children: Iterable[Child], steps: Sequence[tuple[signal.Signals, float]]) -> None:
    """Send each step's signal and wait up to its seconds; children that still run after the last step are killed."""
    children = list(children)
    for number, patience_s in steps:
        for child in children:
            child.send(number)
        end = time.monotonic() + patience_s
        while any(child.running for child in children) and time.monotonic() < end:
            time.sleep(0.05)
    for child in children:
        child.kill_all()


class Interrupted(BaseException):
    """Request to stop this process: Ctrl-C, SIGTERM, or a closed terminal."""


class Signals:
    """Waits without polling; a request to stop raises Interrupted from the wait, once only."""

    STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._asked = False
        for number in self.STOPPING:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
                signal.signal(number, self._note)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)  # only interrupts the wait
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def check(self) -> None:
        if self._asked:
            self._asked = False
            raise Interrupted

    def wait(self, limit_s: float) -> None:
        """Until a signal arrives, a child ends or the time is over."""
        self.check()
        if select.select([self._reader], [], [], limit_s)[0]:
            os.read(self._reader, 512)
        self.check()

    def wait_until(self, true: Callable[[], bool], children: Iterable[Child], limit_s: float, what: str) -> None:
        """Raises ChildStopped, TimeoutError or Interrupted."""
        end = time.monotonic() + limit_s
        while not true():
            for child in children:
                child.check()
            if time.monotonic() > end:
                raise TimeoutError(f"{what} did not happen within {limit_s:.0f} s")
            self.wait(0.2)
