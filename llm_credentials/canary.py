"""Detects a wrong key ring before users do, with one known text sealed under each key when the key is first used."""

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
    """Store a canary for the sealing key at its first use. Raises KeyringError when the key differs from the stored
    canary.
    """
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
    """Ids on the ring whose key has changed; the ring keeps them, so lists can mark the affected rows. Raises
    KeyringError.
    """
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
    """Whether this database holds anything sealed, which a newly created ring could not open."""
    tables = set(connection.introspection.table_names())
    # Check this first, and each table separately: a database from before an update lacks some of them.
    if KeyringCanary._meta.db_table in tables and KeyringCanary.objects.exists():
        return True
    if second_factors.TABLE in tables and second_factors.rows_by_key_id():
        return True
    return any(column.rows().exists() for column in sealed_columns() if column.model._meta.db_table in tables)


@open_for("what is sealed under keys that are gone")
def stranded_rows() -> dict[str, int]:
    """Key id → rows and second factors sealed under it, for ids that are not on the ring. Raises KeyringError."""
    ring = keyring.ring()
    # Only ids that once had a canary: a row that names a key which never existed was tampered with and must not stop a
    # site.
    gone = set(KeyringCanary.objects.exclude(key_id__in=ring.ids).values_list("key_id", flat=True))
    stranded: dict[str, int] = {}
    for column in sealed_columns() if gone else ():
        # Rows that already wait for re-entry lose nothing.
        waiting = column.waiting_for_reentry().values("pk")
        for key_id, rows in column.rows_by_key_id(column.all_rows().exclude(pk__in=waiting)).items():
            if key_id in gone:
                stranded[key_id] = stranded.get(key_id, 0) + rows
    for key_id, rows in second_factors.rows_by_key_id().items():
        if key_id not in ring:
            stranded[key_id] = stranded.get(key_id, 0) + rows
    return stranded
