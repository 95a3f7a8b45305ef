"""Runs one step of the proof in its own process, with a time limit, and cleans up however it ends."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

from benchmarks.prove.report import Line, line_in
from project import env

GRACE_S = 60.0
"""Time after the first signal in which a step stops what it has started."""
LOOK_EVERY_S = 0.05
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A module whose ``main`` prints lines and exits with 1 if one fails."""

    module: str
    arguments: tuple[str, ...] = ()
    small: tuple[str, ...] = ()
    """Extra arguments: the same claims with small counts."""
    minutes: float
    """Usual duration on two idle processors."""
    limit_minutes: float
    """Time limit: the step hangs, or the machine is far too busy."""

    @property
    def name(self) -> str:
        return " ".join((self.module.rpartition(".")[2], *(word.removeprefix("--") for word in self.arguments)))

    def command(self, *, small: bool) -> list[str]:
        return [sys.executable, "-m", self.module, *self.arguments, *(self.small if small else ())]


@dataclass
class _Heard:
    lines: list[Line] = field(default_factory=list)
    last: str = ""


def run(command: list[str], log: Path, limit_s: float, say: Callable[[str], None]) -> list[Line]:
    """The step's lines, and a failing line if it did not finish.

    Its output is also written to ``log``, its errors only to a file beside it.
    """
    before, errors = adopt_orphans(), log.with_suffix(".errors")
    with _folder() as folder, log.open("w", encoding="utf-8") as out, errors.open("w", encoding="utf-8") as err:
        out.write(f"$ {' '.join(command[1:])}\n")
        process = subprocess.Popen(
            command, cwd=env.BASE_DIR, env=env.child_environment(TMPDIR=str(folder), PYTHONUNBUFFERED="1"),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=err, text=True, errors="replace",
            start_new_session=True,
        )  # fmt: skip
        heard = _Heard()
        assert process.stdout is not None
        reader = threading.Thread(target=_read, args=(process.stdout, out, heard, say), daemon=True)
        reader.start()
        code: int | None = None
        try:
            code = _wait(process, limit_s, before)
        finally:
            stop(process, before)
            end_orphans(before)
            reader.join(5)
            _forget_databases(process.pid)
    if (fault := _fault(code, heard, errors, limit_s)) is not None:
        heard.lines.append(Line("measured to its end", fault[:300], False))
    return heard.lines


def _fault(code: int | None, heard: _Heard, errors: Path, limit_s: float) -> str | None:
    """How it ended, unless properly: with 0, or with 1 after a line that does not hold."""
    last = heard.last or "nothing"
    if code is None:
        return f"stopped after {limit_s / 60:.0f} min; the last that it said: {last}"
    if code not in (0, 1):
        return f"ended with {code}; the last that it said: {last}"
    if code == 1 and all(line.holds for line in heard.lines):
        return f"broke off: {_last_words(errors)}"
    return None if heard.lines else "it said nothing"


def _read(pipe: IO[str], out: IO[str], heard: _Heard, say: Callable[[str], None]) -> None:
    for text in pipe:
        out.write(text)
        out.flush()
        say(text.rstrip("\n"))
        heard.last = text.strip() or heard.last
        if (line := line_in(text.rstrip("\n"))) is not None:
            heard.lines.append(line)


def _last_words(errors: Path) -> str:
    said = [text for text in errors.read_text(encoding="utf-8", errors="replace").splitlines() if text.strip()]
    return said[-1].strip() if said else "nothing was said"


# The end


def _wait(process: subprocess.Popen[str], limit_s: float, before: set[int]) -> int | None:
    """Its exit code; None if it still runs. Reaps orphans that end meanwhile: otherwise a killed server would remain as
    a zombie, and look alive to code that checks its process.
    """
    end = time.monotonic() + limit_s
    while (code := process.poll()) is None and time.monotonic() < end:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                if ended.si_pid == process.pid or ended.si_pid in before:
                    break
                os.waitpid(ended.si_pid, 0)
        time.sleep(LOOK_EVERY_S)
    return code


def stop(process: subprocess.Popen[str], before: set[int]) -> None:
    """Like Ctrl-C, so that it stops what it has started; then kills what is left."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    if _wait(process, GRACE_S, before) is None:
        _kill(psutil.Process(process.pid))
        process.wait()


def _kill(head: psutil.Process) -> None:
    with contextlib.suppress(psutil.Error):
        for each in (*head.children(recursive=True), head):
            with contextlib.suppress(psutil.Error):
                each.kill()


def end_orphans(before: set[int]) -> None:
    """Kill children adopted since; they may still hold the step's pipe."""
    for orphan in psutil.Process().children():
        if orphan.pid not in before:
            _kill(orphan)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(orphan.pid, 0)


@contextmanager
def _folder() -> Iterator[Path]:
    """For temporary files; removed even if the step itself was killed."""
    # Short: the paths of sockets below it may have no more than 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="kp-"))
    try:
        yield folder
    finally:
        for mount in psutil.disk_partitions(all=True):
            if mount.mountpoint.startswith(f"{folder}/"):
                subprocess.run(["umount", "--lazy", mount.mountpoint], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def adopt_orphans() -> set[int]:
    """Make orphaned descendants children of this process (Linux only); returns its current children."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    return {child.pid for child in psutil.Process().children()}


def _forget_databases(process_id: int) -> None:
    """PostgreSQL's files of a step that could not remove them itself."""
    for folder in env.RUN_DIR.glob(f"*pg-{process_id}"):
        shutil.rmtree(folder, ignore_errors=True)
