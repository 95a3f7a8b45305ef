"""Checkpoints SQLite's write-ahead log in a thread, while a process writes the ledger.

By itself SQLite does so in whichever commit makes the log a thousand pages long, and that commit waits for the disk:
one call in a hundred. Until then nothing has been told to go to the disk, for however long that is. Here it is five
times a second if anything was written, by whomever, and writers go on meanwhile.

While they never pause the log is never done with, and grows. When it is ``LONG_FRAMES`` long it begins anew, for which
writers are held up once: this thread also writes the first page of the new one, which waits for the disk too.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Final

import structlog

log = structlog.get_logger(__name__)

EVERY_S: Final = 0.2
"""One call after the other writes about a thousand pages in it, which is when SQLite would do it."""
LONG_FRAMES: Final = 8 * 1024
"""Of a page and 24 bytes each: 32 MB."""
NET_FRAMES: Final = 4 * LONG_FRAMES
"""From which on the ledger's other connections do it after all."""
NEARLY_FRAMES: Final = 500
"""So few that may still have to be copied when writers are held up."""
PATIENT_FRAMES: Final = 1000
"""By which the log grows until it is tried again, where a reader was in the way."""
HOLD_S: Final = 0.05
"""For which its connection may wait for readers, while writers are held up."""
END_S: Final = 5.0


class Checkpoints:
    """Those of one process."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """``connection``: its own, to a file with a write-ahead log."""
        self._connection = connection
        self._log = Path(f"{connection.execute('PRAGMA database_list').fetchone()[2]}-wal")
        self._long_frames = LONG_FRAMES
        self._changed_ns = 0
        self._unsure = True
        """Whether something may have been written that the file's time does not tell."""
        self._failing = False
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, name="llm-checkpoints", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """What there is goes to the disk first."""
        self._ends.set()
        self._thread.join(END_S)

    def _run(self) -> None:
        with closing(self._connection):
            while not self._ends.wait(EVERY_S):
                self._look()
            self._look()

    def _look(self) -> None:
        try:
            self._bring_in()
        except (sqlite3.Error, OSError) as problem:  # a full disk: the log stays as it is until there is room
            self._unsure = True
            if not self._failing:
                log.error("checkpoint_failed", error=type(problem).__name__)
            self._failing = True
        else:
            self._failing = False

    def _bring_in(self) -> None:
        try:
            changed_ns = self._log.stat().st_mtime_ns
        except FileNotFoundError:
            return  # nothing was written
        changed = changed_ns != self._changed_ns
        if not changed and not self._unsure:
            return
        self._changed_ns = changed_ns
        busy, frames, copied = self._checkpoint("PASSIVE")
        # The file's time moves in steps, and what another process does just now may have begun before the last write.
        self._unsure = changed or bool(busy)
        if copied < frames:
            self._sync()  # a reader of an older state kept it from being copied, and so from being synced
        if frames > self._long_frames and frames - copied < NEARLY_FRAMES:
            self._restart(frames)

    def _restart(self, frames: int) -> None:
        if self._checkpoint("RESTART")[0]:
            self._long_frames = (
                frames + PATIENT_FRAMES
            )  # a reader takes long: writers are not to be held up for nothing
        else:
            self._long_frames = LONG_FRAMES
            self._begin_anew()

    def _checkpoint(self, how: str) -> tuple[int, int, int]:
        """Whether another is at it, how many frames the log has, and how many of them are in the file."""
        busy, frames, copied = self._connection.execute(f"PRAGMA wal_checkpoint({how})").fetchone()
        return busy, frames, copied

    def _sync(self) -> None:
        # Opened past SQLite, which locks other files than this one; closing it takes no lock from this process.
        handle = os.open(self._log, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def _begin_anew(self) -> None:
        """Write something, which changes nothing: whoever writes first waits for the disk."""
        execute = self._connection.execute
        try:
            with self._connection:
                execute("BEGIN IMMEDIATE")
                execute(f"PRAGMA user_version = {execute('PRAGMA user_version').fetchone()[0]}")
        except sqlite3.OperationalError as problem:
            if problem.sqlite_errorcode != sqlite3.SQLITE_BUSY:  # somebody was quicker
                raise
