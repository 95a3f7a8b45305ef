from __future__ import annotations

import base64
import pickle
from collections.abc import Sequence
from typing import Any

import pytest
from cryptography.fernet import Fernet, InvalidToken

from llm_credentials import keyring
from llm_credentials.keyring import KeyRing, KeyringError, KeysFromText, RingKey

FIRST = bytes(range(32))
SECOND = bytes(range(32, 64))


def encoded(secret: bytes) -> str:
    return base64.b64encode(secret).decode()


def ring_of(text: str) -> KeyRing:
    return KeyRing(KeysFromText(text).keys())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "CREDENTIAL_KEYS is empty"),
        (" \n", "CREDENTIAL_KEYS is empty"),
        (encoded(FIRST), "entry 1: it is not of the form id:base64"),
        (f"k1:{encoded(FIRST)},", "entry 2: it is not of the form id:base64"),
        (f",k1:{encoded(FIRST)}", "entry 1: it is not of the form id:base64"),
        (f":{encoded(FIRST)}", "entry 1: the id must be"),
        (f"two words:{encoded(FIRST)}", "entry 1: the id must be"),
        (f"{'k' * 33}:{encoded(FIRST)}", "entry 1: the id must be"),
        ("k1:", "entry 1 (id 'k1'): the key is 0 bytes long, not 32"),
        ("k1:not base64!", "entry 1 (id 'k1'): what follows the id is not base64"),
        ("k1:schlüssel", "entry 1 (id 'k1'): what follows the id is not base64"),
        (f"k1:{encoded(FIRST)}:k2", "entry 1 (id 'k1'): what follows the id is not base64"),
        (f"k1:{encoded(FIRST[:31])}", "entry 1 (id 'k1'): the key is 31 bytes long, not 32"),
        (f"k1:{encoded(FIRST + b'x')}", "entry 1 (id 'k1'): the key is 33 bytes long, not 32"),
        (f"k1:{encoded(FIRST)},k1:{encoded(SECOND)}", "names the key id 'k1' twice"),
        (f"k1:{encoded(FIRST)},k2:{encoded(FIRST)}", "the same key under two ids"),
    ],
)
def test_bad_ring_is_named_without_its_key(text: str, message: str) -> None:
    with pytest.raises(KeyringError) as caught:
        KeysFromText(text).keys()
    assert message in str(caught.value)
    assert caught.value.hint
    for entry in text.split(","):
        secret = entry.partition(":")[2] or entry
        assert len(secret.strip()) < 3 or secret not in str(caught.value) + caught.value.hint


def test_both_alphabets_of_base64_are_read_with_and_without_padding() -> None:
    secret = b"\xfb\xff" * 16
    spellings = {encoded(secret), encoded(secret).rstrip("="), base64.urlsafe_b64encode(secret).decode()}
    assert len(spellings) == 3
    assert {ring_of(f"k1:{text}").fernet_keys[0] for text in spellings} == {base64.urlsafe_b64encode(secret)}


def test_space_around_entries_is_ignored() -> None:
    assert ring_of(f" k1:{encoded(FIRST)} ,\n k2:{encoded(SECOND)}\n").ids == ("k1", "k2")


def test_first_key_seals_and_every_key_opens() -> None:
    old = ring_of(f"k1:{encoded(FIRST)}")
    both = ring_of(f"k2:{encoded(SECOND)},k1:{encoded(FIRST)}")
    assert both.decrypt(old.encrypt(b"text")) == b"text"
    assert both.encrypt(b"text").startswith(b"v1:k2:gAAAA")
    with pytest.raises(InvalidToken):
        old.decrypt(both.encrypt(b"text"))


def test_token_opens_only_under_the_id_it_names() -> None:
    both = ring_of(f"k2:{encoded(SECOND)},k1:{encoded(FIRST)}")
    token = both.encrypt(b"text")
    with pytest.raises(InvalidToken):
        both.decrypt(token.replace(b"v1:k2:", b"v1:k1:"))


