"""Runs SQL without the overhead of Django's cursors, because the ledger writes before every call.

Inside an open transaction statements still go through Django, so that its nesting rules apply.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias
from uuid import UUID

import orjson
from django.db import DEFAULT_DB_ALIAS, connections
from django.db import transaction as django_transaction

from llm_credentials.wall.statements import opening_statement

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.pq.abc import PGresult


class Each(NamedTuple):
    """Executes once for each of these rows, on SQLite; the values are ``?1``, ``?2`` and so on."""

    sql: str
    rows: Sequence[Sequence[Any]]


Statement: TypeAlias = tuple[str, Sequence[Any]] | Each
"""SQL with ``%s`` for each value."""
Expected: TypeAlias = tuple[Statement, int | None]
"""A statement and how many rows it must affect, if that matters."""


class Runner(Protocol):
    """Executes statements in its transaction."""

    def run(self, *statements: Statement) -> list[int]:
        """Returns how many rows each statement affected."""

    def row(self, statement: Statement) -> tuple[Any, ...]: ...


@contextmanager
def transaction() -> Iterator[Runner]:
    """Commits everything executed inside, or nothing. Raises Django's database errors."""
    connection = connections[DEFAULT_DB_ALIAS]  # ``django.db.connection`` looks it up on each access
    connection.ensure_connection()
    if connection.in_atomic_block:
        with django_transaction.atomic(), connection.cursor() as cursor:
            yield _One(cursor)
        return
    with connection.wrap_database_errors:
        runner = _Joined(connection.connection) if _on_postgresql() else _One(connection.connection)
        runner.begin()
        try:
            yield runner
            runner.end("COMMIT")  # a deferred foreign key fails only here, and leaves the transaction open
        except BaseException:
            with suppress(Exception):  # the original error matters more
                runner.end("ROLLBACK")
            raise


class Unlike(Exception):
    """A statement affected an unexpected number of rows, and nothing was written."""


def write(by_step: Callable[[], Sequence[Expected]], at_once: Callable[[], Statement]) -> None:
    """Run the statements of ``by_step`` in one transaction, or on PostgreSQL the equivalent single ``at_once``.

    Raises Unlike, Django's database errors.
    """
    connection = connections[DEFAULT_DB_ALIAS]
    connection.ensure_connection()
    if (server := own_connection()) is None:
        statements = by_step()
        with transaction() as execute:
            counts = execute.run(*(statement for statement, _ in statements))
            if any(must not in (None, count) for (_, must), count in zip(statements, counts, strict=True)):
                raise Unlike
        return
    with connection.wrap_database_errors:
        server.pgconn.send_query(message(server, at_once()))
        finish(server)


def write_on(connection: sqlite3.Connection, statements: Sequence[Expected]) -> None:
    """Write in one transaction, on a connection that is not Django's. Raises Unlike, sqlite3's errors."""
    runner = _One(connection)
    runner.begin()
    try:
        counts = runner.run(*(statement for statement, _ in statements))
        if any(must not in (None, count) for (_, must), count in zip(statements, counts, strict=True)):
            raise Unlike
        runner.end("COMMIT")
    except BaseException:
        with suppress(Exception):
            runner.end("ROLLBACK")
        raise


def message(connection: Connection[Any], statement: Statement) -> bytes:
    """The message to send to PostgreSQL: an implicit transaction, which ends with the message."""
    # This bypasses Django's cursors, so set the user for row-level security here.
    opening, (sql, values) = opening_statement(), statement
    return filled(connection, f"{opening}; {sql}" if opening else sql, values)


def filled(connection: Connection[Any], sql: str, values: Sequence[Any]) -> bytes:
    """Fills in the values as a cursor would, at half the cost: these statements return nothing to read."""
    from psycopg.pq import Escaping

    escaping = Escaping(connection.pgconn)

    def literal(plain: Any) -> bytes:
        if type(plain) is int:
            return b"%d" % plain if plain >= 0 else b"(%d)" % plain
        return bytes(escaping.escape_literal(plain if type(plain) is bytes else str(plain).encode()))

    return sql.encode() % tuple(map(literal, values))


def finish(connection: Connection[Any]) -> None:
    """Wait for all results of a message. Raises psycopg's errors."""
    from psycopg import generators

    for result in connection.wait(generators.execute(connection.pgconn)):
        if problem := problem_of(result):
            raise problem


def problem_of(result: PGresult) -> Exception | None:
    """The server's error; None on success."""
    if result.status in (_COMMAND_OK, _TUPLES_OK):
        return None
    from psycopg import errors

    return errors.error_from_result(result)


_COMMAND_OK, _TUPLES_OK = 1, 2
"""libpq's values; the enumeration needs the PostgreSQL driver."""


def own_connection() -> Connection[Any] | None:
    """This thread's PostgreSQL connection, for use without Django; None with another engine or inside a transaction."""
    here = connections[DEFAULT_DB_ALIAS]
    if here.connection is None or here.in_atomic_block or not _on_postgresql():
        return None
    server: Connection[Any] = here.connection
    return server


