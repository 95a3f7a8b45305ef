"""Checkpoints SQLite's write-ahead log in a background thread while a process writes the ledger.

By default SQLite checkpoints in the commit that brings the log to a thousand pages, so that one call in a hundred waits
for fsync; until then nothing is synced, however long that takes. Here a passive checkpoint, which does not block
writers, runs five times a second if any process has written.

Under constant writes a passive checkpoint never lets the log restart, so it grows. At ``LONG_FRAMES`` the log is
restarted, which blocks writers once. This thread also writes the first page of the new log, because that write waits
for fsync.
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
"""A single caller writes about a thousand pages in this time, SQLite's own threshold."""
LONG_FRAMES: Final = 8 * 1024
"""A frame is a page and 24 bytes: 32 MB."""
NET_FRAMES: Final = 4 * LONG_FRAMES
"""The log length at which the ledger's other connections checkpoint after all."""
NEARLY_FRAMES: Final = 500
"""The log is restarted only if fewer frames are left to copy, so that writers are blocked briefly."""
PATIENT_FRAMES: Final = 1000
"""How much further the log grows before the next try after a reader prevented a restart."""
HOLD_S: Final = 0.05
"""How long a restart may wait for readers while it blocks writers."""
END_S: Final = 5.0


class Checkpoints:
    """The checkpoint thread of one process."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """``connection``: for this thread alone, to a file with a write-ahead log."""
        self._connection = connection
        self._log = Path(f"{connection.execute('PRAGMA database_list').fetchone()[2]}-wal")
        self._long_frames = LONG_FRAMES
        self._changed_ns = 0
        self._unsure = True
        """Whether there may have been a write that the file's modification time does not show."""
        self._failing = False
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, name="llm-checkpoints", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Runs a last checkpoint first."""
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
        except (sqlite3.Error, OSError) as problem:  # disk full: the log stays as it is until there is room
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
        # The modification time is coarse, and another process's write may have begun before the last one seen.
        self._unsure = changed or bool(busy)
        if copied < frames:
            self._sync()  # a reader's snapshot kept frames from being copied, and so from being synced
        if frames > self._long_frames and frames - copied < NEARLY_FRAMES:
            self._restart(frames)

    def _restart(self, frames: int) -> None:
        if self._checkpoint("RESTART")[0]:
            self._long_frames = frames + PATIENT_FRAMES  # a slow reader: do not block writers for nothing
        else:
            self._long_frames = LONG_FRAMES
            self._begin_anew()

    def _checkpoint(self, how: str) -> tuple[int, int, int]:
        """Whether it was blocked, the frames in the log, and the frames copied to the database file."""
        busy, frames, copied = self._connection.execute(f"PRAGMA wal_checkpoint({how})").fetchone()
        return busy, frames, copied

    def _sync(self) -> None:
        # Opened past SQLite, which locks other files than this one, so closing it drops none of the process's locks.
        handle = os.open(self._log, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def _begin_anew(self) -> None:
        """Write something that changes nothing, because the first write to a new log waits for fsync."""
        execute = self._connection.execute
        try:
            with self._connection:
                execute("BEGIN IMMEDIATE")
                execute(f"PRAGMA user_version = {execute('PRAGMA user_version').fetchone()[0]}")
        except sqlite3.OperationalError as problem:
            if problem.sqlite_errorcode != sqlite3.SQLITE_BUSY:  # another process wrote first
                raise
