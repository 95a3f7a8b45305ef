"""The watched tables, and the triggers that log their changes, on both engines.

Triggers are dropped before every ``migrate`` and created after it: a column that a trigger names cannot be dropped, and
SQLite loses the triggers of a table that it rebuilds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from django.db import connection, models
from django.db.models.signals import post_delete, post_save

from llm_credentials.live import changes
from llm_credentials.models import Change

PREFIX = "live_"
_LOG = Change._meta.db_table


@dataclass(frozen=True, kw_only=True, slots=True)
class Watched:
    model: type[models.Model]
    user: str | None
    """The column with the user's id; None: a change concerns everybody."""
    ignored: frozenset[str]

    @property
    def table(self) -> str:
        return self.model._meta.db_table

    @property
    def trigger(self) -> str:
        return PREFIX + self.table

    def columns(self, existing: Collection[str]) -> list[str]:
        """The columns whose new value counts as a change."""
        ours = [field for field in self.model._meta.concrete_fields if field.name not in self.ignored]
        return [field.column for field in ours if field.column and field.column in existing]


_watched: dict[type[models.Model], Watched] = {}


def watch(model: type[models.Model], *, user: str | None = None, ignored: Iterable[str] = ()) -> None:
    """Make every change of this table known to all processes within a second.

    ``user``: the column with the owner's id; without it a change is the site's and invalidates everything. ``ignored``:
    fields that change often and matter to no cache, such as counters.
    """
    _watched[model] = Watched(model=model, user=user, ignored=frozenset(ignored))
    post_save.connect(_saved, sender=model, dispatch_uid="live")
    post_delete.connect(_deleted, sender=model, dispatch_uid="live")


def _saved(sender: type[models.Model], instance: Any, update_fields: Any = None, **kwargs: Any) -> None:
    if update_fields is None or set(update_fields) - _watched[sender].ignored:
        _deleted(sender, instance)


def _deleted(sender: type[models.Model], instance: Any, **kwargs: Any) -> None:
    user = _watched[sender].user
    if user is None:
        changes.site_changed(noted=True)
    else:
        changes.user_changed(getattr(instance, user), noted=True)


# Triggers


def install(using: Any = connection) -> None:
    """Create missing triggers; a table that does not exist yet waits for its own migration."""
    remove(using)
    with using.cursor() as cursor:
        tables = set(using.introspection.table_names(cursor))
        if _LOG not in tables:
            return
        if using.vendor == "postgresql":
            cursor.execute(_POSTGRES_FUNCTION)
        for each in _watched.values():
            if each.table in tables:
                existing = {column.name for column in using.introspection.get_table_description(cursor, each.table)}
                for statement in _statements(each, each.columns(existing), using.vendor):
                    cursor.execute(statement)
        # Changes made while the triggers were down were not logged.
        cursor.execute(f"INSERT INTO {_LOG} (subject) VALUES ('')")  # noqa: S608  (a name of our own)


def remove(using: Any = connection) -> None:
    with using.cursor() as cursor:
        for name, table in _found(cursor, using.vendor):
            at = f" ON {using.ops.quote_name(table)}" if using.vendor == "postgresql" else ""
            cursor.execute(f"DROP TRIGGER IF EXISTS {using.ops.quote_name(name)}{at}")


def table_exists(using: Any = connection) -> bool:
    """False before the first migration."""
    return _LOG in using.introspection.table_names()


def is_installed(using: Any = connection) -> bool:
    """Whether every watched table has its triggers."""
    with using.cursor() as cursor:
        found = {name for name, _ in _found(cursor, using.vendor)}
    wanted = {name for each in _watched.values() for name in (f"{each.trigger}_1", f"{each.trigger}_2")}
    return wanted <= found


def _found(cursor: Any, vendor: str) -> list[tuple[str, str]]:
    if vendor == "postgresql":
        cursor.execute(
            "SELECT t.tgname, c.relname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid"
            " WHERE NOT t.tgisinternal AND t.tgenabled <> 'D' AND pg_table_is_visible(c.oid)"
        )
    else:
        cursor.execute("SELECT name, tbl_name FROM sqlite_master WHERE type = 'trigger'")
    return [(name, table) for name, table in cursor.fetchall() if name.startswith(PREFIX)]


_POSTGRES_FUNCTION = f"""
CREATE OR REPLACE FUNCTION {PREFIX}note_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed jsonb := CASE TG_OP WHEN 'DELETE' THEN to_jsonb(OLD) ELSE to_jsonb(NEW) END;
BEGIN
    INSERT INTO {_LOG} (subject) VALUES (CASE TG_ARGV[0] WHEN '' THEN '' ELSE changed ->> TG_ARGV[0] END);
    RETURN NULL;
END $$
"""  # noqa: S608  (names of our own)


def _statements(each: Watched, columns: list[str], vendor: str) -> list[str]:
    name, table = each.trigger, f'"{each.table}"'
    if vendor == "postgresql":
        differs = " OR ".join(f'OLD."{column}" IS DISTINCT FROM NEW."{column}"' for column in columns)
        # Only for these columns: a statement that sets none of them, like the ledger's, needs no comparison.
        named = ", ".join(f'"{column}"' for column in columns)
        call = f"EXECUTE FUNCTION {PREFIX}note_change('{each.user or ''}')"
        return [
            f"CREATE TRIGGER {name}_1 AFTER INSERT OR DELETE ON {table} FOR EACH ROW {call}",
            f"CREATE TRIGGER {name}_2 AFTER UPDATE OF {named} ON {table} FOR EACH ROW WHEN ({differs}) {call}",
        ]
    differs = " OR ".join(f'OLD."{column}" IS NOT NEW."{column}"' for column in columns)
    return [
        f"CREATE TRIGGER {name}_1 AFTER INSERT ON {table} {_sqlite_note(each, 'NEW')}",
        f"CREATE TRIGGER {name}_2 AFTER UPDATE ON {table} WHEN {differs} {_sqlite_note(each, 'NEW')}",
        f"CREATE TRIGGER {name}_3 AFTER DELETE ON {table} {_sqlite_note(each, 'OLD')}",
    ]


def _sqlite_note(each: Watched, row: str) -> str:
    subject = f'CAST({row}."{each.user}" AS TEXT)' if each.user else "''"
    return f"BEGIN INSERT INTO {_LOG} (subject) VALUES ({subject}); END"  # noqa: S608  (names of our own)
