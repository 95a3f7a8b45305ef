from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from django.db import DataError, connection

from llm_credentials.ledger import statements

ODD = 'it\'s 100 % \\ "odd"; -- %s ü\n'


def _send(sql: str, values: list[Any]) -> None:
    connection.connection.pgconn.send_query(statements.filled(connection.connection, sql, values))
    statements.finish(connection.connection)


@pytest.mark.django_db
@pytest.mark.skipif("connection.vendor != 'postgresql'", reason="a message of PostgreSQL's")
def test_hand_sends_values_as_they_are() -> None:
    at, uid = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), UUID(int=7)
    connection.ensure_connection()
    sql = "SELECT %s AS odd, 5-%s AS less, %s::timestamptz AS at, %s::uuid AS uid, 1 %% 2 AS rest"
    _send(f"DROP TABLE IF EXISTS sent; CREATE TEMP TABLE sent AS {sql}", [ODD, -3, at, uid])
    with connection.cursor() as cursor:
        cursor.execute("SELECT odd, less, at, uid, rest FROM sent")
        assert cursor.fetchone() == (ODD, 8, at, uid, 1)


@pytest.mark.django_db
@pytest.mark.skipif("connection.vendor != 'postgresql'", reason="a message of PostgreSQL's")
def test_hand_says_what_the_server_refuses() -> None:
    connection.ensure_connection()
    with pytest.raises(DataError), connection.wrap_database_errors:
        _send("SELECT 1; SELECT 1 / %s", [0])
