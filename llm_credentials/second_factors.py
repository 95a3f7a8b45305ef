"""The sealed secrets of second factors, for rotation: losing one would lock its owner out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

from allauth.mfa.models import Authenticator
from cryptography.fernet import InvalidToken
from django.db import transaction

from llm_credentials import keyring
from llm_credentials.retries import with_retries

TABLE: Final[str] = Authenticator._meta.db_table


def rows_by_key_id() -> dict[str, int]:
    """Key id → number of second factors with a value sealed under it."""
    found: Counter[str] = Counter()
    for data in Authenticator.objects.order_by("pk").values_list("data", flat=True).iterator(chunk_size=1000):
        found.update(set(_key_ids(data)))
    return dict(found)


def reseal() -> int:
    """Seal every secret under the first key. Returns how many factors could not be opened. Raises KeyringError."""
    ring = keyring.ring()
    rows = Authenticator.objects.order_by("pk").values_list("pk", "data")
    waiting = [pk for pk, data in rows.iterator(chunk_size=1000) if set(_key_ids(data)) - {ring.primary.id}]
    return sum(not with_retries(partial(_reseal, pk, ring)) for pk in waiting)


def _reseal(pk: Any, ring: keyring.KeyRing) -> bool:
    """Whether it opens, or no longer exists."""
    with transaction.atomic():
        row = Authenticator.objects.select_for_update().filter(pk=pk).first()
        if row is None:
            return True
        try:
            row.data = _resealed(row.data, ring)
        except InvalidToken:
            return False
        row.save(update_fields=["data"])
    return True


def _key_ids(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if key_id := keyring.key_id_of(value):
            yield key_id
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _key_ids(each)


def _resealed(value: Any, ring: keyring.KeyRing) -> Any:
    """The same JSON with every sealed text in it re-sealed. Raises InvalidToken."""
    match value:
        case str() if keyring.key_id_of(value) not in ("", ring.primary.id):
            return ring.encrypt(ring.decrypt(value.encode())).decode()
        case dict():
            return {name: _resealed(each, ring) for name, each in value.items()}
        case list():
            return [_resealed(each, ring) for each in value]
        case _:
            return value
