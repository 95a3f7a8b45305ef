"""Checks every statement on every connection: refuses statements on users' tables without a declared owner, and
otherwise passes the owner to PostgreSQL in the same message as the statement.

``SET LOCAL`` and the statement form one simple query, which the server runs as one transaction (or inside the open
one). This needs no extra round trip, and nothing outlives the transaction, so a pooler may hand the connection to any
client next.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from django.db import transaction
from django.db.backends.signals import connection_created

from llm_credentials import conf
from llm_credentials.wall.standing import WallClosed, whose
from llm_credentials.wall.tables import named_in

SETTING = "keyswitch.user_id"
# Skips comments, brackets and blanks before the first word.
_FIRST_WORD = re.compile(r"(?:[\s(;]|--[^\n]*(?:\n|$)|/\*.*?\*/)*([A-Za-z]*)", re.DOTALL)
_ABOUT_TABLES = frozenset(
    {"ALTER", "ANALYZE", "CLUSTER", "COMMENT", "CREATE", "DROP", "GRANT", "PRAGMA", "REINDEX", "REVOKE", "VACUUM"}
)
"""First words of statements that only change or describe tables and return no rows. All other statements are guarded.
"""

Execute = Callable[[str, Any, bool, Mapping[str, Any]], Any]


def guarded(execute: Execute, sql: str, params: Any, many: bool, context: Mapping[str, Any]) -> Any:
    """A Django execute wrapper. Raises WallClosed."""
    table = named_in(sql)
    if table is None or first_word(sql) in _ABOUT_TABLES:
        return execute(sql, params, many, context)
    owner = whose()
    if owner is None:
        raise WallClosed(
            f"Nobody has said whose rows of {table} are meant. Work for a user inside wall.acting_for(user_id); what "
            "is for all users, inside wall.open_for('why')."
        )
    connection = context["connection"]
    if connection.vendor != "postgresql" or not conf.row_security():
        return execute(sql, params, many, context)
    opening = opening_statement()
    if many or getattr(context["cursor"].cursor, "name", None):
        # Server-side cursors and ``executemany`` cannot take a second statement in the same message.
        with transaction.atomic(using=connection.alias, savepoint=False), connection.cursor() as cursor:
            cursor.execute(opening)
            return execute(sql, params, many, context)
    result = execute(f"{opening}; {sql}", params, many, context)
    context["cursor"].nextset()
    return result


def first_word(sql: str) -> str:
    """Upper-case; empty where something else comes first, such as the rest of a nested comment."""
    found = _FIRST_WORD.match(sql)
    return found[1].upper() if found else ""


def opening_statement() -> str:
    """For code that bypasses Django's cursors: run it first in a transaction. Empty where PostgreSQL needs to be told
    nothing. Raises WallClosed.
    """
    owner = whose()
    if owner is None:
        raise WallClosed("Nobody has said whose rows are meant: see wall.acting_for and wall.open_for.")
    return f"SET LOCAL {SETTING} = '{owner}'" if conf.row_security() else ""


def _stand_at(connection: Any, **kwargs: Any) -> None:
    if guarded not in connection.execute_wrappers:
        connection.execute_wrappers.append(guarded)


def install() -> None:
    connection_created.connect(_stand_at, dispatch_uid="wall")
