"""The database engine of ``settings.DATABASES``."""

from __future__ import annotations

from typing import Any

import psycopg
from django.db.backends.postgresql import base
from psycopg_pool import ConnectionPool, PoolTimeout

from project.postgresql.answering import Connection, server

BUSY_TURNS = 10
"""So many times ``DATABASE_WAIT_S`` a request waits for a connection while all are at work and the server is there."""


class _Psycopg:
    """The module, with our kind of connection."""

    connect = Connection.connect

    def __getattr__(self, name: str) -> Any:
        return getattr(psycopg, name)


class DatabaseWrapper(base.DatabaseWrapper):
    Database = _Psycopg()  # type: ignore[assignment]

    def ensure_connection(self) -> None:
        """A connection that the server has ended is no connection, also where no request ends that would close it."""
        if self.connection is not None and self.connection.closed and not self.in_atomic_block:
            self.close()
        super().ensure_connection()

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """After a failure nobody waits for a server that is not there; once it is, the pool's connections are tried."""
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
                # A pooler answers for a server that is gone; connections through it fail all the same.
                only_busy = isinstance(problem, PoolTimeout) and server.failures == failures and _is_there(conn_params)
                server.suspect |= not only_busy
                if not only_busy or turns == 0:
                    raise


def _is_there(conn_params: dict[str, Any]) -> bool:
    return server.is_there(str(conn_params.get("host", "")), int(conn_params.get("port") or 5432))
