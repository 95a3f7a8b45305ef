"""The keys that sign the chains: one derived from each encryption key, stored sealed so that it outlives that key."""

from __future__ import annotations

import base64

from cryptography.fernet import InvalidToken

from llm_credentials import keyring
from llm_credentials.models import AuditKey


def signing() -> tuple[str, bytes]:
    """(id, key) of the ring's first key. Raises KeyringError."""
    primary = keyring.ring().primary
    return primary.id, primary.audit_key


def keep(key_id: str) -> None:
    """Store the audit key of this ring key at its first use."""
    ring = keyring.ring()
    key = ring.audit_key(key_id)
    assert key is not None
    row = AuditKey(key_id=key_id, sealed=_sealed(ring, key_id, key))
    AuditKey.objects.bulk_create([row], ignore_conflicts=True)


def verifying(key_id: str) -> bytes | None:
    """The audit key of a current or former encryption key; None when it cannot be recovered."""
    ring = keyring.ring()
    key = ring.audit_key(key_id)
    if key is not None:
        return key
    row = AuditKey.objects.filter(key_id=key_id).first()
    return _opened(ring, row) if row else None


def reseal() -> int:
    """Seal every stored audit key under the ring's first key. Returns how many this ring cannot open."""
    ring = keyring.ring()
    unreadable = 0
    for row in AuditKey.objects.all():
        if keyring.key_id_of(row.sealed) == ring.primary.id:
            continue
        key = ring.audit_key(row.key_id) or _opened(ring, row)
        if key is None:
            unreadable += 1
            continue
        AuditKey.objects.filter(pk=row.pk, sealed=row.sealed).update(sealed=_sealed(ring, row.key_id, key))
    return unreadable


def needed_ids() -> set[str]:
    """Ids of the encryption keys that still seal audit keys."""
    return {keyring.key_id_of(sealed) for sealed in AuditKey.objects.values_list("sealed", flat=True)}


def _sealed(ring: keyring.KeyRing, key_id: str, key: bytes) -> str:
    return ring.encrypt(f"audit|{key_id}|{base64.b64encode(key).decode()}".encode()).decode()


def _opened(ring: keyring.KeyRing, row: AuditKey) -> bytes | None:
    try:
        context, key_id, encoded = ring.decrypt(row.sealed.encode()).decode().split("|")
    except (InvalidToken, ValueError):
        return None
    return base64.b64decode(encoded) if (context, key_id) == ("audit", row.key_id) else None
