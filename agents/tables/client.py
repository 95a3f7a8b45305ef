"""Starts the process that reads tables, sends it files and queries, and ends it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from agents.tables.records import Given

LOAD_TIMEOUT_S: Final = 90.0
QUERY_TIMEOUT_S: Final = 15.0
GRACE_S: Final = 15.0
"""Beyond the query's own limit, for operations that cannot be interrupted."""
MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
_ROOT: Final = str(Path(__file__).resolve().parents[2])
DIED: Final = "the tables need more memory or time than they may have"


class TableProcessFailed(Exception):
    """The process died or took too long; the text says so."""


class TableProcess:
    """One process per turn, started on first use; if it dies, the next query starts another."""

    def __init__(self, files: Sequence[Given], *, query_timeout_s: float = QUERY_TIMEOUT_S) -> None:
        self.files = list(files)
        self.query_timeout_s = query_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._turn = asyncio.Lock()
        self.tables: list[dict[str, Any]] = []
        self.problems: dict[str, str] = {}
        """File → why it could not be read."""

    async def open(self) -> None:
        """Read the files; if that kills the process, one by one, so that the others are still available."""
        async with self._turn:
            try:
                await asyncio.to_thread(self._begin)
            except TableProcessFailed:
                await asyncio.to_thread(self._begin_with_sound_ones)

    async def query(self, sql: str) -> dict[str, Any]:
        """``{"columns", "rows", "more"}`` or ``{"error"}``. Raises TableProcessFailed."""
        async with self._turn:
            return await asyncio.to_thread(self._asked, sql)

    def close(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):  # unwritten data is no longer needed
                    pipe.close()

    def _begin_with_sound_ones(self) -> None:
        sound: list[Given] = []
        problems: dict[str, str] = {}
        for given in list(self.files):
            self.files = [given]
            try:
                self._begin()
                sound.append(given)
            except TableProcessFailed as failed:
                problems[given.name] = str(failed)
        self.files = sound
        try:
            self._begin()
        except TableProcessFailed as failed:
            self._leave_out(sound, str(failed))
        self.problems |= problems

    def _leave_out(self, files: Sequence[Given], why: str) -> None:
        self.files, self.tables = [], []
        self.problems |= {each.name: why for each in files}

    def _begin(self) -> None:
        self.close()
        process = subprocess.Popen(  # our own program; the files are its input
            [sys.executable, "-P", "-s", "-m", "agents.tables.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PYTHONPATH": _ROOT, "PYTHONDONTWRITEBYTECODE": "1", "TZ": "UTC"},
            cwd="/",
        )
        self._process = process
        files = [{"name": each.name, "kind": each.kind, "size_bytes": len(each.data)} for each in self.files]
        first = json.dumps({"files": files, "query_timeout_s": self.query_timeout_s}).encode() + b"\n"
        found = self._exchanged([first, *(each.data for each in self.files)], LOAD_TIMEOUT_S)
        self.tables, self.problems = found["tables"], found["problems"]

    def _asked(self, sql: str) -> dict[str, Any]:
        if self._process is None:
            self._begin()
        return self._exchanged([json.dumps({"sql": sql}).encode() + b"\n"], self.query_timeout_s + GRACE_S)

    def _exchanged(self, pieces: Sequence[bytes], timeout_s: float) -> dict[str, Any]:
        """One answer. Raises TableProcessFailed after ending the process."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        timer = threading.Timer(timeout_s, process.kill)
        timer.daemon = True
        timer.start()
        try:
            for piece in pieces:
                process.stdin.write(piece)
            process.stdin.flush()
            line = process.stdout.readline(MAX_ANSWER_BYTES)
            return dict(json.loads(line))
        except (OSError, ValueError):
            self.close()
            raise TableProcessFailed(DIED) from None
        finally:
            timer.cancel()
