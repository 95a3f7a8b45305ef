"""Stores the site's model choices, guarded against concurrent changes of the same row."""

from __future__ import annotations

from hashlib import sha256
from typing import Final
from uuid import UUID

from llm_credentials.audit import Action, note, target_of
from llm_credentials.models import SystemConfig, SystemCredential
from llm_credentials.preferences import Overtaken
from llm_credentials.providers import ProviderSpec

_CHOICES: Final = ("completions_config", "embeddings_config", "supervisor")


def version() -> str:
    """A version token that differs after each change of a choice or of a system key; empty while there are none."""
    choices = SystemConfig.objects.filter(category="llm", key__in=_CHOICES).exclude(value={}).order_by("key")
    keys = SystemCredential.objects.order_by("pk").values_list("pk", "version")
    parts = [*choices.values_list("key", "updated_at"), *keys]
    return sha256(repr(parts).encode()).hexdigest() if parts else ""


def locked(key: str, seen: str | None = None) -> SystemConfig:
    """The row, locked until the transaction ends. Raises Overtaken if the stored version is not the one in ``seen``."""
    rows = SystemConfig.objects.select_for_update()
    if seen is not None:
        # Lock all choices in one order, so that concurrent changes of different choices cannot deadlock.
        list(rows.filter(category="llm", key__in=_CHOICES).order_by("key"))
    row = rows.get_or_create(category="llm", key=key, defaults={"value": {}})[0]
    if seen is not None and seen != version():
        raise Overtaken
    return row


def write(
    row: SystemConfig,
    spec: ProviderSpec,
    credential: UUID | None,
    model: str,
    max_tokens: int | None,
    temperature: float | None,
) -> None:
    value = {
        "credential": None if credential is None else str(credential),
        "provider": spec.slug,
        "model": model,
        "max_tokens": max_tokens,
        "temperature": temperature,
    }
    if row.value != value:
        row.value = value
        row.save(update_fields=["value", "updated_at"])
        note_change(row.key)


def note_change(key: str, result: str = "ok") -> None:
    note(action=Action.CONFIG_CHANGE, subject="system", target=target_of("config", "llm", key), result=result)
