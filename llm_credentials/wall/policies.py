"""Row-level security on PostgreSQL: one policy per table, which ``manage.py migrate`` keeps in line with the registry.

``FORCE`` applies it to the tables' owner too, so that one database role is enough. Superusers and roles with BYPASSRLS
bypass it; a system check reports them.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from django.apps import apps
from django.conf import settings
from django.db import connections, transaction

from llm_credentials import conf
from llm_credentials.wall.statements import SETTING
from llm_credentials.wall.tables import Owned, all_owned

_PREFIX = "keyswitch_owner_"
# Scalar subqueries: the planner evaluates them once per statement instead of once per row, and can use the owner index.
_OPEN = f"(SELECT current_setting('{SETTING}', true) = '*')"
_MINE = "(SELECT NULLIF(NULLIF(current_setting('{setting}', true), '*'), '')::{type})"
_STATE = """
    SELECT c.relname, c.relrowsecurity AND c.relforcerowsecurity, COALESCE(array_agg(p.polname) FILTER (
        WHERE p.polname LIKE %s), '{}')
    FROM pg_class c LEFT JOIN pg_policy p ON p.polrelid = c.oid
    WHERE c.relkind IN ('r', 'p') AND pg_table_is_visible(c.oid) AND c.relname = ANY (%s) GROUP BY c.oid"""


def align(using: Any) -> list[str]:
    """Create the policies of all owned tables, or remove them where the setting is off. Returns the changed tables."""
    if using.vendor != "postgresql":
        return []
    wanted = {owned.table: _policy(owned, using) for owned in all_owned()}
    changed = []
    with transaction.atomic(using=using.alias), using.cursor() as cursor:
        for table, (forced, names) in _state(using).items():
            policy, condition = wanted[table]
            if not conf.row_security():
                if forced or names:
                    changed.append(table)
                    _drop(cursor, table, names)
                    cursor.execute(f'ALTER TABLE "{table}" NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY')
            elif not forced or names != [policy]:
                changed.append(table)
                _drop(cursor, table, names)
                cursor.execute(f'CREATE POLICY "{policy}" ON "{table}" USING ({condition})')
                cursor.execute(f'ALTER TABLE "{table}" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY')
    return changed


def missing(using: Any) -> list[str]:
    """Existing owned tables whose policy is missing or differs from the registry."""
    state = _state(using)
    wanted = {owned.table: _policy(owned, using)[0] for owned in all_owned()}
    return sorted(table for table, (forced, names) in state.items() if not forced or names != [wanted[table]])


def role_passes_through(using: Any) -> bool:
    """Whether the connection's role bypasses row-level security."""
    with using.cursor() as cursor:
        cursor.execute("SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user")
        return bool(cursor.fetchone()[0])


def _state(using: Any) -> dict[str, tuple[bool, list[str]]]:
    """Table → (row-level security is forced, names of our policies)."""
    with using.cursor() as cursor:
        cursor.execute(_STATE, [f"{_PREFIX.replace('_', chr(92) + '_')}%", [owned.table for owned in all_owned()]])
        return {table: (forced, list(names)) for table, forced, names in cursor.fetchall()}


def _drop(cursor: Any, table: str, names: list[str]) -> None:
    for name in names:
        cursor.execute(f'DROP POLICY "{name}" ON "{table}"')


def _policy(owned: Owned, using: Any) -> tuple[str, str]:
    """(name, condition). The name depends on the condition, so that an outdated policy is noticed."""
    if owned.above:
        theirs = (
            f'EXISTS (SELECT 1 FROM "{owned.above}" above'  # noqa: S608  (names of our own)
            f' WHERE above."{owned.above_key}" = "{owned.table}"."{owned.column}")'
        )
    else:
        user = apps.get_model(settings.AUTH_USER_MODEL)
        theirs = f'"{owned.column}" = {_MINE.format(setting=SETTING, type=user._meta.pk.rel_db_type(using))}'
    condition = f"{theirs} OR {_OPEN}"
    return f"{_PREFIX}{sha256(condition.encode()).hexdigest()[:12]}", condition


def after_migrate(using: str, **kwargs: Any) -> None:
    align(connections[using])
