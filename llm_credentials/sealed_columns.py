"""Finds every column that holds sealed values, from the models themselves.

Whoever adds a ``SealedField`` to a model has it rotated, verified, counted and checked from then on. What is sealed
inside something else (``second_factors``, ``audit.keys``) says so there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.apps import apps
from django.db import models
from django.db.models import Count, Value
from django.db.models.functions import Cast, StrIndex, Substr
from django.views.decorators.debug import sensitive_variables

from llm_credentials import keyring
from llm_credentials.fields import SealedField, Unreadable
from llm_credentials.models.sealed import KeyHolder, LLMCredential
from llm_credentials.providers import CredentialUnreadable


@dataclass(frozen=True, slots=True)
class SealedColumn:
    model: type[models.Model]
    field: SealedField

    def __str__(self) -> str:
        return f"{self.model._meta.db_table}.{self.field.column}"

    def all_rows(self) -> models.QuerySet[Any]:
        """Those too that a model's own manager keeps out of sight: they may come back."""
        return self.model._base_manager.all()

    def rows(self) -> models.QuerySet[Any]:
        """Those with something in the column."""
        return self.all_rows().filter(**{f"{self.field.name}__isnull": False})

    def unchanged(self, row: Any) -> models.QuerySet[Any]:
        """This row, if its column still holds the very bytes that were read."""
        return self.all_rows().filter(pk=row.pk, **{f"{self.field.name}__unchanged": getattr(row, self.field.attname)})

    def waiting(self) -> models.QuerySet[Any]:
        """Not sealed under the ring's first key. Raises KeyringError."""
        current = f"{keyring.FORMAT}:{keyring.ring().primary.id}:"
        text = Cast(self.field.name, models.TextField())
        waiting: models.QuerySet[Any] = self.rows().annotate(sealed_text=text)
        return waiting.exclude(sealed_text__startswith=current)

    def waiting_for_reentry(self) -> models.QuerySet[Any]:
        """Rows whose owners have been asked to enter the value again."""
        if not issubclass(self.model, LLMCredential):
            return self.all_rows().none()
        return self.all_rows().filter(status=LLMCredential.Status.NEEDS_REENTRY)

    def rows_by_key_id(self, rows: models.QuerySet[Any] | None = None) -> dict[str, int]:
        """Key id → how many (of these) rows are sealed under it; the id is empty for texts not of our making."""
        text = Cast(self.field.name, models.TextField())
        # What stands before the token, "v1:<key id>": nothing of the token itself leaves the database.
        after_format = Substr(text, len(keyring.FORMAT) + 2)
        head = Substr(text, 1, StrIndex(after_format, Value(":")) + len(keyring.FORMAT))
        sealed = (self.all_rows() if rows is None else rows).filter(**{f"{self.field.name}__isnull": False})
        counts: dict[str, int] = {}
        for found, count in sealed.values_list(head).annotate(Count("pk")).order_by():
            key_id = keyring.key_id_of(f"{found}:")
            counts[key_id] = counts.get(key_id, 0) + count
        return counts

    @sensitive_variables()
    def resealed(self, row: Any) -> dict[str, Any]:
        """What the row's columns become under the ring's first key. Not saved. Raises Unreadable."""
        if not self._is_the_key_of(row):
            return {self.field.name: self.field.resealed(row, getattr(row, self.field.attname))}
        opens = True
        try:
            row.reseal()
        except CredentialUnreadable:
            opens = False
        if not opens:
            raise Unreadable
        names = ("api_key", "fingerprint") if isinstance(row, LLMCredential) else ("api_key",)
        return {name: getattr(row, name) for name in names}

    def opens(self, row: Any) -> bool:
        """Whether it opens for this row as it is; what is inside is not handed out."""
        try:
            if self._is_the_key_of(row):
                row.check_readable()
            else:
                self.field.resealed(row, getattr(row, self.field.attname))
        except (CredentialUnreadable, Unreadable):
            return False
        return True

    def _is_the_key_of(self, row: Any) -> bool:
        return isinstance(row, KeyHolder) and self.field.name == "api_key"


def sealed_columns() -> list[SealedColumn]:
    """In the order in which apps and models were made known."""
    return [
        SealedColumn(model, field)
        for model in apps.get_models()
        for field in model._meta.local_concrete_fields
        if isinstance(field, SealedField) and model._meta.managed and not model._meta.proxy
    ]