def test_token_of_another_format_does_not_open() -> None:
    ring = ring_of(f"k1:{encoded(FIRST)}")
    for version in (b"v0", b"v2", b"V1", b"", b"v1 "):
        with pytest.raises(InvalidToken):
            ring.decrypt(version + ring.encrypt(b"text").removeprefix(b"v1"))


@pytest.mark.parametrize(
    "token", [b"", b"v1", b"v1:k1", b"v1:k1:", b"v2:k1:x", b"gAAAA", b"\xff\xfe", b"v1::x", b":::"]
)
def test_malformed_token_does_not_open(token: bytes) -> None:
    with pytest.raises(InvalidToken):
        ring_of(f"k1:{encoded(FIRST)}").decrypt(token)


def test_bare_fernet_token_of_the_same_key_does_not_open() -> None:
    ring = ring_of(f"k1:{encoded(FIRST)}")
    with pytest.raises(InvalidToken):
        ring.decrypt(Fernet(ring.fernet_keys[0]).encrypt(b"text"))


def test_fingerprint_depends_on_secret_and_key_and_is_not_the_secret() -> None:
    both = ring_of(f"k2:{encoded(SECOND)},k1:{encoded(FIRST)}")
    own = both.fingerprint("sk-1")
    assert own == both.fingerprint("sk-1", key_id="k2")
    assert len({own, both.fingerprint("sk-2"), both.fingerprint("sk-1", key_id="k1")}) == 3
    assert len(own) == 32


def test_ring_and_its_keys_show_ids_only_and_are_not_pickled() -> None:
    ring = ring_of(f"k1:{encoded(FIRST)}")
    shown = repr(ring) + repr(ring.primary) + str(ring)
    assert "k1" in shown
    assert encoded(FIRST) not in shown
    with pytest.raises(TypeError):
        pickle.dumps(ring)


def test_ring_is_parsed_once_for_one_setting(settings: Any) -> None:
    settings.CREDENTIAL_KEYS = f"k1:{encoded(FIRST)}"
    first = keyring.ring()
    assert keyring.ring() is first
    settings.CREDENTIAL_KEYS = f"k2:{encoded(SECOND)}"
    assert keyring.ring().ids == ("k2",)


def test_keys_may_come_from_elsewhere() -> None:
    class Vault:
        def keys(self) -> Sequence[RingKey]:
            return [RingKey("kms-7", SECOND)]

    source: keyring.KeyProvider = Vault()
    assert KeyRing(source.keys()).encrypt(b"x").startswith(b"v1:kms-7:")


@pytest.mark.parametrize(
    "text", ["v1:k1:gAAAAabc", "v2:x:y", "gAAAAABk0123456789012345678901234567890", "enc:fernet:k:x"]
)
def test_ciphertexts_are_recognised(text: str) -> None:
    assert keyring.looks_sealed(text)


@pytest.mark.parametrize("text", ["sk-proj-abc", "gAAAA", "v1-key-without-colons", "AIzaSyA-0123", "v1:only-one-colon"])
def test_keys_are_not_taken_for_ciphertexts(text: str) -> None:
    assert not keyring.looks_sealed(text)


@pytest.mark.parametrize("change", ["A", "=", "-", "=A", "\n", "*"])
def test_a_lengthened_text_does_not_open(change: str) -> None:
    ring = keyring.ring()
    sealed = ring.encrypt(b"secret").decode()
    assert ring.decrypt(sealed.encode()) == b"secret"
    with pytest.raises(InvalidToken):
        ring.decrypt((sealed + change).encode())
    with pytest.raises(InvalidToken):
        ring.decrypt((sealed[:-4] + change + sealed[-4:]).encode())


def test_spare_bits_of_the_last_character_do_not_pass() -> None:
    """Of a length that leaves some: another character there stands for the very same bytes."""
    ring = keyring.ring()
    sealed = next(text for text in (ring.encrypt(b"x" * n).decode() for n in range(40)) if text.endswith("="))
    place = len(sealed.rstrip("=")) - 1
    others = [sealed[:place] + chr(code) + sealed[place + 1 :] for code in range(33, 127) if chr(code) != sealed[place]]
    for other in others:
        with pytest.raises(InvalidToken):
            ring.decrypt(other.encode())
