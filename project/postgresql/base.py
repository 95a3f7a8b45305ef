"""The database engine of ``settings.DATABASES``."""

from __future__ import annotations

from typing import Any

import psycopg
from django.db.backends.postgresql import base
from psycopg_pool import ConnectionPool, PoolTimeout

from project.postgresql.answering import Connection, server

BUSY_TURNS = 10
"""A request waits at most this many times ``DATABASE_WAIT_S`` for a connection while all are busy and the server
responds.
"""


class _Psycopg:
    """The psycopg module with our connection class."""

    connect = Connection.connect

    def __getattr__(self, name: str) -> Any:
        return getattr(psycopg, name)


class DatabaseWrapper(base.DatabaseWrapper):
    Database = _Psycopg()  # type: ignore[assignment]

    def ensure_connection(self) -> None:
        """Replace a connection that the server has closed, also outside requests, where nothing else closes it."""
        if self.connection is not None and self.connection.closed and not self.in_atomic_block:
            self.close()
        super().ensure_connection()

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """After a failure, fail at once while the server is away; when it is back, check the pool's
        connections first.
        """
        if server.suspect:
            if not _is_there(conn_params):
                raise psycopg.OperationalError("the database server does not answer")
            if isinstance(pool := self.pool, ConnectionPool) and not pool.closed:
                pool.check()
            server.suspect = False
        turns = BUSY_TURNS
        while True:
            failures = server.failures
            try:
                return super().get_new_connection(conn_params)
            except psycopg.OperationalError as problem:
                turns -= 1
                # A pooler responds even if its server is gone, but connections through it fail.
                only_busy = isinstance(problem, PoolTimeout) and server.failures == failures and _is_there(conn_params)
                server.suspect |= not only_busy
                if not only_busy or turns == 0:
                    raise


def _is_there(conn_params: dict[str, Any]) -> bool:
    return server.is_there(str(conn_params.get("host", "")), int(conn_params.get("port") or 5432))
