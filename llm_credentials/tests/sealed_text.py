"""Sealed values as they stand in the database."""

from __future__ import annotations

from typing import Any

from django.db import connection, models

from llm_credentials.models import UserCredential

ALICE_KEY = "sk-alice-canary-0123456789abcdef"
BOB_KEY = "sk-bob-canary-fedcba9876543210"


def stored_text(row: models.Model) -> str:
    """What stands in the column, past every layer of ours."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT api_key FROM {row._meta.db_table} WHERE id = %s", [_column_id(row)])
        return cursor.fetchone()[0]


def put_text(row: models.Model, text: str | None) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {row._meta.db_table} SET api_key = %s WHERE id = %s", [text, _column_id(row)])


def _column_id(row: models.Model) -> Any:
    return row.pk.hex if connection.vendor == "sqlite" else row.pk


def fresh(row: UserCredential) -> UserCredential:
    return type(row).objects.get(pk=row.pk)
