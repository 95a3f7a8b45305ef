"""A connection on which event loops write to SQLite without waiting for other writers or for fsync.

Waking a thread would double the cost of a write. If another writer is active, the write gives up at once; fsync is left
to the checkpoints. Like the thread's own connection it is borrowed: the lender ensures that nobody else uses it
meanwhile.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import structlog
from django.db.backends.base.base import BaseDatabaseWrapper

from llm_credentials.ledger import statements
from llm_credentials.ledger.checkpoints import HOLD_S, NET_FRAMES, Checkpoints

log = structlog.get_logger(__name__)


class DirectConnection:
    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        """For a process that has this connection, which no longer checkpoints by itself from then on.

        Raises sqlite3's errors, RuntimeError.
        """
        self._line = _another(connection, wait_s=0)
        self._checkpoints = Checkpoints(_another(connection, wait_s=HOLD_S))
        connection.connection.execute(_NET)

    def write(self, group: Sequence[statements.Expected]) -> None:
        """Write in one transaction. Raises Unlike, sqlite3's errors; nothing is written then."""
        statements.write_on(self._line, group)

    def close(self) -> None:
        self._checkpoints.close()
        self._line.close()


def opened(connection: BaseDatabaseWrapper) -> DirectConnection | None:
    """None for another engine, an in-memory database, or on failure: SQLite then checkpoints as usual."""
    if connection.vendor != "sqlite" or connection.connection is None:
        return None
    try:
        if connection.connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
            return DirectConnection(connection)
    except (sqlite3.Error, RuntimeError) as problem:  # out of file descriptors or threads
        log.error("ledger_connection_not_opened", error=type(problem).__name__)
    return None


_NET = f"PRAGMA wal_autocheckpoint = {NET_FRAMES}"


def _another(connection: BaseDatabaseWrapper, *, wait_s: float) -> sqlite3.Connection:
    """To the same file, without Django, for use on any thread. ``wait_s``: how long to wait for other writers."""
    made: sqlite3.Connection = connection.get_new_connection({**connection.get_connection_params(), "timeout": wait_s})
    made.isolation_level = None
    made.execute(_NET)
    return made
