"""Runs SQL without the overhead of Django's cursors: the ledger writes before every call.

In a transaction that is open already they go through Django all the same, so that its rules for nesting hold.
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
    """One after the other with each of these rows, on SQLite; its values are ``?1``, ``?2`` and so on."""

    sql: str
    rows: Sequence[Sequence[Any]]


Statement: TypeAlias = tuple[str, Sequence[Any]] | Each
"""SQL with ``%s`` for each value."""
Expected: TypeAlias = tuple[Statement, int | None]
"""A statement and how many rows it must touch, if that matters."""


class Runner(Protocol):
    """Executes in the transaction that gave it."""

    def run(self, *statements: Statement) -> list[int]:
        """How many rows each of them touched."""

    def row(self, statement: Statement) -> tuple[Any, ...]: ...


@contextmanager
def transaction() -> Iterator[Runner]:
    """What is executed inside is committed together, or not at all. Raises Django's database errors."""
    connection = connections[DEFAULT_DB_ALIAS]  # looked up once: ``django.db.connection`` does so for every name
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
            runner.end("COMMIT")  # a broken reference shows only here, and leaves the transaction open
        except BaseException:
            with suppress(Exception):  # what went wrong is the better answer
                runner.end("ROLLBACK")
            raise


class Unlike(Exception):
    """A statement touched other rows than it was to touch, and nothing was written."""


def write(by_step: Callable[[], Sequence[Expected]], at_once: Callable[[], Statement]) -> None:
    """What ``by_step`` gives, in one transaction; PostgreSQL gets ``at_once`` instead, which is to do the same.

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
    """In one transaction, on a connection that is not Django's. Raises Unlike, sqlite3's errors."""
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
    """What PostgreSQL is sent: it is a transaction of its own, which ends with the message."""
    # Past Django's cursors, so the wall is told here whose rows are meant.
    opening, (sql, values) = opening_statement(), statement
    return filled(connection, f"{opening}; {sql}" if opening else sql, values)


def filled(connection: Connection[Any], sql: str, values: Sequence[Any]) -> bytes:
    """As a cursor does it, without one: nobody reads what these statements give, and a cursor costs as much again."""
    from psycopg.pq import Escaping

    escaping = Escaping(connection.pgconn)

    def literal(plain: Any) -> bytes:
        if type(plain) is int:
            return b"%d" % plain if plain >= 0 else b"(%d)" % plain
        return bytes(escaping.escape_literal(plain if type(plain) is bytes else str(plain).encode()))

    return sql.encode() % tuple(map(literal, values))


def finish(connection: Connection[Any]) -> None:
    """Wait for all that a message gives. Raises psycopg's errors."""
    from psycopg import generators

    for result in connection.wait(generators.execute(connection.pgconn)):
        if problem := problem_of(result):
            raise problem


def problem_of(result: PGresult) -> Exception | None:
    """What the server refused; None where it did as it was told."""
    if result.status in (_COMMAND_OK, _TUPLES_OK):
        return None
    from psycopg import errors

    return errors.error_from_result(result)


_COMMAND_OK, _TUPLES_OK = 1, 2
"""As libpq numbers them, whose enumeration is not there without PostgreSQL's driver."""


def own_connection() -> Connection[Any] | None:
    """This thread's connection to PostgreSQL, for use past Django; None with another database or in a transaction."""
    here = connections[DEFAULT_DB_ALIAS]
    if here.connection is None or here.in_atomic_block or not _on_postgresql():
        return None
    server: Connection[Any] = here.connection
    return server


class _One:
    """One statement after the other: Django's cursor, or SQLite's own connection."""

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
    """PostgreSQL: what is run together goes there and back together, the first time with the transaction's begin."""

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
            # Past Django's cursors, so the wall is told here whose rows are meant.
            opening = opening_statement()
            # Also when one of them fails: the transaction that began with them is to be ended all the same.
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

    SQLite executes ``each`` with one after the other. PostgreSQL selects from all of them, where ``together`` has
    ``{}``, under the names ``column1``, ``column2`` and so on; it gets them as one value, for quoting each by itself
    would cost more than everything else here.
    """
    if not _on_postgresql():
        return Each(each, _as_texts(columns, given))
    names = _names(len(columns))
    objects = [dict(zip(names, row, strict=True)) for row in given]
    recordset = _recordset(tuple(kind for _, kind in columns), len(objects))
    return together.format(recordset), [orjson.dumps(objects, default=str).decode()]


def objects(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """As JSON, for a function of PostgreSQL's."""
    return orjson.dumps([dict(zip(names, row, strict=True)) for row in rows], default=str)


def value(plain: UUID | datetime) -> Any:
    """A single value as this database wants it."""
    return plain if _on_postgresql() else _as_text(plain)


@cache
def _on_postgresql() -> bool:
    return connections[DEFAULT_DB_ALIAS].vendor == "postgresql"


@cache
def _names(columns: int) -> tuple[str, ...]:
    return tuple(f"column{number}" for number in range(1, columns + 1))


@lru_cache(maxsize=1000)
def _recordset(kinds: tuple[str, ...], rows: int) -> str:
    """The limit tells the planner how few they are; it would take them for a hundred, and read whole tables."""
    columns = ", ".join(f"column{number} {kind}" for number, kind in enumerate(kinds, start=1))
    return f"(SELECT * FROM json_to_recordset(%s::json) AS r ({columns}) LIMIT {rows}) AS v"  # noqa: S608 (our names)


def _as_texts(columns: Sequence[Column], given: Iterable[Sequence[Any]]) -> list[list[Any]]:
    """Of these rows, what SQLite has no type for; the other columns as they are."""
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
