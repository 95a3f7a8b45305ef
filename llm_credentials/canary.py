"""Detects a wrong key ring before users do: one known text for each key, sealed when the key is first used."""

from __future__ import annotations

from cryptography.fernet import InvalidToken
from django.db import IntegrityError, connection, transaction

from llm_credentials import keyring, second_factors
from llm_credentials.models import KeyringCanary
from llm_credentials.sealed_columns import sealed_columns
from llm_credentials.wall import open_for

_TEXT = b"keyswitch keyring canary"

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


def tables_exist() -> bool:
    """False before the first migration."""
    sealed = {column.model._meta.db_table for column in sealed_columns()}
    needed = {KeyringCanary._meta.db_table, second_factors.TABLE, *sealed}
    return needed <= set(connection.introspection.table_names())


@open_for("whether anything is sealed here")
def holds_sealed_rows() -> bool:
    """Whether anything in this database was ever sealed, so that a ring made anew could not open it."""
    tables = set(connection.introspection.table_names())
    # First, and table by table: a database from before an update lacks some of them.
    if KeyringCanary._meta.db_table in tables and KeyringCanary.objects.exists():
        return True
    if second_factors.TABLE in tables and second_factors.rows_by_key_id():
        return True
    return any(column.rows().exists() for column in sealed_columns() if column.model._meta.db_table in tables)


@open_for("what is sealed under keys that are gone")
def stranded_rows() -> dict[str, int]:
    """Key id → rows and second factors sealed under it, for ids that are not on the ring. Raises KeyringError."""
    ring = keyring.ring()
    # Of these alone: a row that names a key which never was has been tampered with, and is no reason to stop a site.
    gone = set(KeyringCanary.objects.exclude(key_id__in=ring.ids).values_list("key_id", flat=True))
    stranded: dict[str, int] = {}
    for column in sealed_columns() if gone else ():
        # Rows that wait for re-entry anyway are nobody's loss.
        waiting = column.waiting_for_reentry().values("pk")
        for key_id, rows in column.rows_by_key_id(column.all_rows().exclude(pk__in=waiting)).items():
            if key_id in gone:
                stranded[key_id] = stranded.get(key_id, 0) + rows
    for key_id, rows in second_factors.rows_by_key_id().items():
        if key_id not in ring:
            stranded[key_id] = stranded.get(key_id, 0) + rows
    return stranded
