"""What tests of rotation share."""

from __future__ import annotations

import base64
from typing import Any

from django.db import connection

from llm_credentials import canary
from llm_credentials.tests.factories import ConnectionTestFactory, SystemCredentialFactory, UserCredentialFactory

OLD = "t1:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
NEW = f"n1:{base64.b64encode(b'fedcba9876543210fedcba9876543210').decode()}"
BOTH = f"{NEW},{OLD}"


def places_of(beginning: str) -> set[str]:
    """Tables that hold a text with this in it."""
    with connection.cursor() as cursor:
        return {
            table
            for table in connection.introspection.table_names(cursor)
            if beginning in repr(cursor.execute(f'SELECT * FROM "{table}"') and cursor.fetchall())
        }


def sealed_under_the_old_key() -> dict[Any, str]:
    """Primary key → key, for rows of every kind."""
    canary.plant()
    rows = [UserCredentialFactory(key=f"sk-rotated-{number:020d}") for number in range(7)]
    rows.append(SystemCredentialFactory(key="sk-rotated-system-0123456789"))
    rows.append(ConnectionTestFactory(user=rows[0].user, key="sk-rotated-test-0123456789"))
    UserCredentialFactory(key=None, provider="ollama")
    return {row.pk: row.reveal() for row in rows}
