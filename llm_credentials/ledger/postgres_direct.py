"""A PostgreSQL query whose response the event loop reads itself.

Sending and reading on the calling loop avoids waking a thread, which on one core costs more than the rest of the write.
The connection is borrowed: the lender ensures that nobody else uses it meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from llm_credentials.ledger import statements

if TYPE_CHECKING:
    from psycopg import Connection

Landed: TypeAlias = Callable[[Exception | None], None]


class Query:
    """Calls ``landed`` on the loop once the response is complete, with psycopg's error if there was one."""

    __slots__ = ("_landed", "_problem", "_socket", "_unsent", "connection", "loop")

    def __init__(self, connection: Connection[Any], message: bytes, landed: Landed) -> None:
        """Sends the message. Raises psycopg's errors; no query is running then."""
        self.connection = connection
        self.loop = asyncio.get_running_loop()
        self._landed = landed
        self._problem: Exception | None = None
        server = connection.pgconn
        self._socket = server.socket
        self.loop.add_reader(self._socket, self._read)
        try:
            server.send_query(message)
            self._unsent = bool(server.flush())
        except Exception:
            self.loop.remove_reader(self._socket)
            raise
        if self._unsent:
            self.loop.add_writer(self._socket, self._write)

    def take_over(self) -> Exception | None:
        """Wait for the response in this thread after the loop was closed. Returns the error, if there was one."""
        import psycopg

        try:
            statements.finish(self.connection)
        except psycopg.Error as problem:
            self._problem = self._problem or problem
        return self._problem

    # On the loop

    def _read(self) -> None:
        import psycopg

        server = self.connection.pgconn
        try:
            server.consume_input()
            while not server.is_busy():
                result = server.get_result()
                if result is None:
                    break
                self._problem = self._problem or statements.problem_of(result)
            else:
                return
        except psycopg.Error as problem:
            self._problem = problem
        self.loop.remove_reader(self._socket)
        if self._unsent:
            self.loop.remove_writer(self._socket)
        self._landed(self._problem)

    def _write(self) -> None:
        import psycopg

        try:
            if self.connection.pgconn.flush():
                return
        except psycopg.Error:
            pass  # reading reports the error
        self._unsent = False
        self.loop.remove_writer(self._socket)
