"""Database triggers that refuse changes and deletions of audit rows, on both engines.

A migration that rebuilds one of these tables on SQLite drops its triggers: end it with ``install``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connection, transaction

TABLES = ("audit_events", "audit_checkpoints")
_REFUSAL = "audit rows are append-only"


def install(using: Any = connection) -> None:
    with using.cursor() as cursor:
        for statement in _POSTGRES if using.vendor == "postgresql" else _SQLITE:
            cursor.execute(statement)


def remove(using: Any = connection) -> None:
    with using.cursor() as cursor:
        for statement in _POSTGRES_GONE if using.vendor == "postgresql" else _SQLITE_GONE:
            cursor.execute(statement)


@contextmanager
def lifted(using: Any = connection) -> Iterator[None]:
    """Only for archiving, and for emptying a test database. In one transaction, so that nobody else sees the triggers
    off.
    """
    with transaction.atomic(using=using.alias):
        remove(using)
        yield
        install(using)


def tables_exist(using: Any = connection) -> bool:
    """False before the first migration."""
    return set(TABLES) <= set(using.introspection.table_names())


def is_on(using: Any = connection) -> bool:
    """Whether every trigger exists, is enabled, and matches what ``install`` creates."""
    with using.cursor() as cursor:
        cursor.execute(_POSTGRES_FOUND if using.vendor == "postgresql" else _SQLITE_FOUND)
        found = set(cursor.fetchall())
    return (_POSTGRES_WANTED if using.vendor == "postgresql" else _SQLITE_WANTED) <= found


_SQLITE_NAMES = {f"{table}_no_{what}" for table in TABLES for what in ("update", "delete", "replace")}
_SQLITE_FOUND = "SELECT tbl_name, sql FROM sqlite_master WHERE type = 'trigger'"
_SQLITE_GONE = [f"DROP TRIGGER IF EXISTS {name}" for name in sorted(_SQLITE_NAMES)]
_SQLITE = [
    f"CREATE TRIGGER IF NOT EXISTS {table}_no_{what.lower()} BEFORE {what} ON {table}"
    f" BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
    for table in TABLES
    for what in ("UPDATE", "DELETE")
] + [
    # INSERT OR REPLACE deletes the conflicting row without firing the other triggers.
    f"CREATE TRIGGER IF NOT EXISTS {table}_no_replace BEFORE INSERT ON {table}"  # noqa: S608  (names of our own)
    f" WHEN EXISTS (SELECT 1 FROM {table} WHERE id = NEW.id OR (shard = NEW.shard AND seq = NEW.seq))"
    f" BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
    for table in TABLES
]
_SQLITE_WANTED = {
    (table, statement.replace("IF NOT EXISTS ", ""))
    for table in TABLES
    for statement in _SQLITE
    if f" TRIGGER IF NOT EXISTS {table}_" in statement
}

_REFUSE = f" BEGIN RAISE EXCEPTION '{_REFUSAL}' USING ERRCODE = 'integrity_constraint_violation'; END "
_BEFORE_CHANGE_OF_ROW, _BEFORE_TRUNCATE = 1 + 2 + 8 + 16, 2 + 32
"""PostgreSQL's ``tgtype`` values of the triggers."""
_POSTGRES_WANTED = {
    (table, f"{table}_no_{what}", when, _REFUSE)
    for table in TABLES
    for what, when in (("change", _BEFORE_CHANGE_OF_ROW), ("truncate", _BEFORE_TRUNCATE))
}
# Excludes triggers limited to some rows or columns, and those that fire only on a replica.
_POSTGRES_FOUND = """
    SELECT c.relname, t.tgname, t.tgtype, p.prosrc
    FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_proc p ON p.oid = t.tgfoid
    WHERE pg_table_is_visible(c.oid) AND t.tgenabled IN ('O', 'A') AND t.tgqual IS NULL AND t.tgattr::text = ''"""
_POSTGRES_GONE = [
    f"DROP TRIGGER IF EXISTS {table}_no_{what} ON {table}" for table in TABLES for what in ("change", "truncate")
]
_POSTGRES = [
    f"CREATE OR REPLACE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $${_REFUSE}$$",
    *_POSTGRES_GONE,
    *(
        statement
        for table in TABLES
        for statement in (
            f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE ON {table}"
            " FOR EACH ROW EXECUTE FUNCTION audit_refuse()",
            f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse()",
        )
    ),
]
