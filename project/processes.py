"""Child processes that end with their parent, and a parent that hears signals while it waits."""

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
    """Let the kernel kill this process when its parent, of that process id, dies; Linux only, elsewhere nothing."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the kernel was told
        os._exit(1)


class ChildStopped(RuntimeError):
    """A child ended that should run; the message says which and shows the last lines of its log."""


@dataclass
class Child:
    """One process of the site, in a session of its own: a Ctrl-C in the terminal reaches the parent alone."""

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
        """After its end; the log goes on where it broke off."""
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
        """How it ended, in words."""
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
        """End the child and whatever it left in its session."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _short(path: Path) -> str:
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


def stop_together(children: Iterable[Child], steps: Sequence[tuple[signal.Signals, float]]) -> None:
    """Send each step's signal and give them its seconds to end; what still runs after the last step is killed."""
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
    """Somebody asked this process to stop: Ctrl-C, SIGTERM, or the terminal went away."""


class Signals:
    """Waits without polling; a request to stop raises Interrupted from the wait, and once only."""

    STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._asked = False
        for number in self.STOPPING:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup means it
                signal.signal(number, self._note)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)  # only wakes the wait
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def check(self) -> None:
        if self._asked:
            self._asked = False
            raise Interrupted

    def wait(self, limit_s: float) -> None:
        """Until a signal comes, a child ends or the time is over."""
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
