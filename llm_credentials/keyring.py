"""The ring of encryption keys: the first one encrypts, all of them decrypt, and each sealed text names its key.

A sealed text is ``v1:<key id>:<Fernet token>``. Each key is 32 random bytes and needs no key stretching: the bytes are
the Fernet key, and the keys of fingerprints and of the audit chain are derived from them under separate labels.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Protocol

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.core.exceptions import ImproperlyConfigured

from llm_credentials import conf

FORMAT = "v1"
KEY_BYTES = 32
NEW_KEY_HINT = (
    "Make a key with: python -c 'import base64, os; print(base64.b64encode(os.urandom(32)).decode())' "
    "and set CREDENTIAL_KEYS=<a short id>:<that text>."
)
_KEY_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
_SEALED = re.compile(r"(v\d{1,3}:[^:\s]{1,64}:\S+)|(gAAAA[\w=-]{20,})|(enc:\S+)", re.ASCII)


class KeyringError(ImproperlyConfigured):
    """The ring is unusable. The message names the bad entry, never its contents."""

    def __init__(self, message: str, *, hint: str = NEW_KEY_HINT) -> None:
        super().__init__(message)
        self.hint = hint


class RingKey:
    """One encryption key with its id."""

    __slots__ = ("_fingerprint_key", "audit_key", "fernet", "fernet_key", "id")

    def __init__(self, key_id: str, secret: bytes) -> None:
        self.id = key_id
        self.fernet_key = base64.urlsafe_b64encode(secret)
        self.fernet = Fernet(self.fernet_key)
        self._fingerprint_key = _derived(secret, b"keyswitch api-key fingerprint v1")
        self.audit_key = _derived(secret, b"keyswitch audit chain v1")
        """Signs audit events; see ``audit.keys``."""

    def __repr__(self) -> str:
        return f"<RingKey {self.id}>"

    def __reduce__(self) -> str:
        raise TypeError("An encryption key is never pickled.")

    def fingerprint(self, secret: str) -> str:
        """32 hex digits: deterministic for a secret, meaningless without this key."""
        return hmac.new(self._fingerprint_key, secret.encode(), sha256).hexdigest()[:32]


def _derived(secret: bytes, label: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=label).derive(secret)


class KeyProvider(Protocol):
    """Source of the keys: the setting, or a key management service."""

    def keys(self) -> Sequence[RingKey]:
        """The sealing key first. Raises KeyringError."""
        ...


class KeysFromText:
    """Keys in the format of ``CREDENTIAL_KEYS``: ``id:base64(32 bytes)[,id:…]``."""

    def __init__(self, text: str) -> None:
        self._text = text

    def keys(self) -> list[RingKey]:
        if not self._text.strip():
            raise KeyringError("CREDENTIAL_KEYS is empty: there is no key to seal API keys with.")
        entries = [_parse_entry(number, entry) for number, entry in enumerate(self._text.split(","), start=1)]
        ids = [key_id for key_id, _ in entries]
        secrets = [secret for _, secret in entries]
        for key_id in ids:
            if ids.count(key_id) > 1:
                raise KeyringError(
                    f"CREDENTIAL_KEYS names the key id {key_id!r} twice.",
                    hint="Give each key an id of its own; sealed texts name their key by it.",
                )
        if len(set(secrets)) < len(secrets):
            raise KeyringError("CREDENTIAL_KEYS holds the same key under two ids.")
        return [RingKey(key_id, secret) for key_id, secret in entries]


def _parse_entry(number: int, entry: str) -> tuple[str, bytes]:
    """One ``id:base64`` entry. Messages show ``number``, counted from 1, in place of the text."""
    where = f"CREDENTIAL_KEYS, entry {number}"
    key_id, colon, encoded = entry.strip().partition(":")
    if not colon:
        raise KeyringError(f"{where}: it is not of the form id:base64.")
    if not _KEY_ID.fullmatch(key_id):
        raise KeyringError(f"{where}: the id must be 1 to 32 letters, digits, dots, dashes or underscores.")
    try:
        secret = _decode(encoded.strip())
    except (binascii.Error, ValueError):
        # `from None`: the chained exception would contain the text.
        raise KeyringError(f"{where} (id {key_id!r}): what follows the id is not base64.") from None
    if len(secret) != KEY_BYTES:
        raise KeyringError(f"{where} (id {key_id!r}): the key is {len(secret)} bytes long, not {KEY_BYTES}.")
    return key_id, secret


def _decode(encoded: str) -> bytes:
    """Both alphabets of base64, with or without padding. Raises ValueError or binascii.Error."""
    text = encoded.rstrip("=").replace("-", "+").replace("_", "/")
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


class KeyRing:
    """Seals with its first key and opens with all. Has the interface of a Fernet, but its tokens name their key."""

    def __init__(self, keys: Iterable[RingKey]) -> None:
        found = list(keys)
        self._keys = {key.id: key for key in found}
        self.primary = found[0]
        self.lost_ids: frozenset[str] = frozenset()
        """Ids whose key is not the one this database was sealed with, as ``canary`` last found."""

    def __repr__(self) -> str:
        return f"<KeyRing {', '.join(self._keys)}>"

    def __contains__(self, key_id: str) -> bool:
        return key_id in self._keys

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self._keys)

    @property
    def fernet_keys(self) -> list[bytes]:
        return [key.fernet_key for key in self._keys.values()]

    def audit_key(self, key_id: str) -> bytes | None:
        key = self._keys.get(key_id)
        return key.audit_key if key else None

    def encrypt(self, data: bytes) -> bytes:
        return f"{FORMAT}:{self.primary.id}:".encode() + self.primary.fernet.encrypt(data)

    def decrypt(self, token: bytes) -> bytes:
        """Raises InvalidToken for another format, a key that is not on the ring, or an altered text."""
        try:
            version, key_id, fernet_token = token.decode("ascii").split(":", 2)
        except (UnicodeDecodeError, ValueError):
            raise InvalidToken from None
        key = self._keys.get(key_id)
        if version != FORMAT or key is None or not _is_canonical(fernet_token):
            raise InvalidToken
        return key.fernet.decrypt(fernet_token)

    def guessable_ids(self) -> list[str]:
        """Ids of keys with too few distinct bytes to be random."""
        return [
            key.id
            for key in self._keys.values()
            if len(set(base64.urlsafe_b64decode(key.fernet_key))) <= KEY_BYTES // 2
        ]

    def fingerprint(self, secret: str, *, key_id: str | None = None) -> str:
        """Made with the sealing key or the named one. Raises KeyError when the named key is not on the ring."""
        key = self.primary if key_id is None else self._keys[key_id]
        return key.fingerprint(secret)


def _is_canonical(token: str) -> bool:
    """Whether the token has its canonical encoding. Base64 decoding is lenient: it ignores foreign characters, data
    after the padding and the spare bits of the last character.
    """
    try:
        return base64.urlsafe_b64encode(base64.urlsafe_b64decode(token)).decode() == token
    except (binascii.Error, ValueError):
        return False


_current: tuple[str, KeyRing] | None = None


def ring() -> KeyRing:
    """The site's ring, parsed once per value of the setting. Raises KeyringError."""
    global _current
    text = conf.credential_keys()
    known = _current
    if known is None or known[0] != text:
        known = _current = (text, KeyRing(KeysFromText(text).keys()))
    return known[1]


def same_fingerprint(plain: str, fingerprint: str, *, key_id: str) -> bool:
    """Whether this is the text's fingerprint under the key with that id. Raises KeyringError."""
    current = ring()
    return key_id in current and hmac.compare_digest(current.fingerprint(plain, key_id=key_id), fingerprint)


def key_id_of(stored: str) -> str:
    """The key id that a stored text names; empty for a text in another format."""
    parts = stored.split(":", 2)
    return parts[1] if len(parts) == 3 and parts[0] == FORMAT else ""


def looks_sealed(text: str) -> bool:
    """Whether this is a ciphertext, ours or a bare Fernet token, and therefore not an API key."""
    return _SEALED.match(text) is not None
