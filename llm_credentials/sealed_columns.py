"""Finds every column that holds sealed values, from the models themselves.

A new ``SealedField`` on any model is therefore rotated, verified, counted and checked. Values sealed inside other data
are handled in ``second_factors`` and ``audit.keys``.
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
        """Including rows that the default manager hides, because they may be restored."""
        return self.model._base_manager.all()

    def rows(self) -> models.QuerySet[Any]:
        """Rows with a value in the column."""
        return self.all_rows().filter(**{f"{self.field.name}__isnull": False})

    def unchanged(self, row: Any) -> models.QuerySet[Any]:
        """This row, if its column still holds exactly the bytes that were read."""
        return self.all_rows().filter(pk=row.pk, **{f"{self.field.name}__unchanged": getattr(row, self.field.attname)})

    def waiting(self) -> models.QuerySet[Any]:
        """Rows not sealed under the ring's first key. Raises KeyringError."""
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
        """Key id → number of (these) rows sealed under it; the id is empty for texts in another format."""
        text = Cast(self.field.name, models.TextField())
        # Select only the prefix "v1:<key id>", so that no part of the token leaves the database.
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
        """The row's columns re-sealed under the ring's first key. Not saved. Raises Unreadable."""
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
        """Whether the value opens for this row; the plain text is not returned."""
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
    """In registration order of apps and models."""
    return [
        SealedColumn(model, field)
        for model in apps.get_models()
        for field in model._meta.local_concrete_fields
        if isinstance(field, SealedField) and model._meta.managed and not model._meta.proxy
    ]
