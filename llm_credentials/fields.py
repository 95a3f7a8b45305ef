"""A model field whose values are encrypted, bound to their row, and opaque to their readers.

Uses ``EncryptedTextField`` for its column type and ``keys``/``f`` hooks, and replaces its conversions. The originals
decrypt anything that looks like a token, even on assignment; return the ciphertext when that fails; keep a flag on the
shared field object while cleaning; and do not bind a value to its row.
"""

from __future__ import annotations

import hmac
import json
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from cryptography.fernet import InvalidToken
from django.core.exceptions import FieldError
from django.db import models
from django.db.models.lookups import Exact, IsNull
from django.db.models.query_utils import DeferredAttribute
from django.views.decorators.debug import sensitive_variables
from encrypted_fields.fields import EncryptedTextField

from llm_credentials import keyring

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.models.expressions import Expression

    _Base = models.TextField["Sealed | None", "Sealed | None"]
else:
    _Base = EncryptedTextField

REFUSAL = "A key is stored through its settings page or credential.seal(); nothing else may be assigned to it."


class Unreadable(Exception):
    """The sealed text cannot be opened: lost key, altered text, or another row's. Messages never contain it."""


class Sealed:
    """A sealed value as stored in the database. Only its field reads the contents."""

    __slots__ = ("_stored",)
    _stored: str

    def __init__(self, stored: str) -> None:
        object.__setattr__(self, "_stored", stored)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("A sealed value does not change.")

    def __repr__(self) -> str:
        return "<Sealed>"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return "<Sealed>"

    def __bool__(self) -> bool:
        return bool(self._stored)

    def __eq__(self, other: object) -> bool:
        """Sealing one secret twice gives unequal values; only identical ciphertext is equal."""
        if not isinstance(other, Sealed):
            return NotImplemented
        return hmac.compare_digest(self._digest(), other._digest())

    def __hash__(self) -> int:
        return hash(self._digest())

    def __copy__(self) -> Sealed:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Sealed:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("A sealed value is never pickled: pass the credential's id instead.")

    def _digest(self) -> bytes:
        return sha256(self._stored.encode("utf-8", "surrogatepass")).digest()

    @property
    def key_id(self) -> str:
        """The id of the encryption key that it names; empty for a text in another format."""
        return keyring.key_id_of(self._stored)


class SealingRow(Protocol):
    def sealing_context(self, field: SealedField) -> str:
        """The context that the value is bound to: ``table.column|row|owner|provider|base_url``."""
        ...


class _SealedAttribute(DeferredAttribute):
    """Accepts only Sealed or None, so that plain text cannot be assigned."""

    def __set__(self, instance: models.Model, value: object) -> None:
        if value is not None and not isinstance(value, Sealed):
            raise TypeError(REFUSAL)
        instance.__dict__[self.field.attname] = value


class SealedField(_Base):
    """Reads and writes ``Sealed | None``; only ``seal`` and ``open`` convert from and to plain text.

    Excluded from forms, fixtures and lookups (except ``isnull`` and ``unchanged``).
    """

    description = "Sealed text"
    descriptor_class = _SealedAttribute

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs | {"editable": False, "serialize": False})

    @property
    def keys(self) -> list[bytes]:
        """Raises KeyringError. Never derived from SECRET_KEY, so that a site can change SECRET_KEY at any time."""
        return keyring.ring().fernet_keys

    @property
    def f(self) -> keyring.KeyRing:
        """Not cached on the field, so that it follows changes of the ring. Raises KeyringError."""
        return keyring.ring()

    @sensitive_variables()
    def seal(self, row: SealingRow, plain: str) -> Sealed:
        """Sealed for this row only, in its current context. Raises KeyringError, ValueError."""
        if not plain or not plain.isascii() or keyring.looks_sealed(plain):
            raise ValueError("Only a plain, non-empty ASCII text can be sealed, and no ciphertext.")
        payload = json.dumps([row.sealing_context(self), plain])
        return Sealed(self.f.encrypt(payload.encode()).decode("ascii"))

    @sensitive_variables()
    def open(self, row: SealingRow, sealed: Sealed) -> str:
        """Raises Unreadable, also for a text sealed for another row, owner, provider or address."""
        context, plain = self._payload(sealed)
        if not hmac.compare_digest(context.encode(), row.sealing_context(self).encode()):
            raise Unreadable
        return plain

    @sensitive_variables()
    def resealed(self, row: SealingRow, sealed: Sealed) -> Sealed:
        """The same secret, for the same row, sealed under the ring's first key. Raises Unreadable, KeyringError."""
        return self.seal(row, self.open(row, sealed))

    @sensitive_variables()
    def _payload(self, sealed: Sealed) -> tuple[str, str]:
        """(context, plain text), without checking which row it belongs to. Raises Unreadable."""
        payload: object = None
        # Unreadable is raised outside the handler: these exceptions would stay attached as context, some with the text
        # in them.
        with suppress(InvalidToken, keyring.KeyringError, ValueError):
            payload = json.loads(self.f.decrypt(sealed._stored.encode("utf-8", "surrogatepass")))
        match payload:
            case [str() as context, str() as plain]:
                return context, plain
            case _:
                raise Unreadable

    def from_db_value(
        self, value: str | None, expression: Expression, connection: BaseDatabaseWrapper
    ) -> Sealed | None:
        return None if value is None else Sealed(value)

    def to_python(self, value: Any) -> Any:
        return value

    def clean(self, value: Any, model_instance: models.Model | None) -> Any:
        return value

    def get_prep_value(self, value: Any) -> Any:
        if value is None or hasattr(value, "resolve_expression"):
            return value
        if not isinstance(value, Sealed):
            raise TypeError(REFUSAL)
        return value._stored

    def value_to_string(self, obj: models.Model) -> str:
        return ""

    def formfield(self, *args: Any, **kwargs: Any) -> None:
        return None

    def get_lookup(self, lookup_name: str) -> Any:
        match lookup_name:
            case "isnull":
                return IsNull
            case "unchanged":
                # ``api_key__unchanged=<Sealed>`` for compare-and-swap: the column still holds exactly these bytes.
                return Exact
            case _:
                raise FieldError("A sealed value cannot be searched: the same secret never looks the same twice.")

    def get_transform(self, lookup_name: str) -> NoReturn:
        raise FieldError("A sealed value cannot be searched: the same secret never looks the same twice.")
