"""Empties the database between tests that commit, at a fraction of what ``flush`` takes.

``flush`` empties every table, then makes content types, permissions, roles, triggers and policies anew as after a
migration. Here rows are removed where there are any, and what migrations had put there stays or comes back.
"""

from __future__ import annotations

from typing import Any

from django.contrib.contenttypes.models import ContentType
from django.db import connection, transaction
from django.test import TransactionTestCase

from llm_credentials.audit import guard
from llm_credentials.models import Change
from llm_credentials.wall import open_for

Rows = list[tuple[Any, ...]]


def empty_quickly() -> None:
    """From now on tests that commit end so. The database is as migrations left it."""
    tables = connection.introspection.django_table_names(only_existing=True, include_views=False)
    begun_with = {table: _rows(table) for table in _filled(tables)}

    def empty(test: TransactionTestCase) -> None:
        with open_for("emptying the database"):
            _leave(tables, begun_with)

    TransactionTestCase._fixture_teardown = empty


def _leave(tables: list[str], begun_with: dict[str, Rows]) -> None:
    """These rows and no others."""
    changed = {table for table in _filled(tables) if table not in begun_with}
    changed |= {table for table, rows in begun_with.items() if _rows(table) != rows}
    if not changed:
        return
    # Triggers note what is removed, in the last of them. References are looked at when the transaction ends.
    last = Change._meta.db_table
    with (
        guard.lifted(connection) if changed & set(guard.TABLES) else transaction.atomic(),
        connection.cursor() as cursor,
    ):
        for table in (*sorted(changed - {last}), last):
            cursor.execute(f"DELETE FROM {_quoted(table)}")
            for row in begun_with.get(table, ()):
                cursor.execute(f"INSERT INTO {_quoted(table)} VALUES ({', '.join(['%s'] * len(row))})", row)
    ContentType.objects.clear_cache()


def _filled(tables: list[str]) -> list[str]:
    """Those that have rows."""
    asked = (f"SELECT '{table}' WHERE EXISTS (SELECT 1 FROM {_quoted(table)})" for table in tables)
    with connection.cursor() as cursor:
        cursor.execute(" UNION ALL ".join(asked))
        return [name for (name,) in cursor.fetchall()]


def _rows(table: str) -> Rows:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {_quoted(table)}")
        return sorted(cursor.fetchall(), key=repr)


def _quoted(name: str) -> str:
    return connection.ops.quote_name(name)
