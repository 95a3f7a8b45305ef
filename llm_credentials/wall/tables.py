"""Registry of the tables behind the wall and their owner columns, and of the tables left out, with the reason."""

from __future__ import annotations

from dataclasses import dataclass

from django.apps import apps
from django.conf import settings
from django.db import models


@dataclass(frozen=True, slots=True)
class Owned:
    table: str
    column: str
    """The owner's id or, with ``above``, the foreign key to the row that has an owner."""
    above: str = ""
    above_key: str = ""


_owned: dict[str, Owned] = {}
_left_out: dict[str, str] = {}


def owned(model: type[models.Model], *, by: str) -> None:
    """Rows of this model belong to the user that the foreign key ``by`` leads to, directly or through another owned
    model.

    Call it in ``AppConfig.ready``; ``manage.py migrate`` does the rest.
    """
    key = model._meta.get_field(by)
    assert isinstance(key, models.ForeignKey)
    target = key.related_model
    assert isinstance(target, type)
    table, column = model._meta.db_table, str(key.column)
    if target._meta.label == settings.AUTH_USER_MODEL:
        _owned[table] = Owned(table, column)
        return
    above = target._meta.db_table
    assert above in _owned, f"{target._meta.label} is to be owned first"
    assert target._meta.pk is not None
    _owned[table] = Owned(table, column, above, str(target._meta.pk.column))


def leave_out(label: str, why: str) -> None:
    """Leave a model (``app.Model``) that leads to a user outside the wall."""
    assert why, "say why"
    _left_out[label.lower()] = why


def all_owned() -> list[Owned]:
    """Parents before children."""
    return list(_owned.values())


def named_in(sql: str) -> str | None:
    """The first table behind the wall that this statement names, ignoring case as databases do."""
    text = sql.lower()
    for table in _owned:
        if table in text:
            return table
    return None


def undecided() -> list[str]:
    """Models that lead to a user and are neither owned nor left out."""
    leading = _leading_to_users()
    return sorted(
        model._meta.label
        for model in leading
        if model._meta.db_table not in _owned and model._meta.label_lower not in _left_out
    )


def _leading_to_users() -> set[type[models.Model]]:
    """Models with a foreign key to a user, or to a model that leads to one."""
    every = apps.get_models(include_auto_created=True)
    found: set[type[models.Model]] = set()
    targets: set[object] = {apps.get_model(settings.AUTH_USER_MODEL)}
    while True:
        more = {
            model
            for model in every
            if model not in targets
            and any(isinstance(one, models.ForeignKey) and one.related_model in targets for one in model._meta.fields)
        }
        if not more:
            return found
        found |= more
        targets |= more