class _One:
    """Runs one statement at a time, on Django's cursor or SQLite's own connection."""

    def __init__(self, on: Any) -> None:
        self.on = on
        self.question_marks = isinstance(on, sqlite3.Connection)

    def begin(self) -> None:
        self.on.execute("BEGIN IMMEDIATE")

    def end(self, how: str) -> None:
        self.on.execute(how)

    def run(self, *statements: Statement) -> list[int]:
        return [self._executed(statement).rowcount for statement in statements]

    def row(self, statement: Statement) -> tuple[Any, ...]:
        return tuple(self._executed(statement).fetchone())

    def _executed(self, statement: Statement) -> Any:
        sql, values = statement
        execute = self.on.executemany if isinstance(statement, Each) else self.on.execute
        if self.question_marks:
            return execute(_with_question_marks(sql), values)
        execute(sql, values)
        return self.on


class _Joined:
    """PostgreSQL: sends each group of statements in one round trip, the first together with BEGIN."""

    def __init__(self, on: Any) -> None:
        self.cursor = on.cursor()
        self.begun = False

    def begin(self) -> None:
        self.begun = False

    def end(self, how: str) -> None:
        if self.begun:
            self.cursor.execute(how)

    def run(self, *statements: Statement) -> list[int]:
        if not statements:
            return []
        sql = "; ".join(sql for sql, _ in statements)
        values = [value for _, given in statements for value in given]
        if self.begun:
            self.cursor.execute(sql, values)
        else:
            # This bypasses Django's cursors, so set the user for row-level security here.
            opening = opening_statement()
            # Set before executing: if a statement fails, the transaction that it opened must still be ended.
            self.begun = True
            self.cursor.execute(f"BEGIN; {opening}; {sql}" if opening else f"BEGIN; {sql}", values)
            self.cursor.nextset()
            if opening:
                self.cursor.nextset()
        counts = [self.cursor.rowcount]
        while self.cursor.nextset():
            counts.append(self.cursor.rowcount)
        return counts

    def row(self, statement: Statement) -> tuple[Any, ...]:
        assert self.begun, "a row is asked for after its counter was moved"
        self.cursor.execute(*statement)
        return tuple(self.cursor.fetchone())


@lru_cache(maxsize=1000)
def _with_question_marks(sql: str) -> str:
    return sql.replace("%s", "?")


# Rows of values

Column: TypeAlias = tuple[str, str]
"""Name and type."""


def rows(columns: Sequence[Column], given: Iterable[Sequence[Any]], *, each: str, together: str) -> Statement:
    """A statement for all of these rows.

    SQLite executes ``each`` once per row. PostgreSQL executes ``together``, whose ``{}`` selects from all rows under
    the names ``column1``, ``column2`` and so on; it gets the rows as one value, because quoting every value would cost
    more than everything else here.
    """
    if not _on_postgresql():
        return Each(each, _as_texts(columns, given))
    names = _names(len(columns))
    objects = [dict(zip(names, row, strict=True)) for row in given]
    recordset = _recordset(tuple(kind for _, kind in columns), len(objects))
    return together.format(recordset), [orjson.dumps(objects, default=str).decode()]


def objects(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """As JSON, for a PostgreSQL function."""
    return orjson.dumps([dict(zip(names, row, strict=True)) for row in rows], default=str)


def value(plain: UUID | datetime) -> Any:
    """A single value in this database's format."""
    return plain if _on_postgresql() else _as_text(plain)


@cache
def _on_postgresql() -> bool:
    return connections[DEFAULT_DB_ALIAS].vendor == "postgresql"


@cache
def _names(columns: int) -> tuple[str, ...]:
    return tuple(f"column{number}" for number in range(1, columns + 1))


@lru_cache(maxsize=1000)
def _recordset(kinds: tuple[str, ...], rows: int) -> str:
    """The limit tells the planner how few rows there are; it would assume a hundred and scan whole tables."""
    columns = ", ".join(f"column{number} {kind}" for number, kind in enumerate(kinds, start=1))
    return f"(SELECT * FROM json_to_recordset(%s::json) AS r ({columns}) LIMIT {rows}) AS v"  # noqa: S608 (our names)


def _as_texts(columns: Sequence[Column], given: Iterable[Sequence[Any]]) -> list[list[Any]]:
    """The rows, with types that SQLite lacks as text."""
    odd = [number for number, (_, kind) in enumerate(columns) if kind in ("uuid", "numeric", "timestamptz")]
    rows = [list(row) for row in given]
    for row in rows:
        for number in odd:
            row[number] = _as_text(row[number])
    return rows


def _as_text(plain: Any) -> Any:
    kind = type(plain)
    if kind is UUID:
        return plain.hex
    if kind is Decimal:
        return str(plain)
    if kind is datetime:
        return plain.astimezone(UTC).isoformat(" ").removesuffix("+00:00")
    return plain
