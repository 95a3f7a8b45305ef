"""Notices a wrong key ring before users do: one known text a key, sealed when that key first seals."""

from __future__ import annotations

from typing import Any

from cryptography.fernet import InvalidToken
from django.db import IntegrityError, connection, models, transaction
from django.db.models import Count, Value
from django.db.models.functions import Cast, StrIndex, Substr

from llm_credentials import keyring, second_factors
from llm_credentials.models import ConnectionTest, KeyringCanary, SystemCredential, UserCredential
from llm_credentials.models.sealed import KeyHolder, LLMCredential

_TEXT = b"keyswitch keyring canary"

SEALED_MODELS: tuple[type[KeyHolder], ...] = (UserCredential, SystemCredential, ConnectionTest)
"""Every model with a sealed column; a test holds this complete."""


LOST_HINT = (
    "Put back the key that CREDENTIAL_KEYS held before (from the backup of .env or of its secret store). "
    "If it is lost for good, give the new key another id: users are then asked to enter their keys again."
)


def plant() -> None:
    """Keep a canary of the sealing key from its first use on. Raises KeyringError when it is not the key it was."""
    ring = keyring.ring()
    known = KeyringCanary.objects.filter(key_id=ring.primary.id).first()
    if known is None:
        known = _plant_new(ring)
    if not _opens(ring, known):
        ring.lost_ids |= {known.key_id}
        raise keyring.KeyringError(
            f"The key {known.key_id!r} on the ring is not the one that this database was sealed with.", hint=LOST_HINT
        )


def _plant_new(ring: keyring.KeyRing) -> KeyringCanary:
    try:
        with transaction.atomic():
            return KeyringCanary.objects.create(key_id=ring.primary.id, sealed=ring.encrypt(_TEXT).decode("ascii"))
    except IntegrityError:
        return KeyringCanary.objects.get(key_id=ring.primary.id)


def examine() -> frozenset[str]:
    """Ids on the ring whose key is not the one it was; lists say so of their rows from then on. Raises KeyringError."""
    ring = keyring.ring()
    known = KeyringCanary.objects.filter(key_id__in=ring.ids)
    ring.lost_ids = frozenset(canary.key_id for canary in known if not _opens(ring, canary))
    return ring.lost_ids


def _opens(ring: keyring.KeyRing, canary: KeyringCanary) -> bool:
    try:
        return ring.decrypt(canary.sealed.encode()) == _TEXT
    except InvalidToken:
        return False


def rows_by_key_id(model: type[KeyHolder], rows: models.QuerySet[Any] | None = None) -> dict[str, int]:
    """Key id → how many (of these) rows are sealed under it; the id is empty for texts that are not of our making."""
    text = Cast("api_key", models.TextField())
    # What stands before the token, "v1:<key id>": nothing of the token itself leaves the database.
    after_format = Substr(text, len(keyring.FORMAT) + 2)
    head = Substr(text, 1, StrIndex(after_format, Value(":")) + len(keyring.FORMAT))
    sealed = (model._default_manager.all() if rows is None else rows).filter(api_key__isnull=False)
    counts: dict[str, int] = {}
    for found, count in sealed.values_list(head).annotate(Count("pk")).order_by():
        key_id = keyring.key_id_of(f"{found}:")
        counts[key_id] = counts.get(key_id, 0) + count
    return counts


def waiting_for_reentry(model: type[KeyHolder]) -> models.QuerySet[Any]:
    """Rows whose owners have been asked to enter the key again."""
    rows: models.QuerySet[Any] = model._default_manager.all()
    if not issubclass(model, LLMCredential):
        return rows.none()
    return rows.filter(status=LLMCredential.Status.NEEDS_REENTRY)


def tables_exist() -> bool:
    """False before the first migration."""
    needed = {KeyringCanary._meta.db_table, second_factors.TABLE, *(model._meta.db_table for model in SEALED_MODELS)}
    return needed <= set(connection.introspection.table_names())


def stranded_rows() -> dict[str, int]:
    """Key id → rows and second factors sealed under it, for ids that are not on the ring. Raises KeyringError."""
    ring = keyring.ring()
    gone = set(KeyringCanary.objects.exclude(key_id__in=ring.ids).values_list("key_id", flat=True))
    stranded: dict[str, int] = {}
    if gone:
        for model in SEALED_MODELS:
            # Rows that wait for re-entry anyway are nobody's loss.
            waiting = waiting_for_reentry(model).values("pk")
            for key_id, rows in rows_by_key_id(model, model._default_manager.exclude(pk__in=waiting)).items():
                if key_id in gone:
                    stranded[key_id] = stranded.get(key_id, 0) + rows
    for key_id, rows in second_factors.rows_by_key_id().items():
        if key_id not in ring:
            stranded[key_id] = stranded.get(key_id, 0) + rows
    return stranded
