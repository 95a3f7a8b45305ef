"""A connection on which event loops write to SQLite: it waits neither for other writers nor for the disk.

Waking a thread for it costs as much again. Where somebody else writes just now it gives up at once; the disk is the
checkpoints' matter. It is lent, as the thread's own connection is: whoever lends it sees to it that nobody else uses it
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
        """For a process that has this connection, which leaves checkpoints to it from now on.

        Raises sqlite3's errors, RuntimeError.
        """
        self._line = _another(connection, wait_s=0)
        self._checkpoints = Checkpoints(_another(connection, wait_s=HOLD_S))
        connection.connection.execute(_NET)

    def write(self, group: Sequence[statements.Expected]) -> None:
        """In one transaction. Raises Unlike, sqlite3's errors; nothing is written then."""
        statements.write_on(self._line, group)

    def close(self) -> None:
        self._checkpoints.close()
        self._line.close()


def opened(connection: BaseDatabaseWrapper) -> DirectConnection | None:
    """None with another database, in memory, or where something is in the way: then all is as SQLite does it itself."""
    if connection.vendor != "sqlite" or connection.connection is None:
        return None
    try:
        if connection.connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
            return DirectConnection(connection)
    except (sqlite3.Error, RuntimeError) as problem:  # no more files, or threads
        log.error("ledger_connection_not_opened", error=type(problem).__name__)
    return None


_NET = f"PRAGMA wal_autocheckpoint = {NET_FRAMES}"


def _another(connection: BaseDatabaseWrapper, *, wait_s: float) -> sqlite3.Connection:
    """To the same file, for use past Django, on any thread. ``wait_s``: for others who write."""
    made: sqlite3.Connection = connection.get_new_connection({**connection.get_connection_params(), "timeout": wait_s})
    made.isolation_level = None
    made.execute(_NET)
    return made
