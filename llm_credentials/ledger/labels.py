"""Display names for the values in the ledger's columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import UUID

from django.utils.formats import date_format
from django.utils.translation import gettext as _

from llm_credentials.models import SystemCredential, UserCredential
from llm_credentials.models.sealed import LLMCredential
from llm_credentials.providers import label_of
from llm_credentials.routing import kinds


@dataclass(frozen=True, slots=True)
class Labels:
    keys: Mapping[UUID, str]
    for_staff: bool = False

    @classmethod
    def for_user(cls, user: Any) -> Labels:
        """One query. Only staff see the site's keys by name."""
        return cls({row.pk: _key(row) for row in UserCredential.with_removed.for_user(user)})

    @classmethod
    def for_site(cls) -> Labels:
        return cls({row.pk: _key(row) for row in SystemCredential.objects.all()}, for_staff=True)

    def of(self, dimension: str, value: Any, key_owner: str = "user") -> str:
        match dimension:
            case "day" if isinstance(value, date):
                return date_format(value, "SHORT_DATE_FORMAT")
            case "provider":
                return label_of(value)
            case "model":
                return value or _("not named")
            case "task":
                return task_label(value)
            case "credential_id":
                return self.key(value, key_owner)
            case _:
                return owner_label(value)

    def key(self, credential_id: UUID | None, key_owner: str) -> str:
        if credential_id is not None and credential_id in self.keys:
            return self.keys[credential_id]
        if key_owner == "system":
            if not self.for_staff:
                return _("The organisation's key")
            return _("From the environment") if credential_id is None else _("A removed key of the site")
        return _("Users' own keys") if self.for_staff else _("A removed key")


def _key(row: LLMCredential) -> str:
    name = "" if row.name == "default" else f" · {row.name}"
    return f"{row.provider_label}{name} {row.masked}".strip()


def task_label(slug: str) -> str:
    kind = kinds.get(slug)
    return _(kind.label) if kind else slug or _("not named")


def owner_label(owner: str) -> str:
    return _("The organisation") if owner == "system" else _("Own keys")
