"""Sealed values open for their row alone, and show nothing."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.db import models
from django.db.models.functions import Cast
from encrypted_fields.fields import EncryptedTextField
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_credentials import keyring, services
from llm_credentials.fields import Sealed, SealedField
from llm_credentials.models import SystemCredential, UserCredential
from llm_credentials.providers import CredentialUnreadable
from llm_credentials.tests.factories import ConnectionTestFactory, SystemCredentialFactory, UserCredentialFactory
from llm_credentials.tests.sealed_text import ALICE_KEY, BOB_KEY, fresh, put_text, stored_text


@pytest.fixture
def hers(alice: Any) -> UserCredential:
    return UserCredentialFactory(user=alice, key=ALICE_KEY)


@pytest.fixture
def his(bob: Any) -> UserCredential:
    return UserCredentialFactory(user=bob, key=BOB_KEY)


# The binding


def test_field_is_the_librarys_field_with_keys_from_the_ring() -> None:
    field = UserCredential._meta.get_field("api_key")
    assert isinstance(field, SealedField)
    assert isinstance(field, EncryptedTextField)
    assert field.keys == keyring.ring().fernet_keys
    assert field.f.decrypt(field.f.encrypt(b"text")) == b"text"


def test_stored_text_has_format_key_id_and_a_fernet_token(hers: UserCredential) -> None:
    version, key_id, token = stored_text(hers).split(":")
    assert (version, key_id) == ("v1", "t1")
    context, plain = json.loads(Fernet(keyring.ring().fernet_keys[0]).decrypt(token.encode()))
    assert context == f"user_llm_credentials.api_key|{hers.pk}|{hers.user_id}|openai|"
    assert plain == ALICE_KEY


@pytest.mark.parametrize(
    "change", [{"base_url": "https://evil.example/v1"}, {"provider": "groq"}, {"id": uuid.uuid4()}]
)
def test_key_opens_only_for_the_row_and_destination_it_was_sealed_for(
    hers: UserCredential, change: dict[str, Any]
) -> None:
    row = fresh(hers)
    for name, value in change.items():
        setattr(row, name, value)
    with pytest.raises(CredentialUnreadable):
        row.reveal()


def test_key_does_not_follow_its_row_to_another_owner(hers: UserCredential, bob: Any) -> None:
    UserCredential.objects.filter(pk=hers.pk).update(user=bob)
    with pytest.raises(CredentialUnreadable):
        fresh(hers).reveal()


def test_key_does_not_open_in_another_table(hers: UserCredential) -> None:
    system = SystemCredentialFactory(id=hers.pk, key="sk-system-0123456789abcdef")
    put_text(system, stored_text(hers))
    SystemCredential.objects.update(fingerprint=hers.fingerprint)
    with pytest.raises(CredentialUnreadable):
        SystemCredential.objects.get().reveal()


def test_an_older_ciphertext_of_the_same_row_does_not_open(hers: UserCredential) -> None:
    old = stored_text(hers)
    services.credential_save(user=hers.user, provider=hers.provider, api_key="sk-alice-replaced-0123456789")
    put_text(hers, old)
    with pytest.raises(CredentialUnreadable):
        fresh(hers).reveal()


def test_plain_text_in_the_column_is_never_handed_out(hers: UserCredential) -> None:
    for text in ("sk-plain-in-the-column-000", "", "v1:t1:", "v1:t1:gAAAA", "v2:" + stored_text(hers)[3:], "é:ü:ß"):
        put_text(hers, text)
        with pytest.raises(CredentialUnreadable):
            fresh(hers).reveal()


def test_a_payload_of_another_shape_does_not_open(hers: UserCredential) -> None:
    for payload in (b"sk-plain", b"[]", b'["a","b","c"]', b'[1, "b"]', b"\xff", b'{"a": 1}'):
        put_text(hers, keyring.ring().encrypt(payload).decode())
        with pytest.raises(CredentialUnreadable):
            fresh(hers).reveal()


@pytest.mark.django_db
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_mutation_of_the_stored_text_ever_opens(data: st.DataObject) -> None:
    row = UserCredential(user_id=7, provider="openai")
    row.seal(ALICE_KEY)
    assert row.api_key is not None
    original = row.api_key._stored
    position = data.draw(st.integers(0, len(original) - 1))
    character = data.draw(st.characters(min_codepoint=0, max_codepoint=0x2FF))
    mutation = data.draw(st.sampled_from(["flip", "cut", "drop", "insert", "plain", "double"]))
    changed = {
        "flip": original[:position] + character + original[position + 1 :],
        "cut": original[:position],
        "drop": original[:position] + original[position + 1 :],
        "insert": original[:position] + character + original[position:],
        "plain": ALICE_KEY,
        "double": keyring.ring().encrypt(original.encode()).decode(),
    }[mutation]
    row.api_key = Sealed(changed)
    if changed == original:
        assert row.reveal() == ALICE_KEY
        return
    try:
        opened = row.reveal()
    except CredentialUnreadable:
        return
    # Base64 has several spellings of its last bits and its padding: the very same bytes, so nothing was changed.
    assert opened == ALICE_KEY
    assert Fernet(keyring.ring().fernet_keys[0]).extract_timestamp(changed.split(":", 2)[2].encode()) > 0


def test_errors_carry_neither_key_nor_ciphertext_in_their_chain(hers: UserCredential) -> None:
    payload = json.dumps(["another context", ALICE_KEY])
    for data in (payload, payload[:-1], ALICE_KEY):
        put_text(hers, keyring.ring().encrypt(data.encode()).decode())
        row = fresh(hers)
        with pytest.raises(CredentialUnreadable) as caught:
            row.reveal()
        error: BaseException | None = caught.value
        while error is not None:
            assert ALICE_KEY not in repr(error) + repr(vars(error))
            error = error.__context__


def test_seals_are_equal_only_when_they_are_the_same_text(hers: UserCredential) -> None:
    first = fresh(hers).api_key
    assert first == fresh(hers).api_key
    assert hash(first) == hash(fresh(hers).api_key)
    hers.seal(ALICE_KEY)
    assert first != hers.api_key
    assert first != stored_text(hers)


def test_a_seal_does_not_change(hers: UserCredential) -> None:
    with pytest.raises(AttributeError):
        hers.api_key._stored = "x"  # type: ignore[union-attr]


def test_cast_shows_what_is_stored_and_never_the_key(hers: UserCredential) -> None:
    text = UserCredential.objects.annotate(text=Cast("api_key", models.TextField())).values_list("text", flat=True)[0]
    assert text.startswith("v1:t1:")
    assert ALICE_KEY not in text


def test_an_unsaved_test_keeps_its_own_sealed_key(alice: Any) -> None:
    test = ConnectionTestFactory(user=alice, key=ALICE_KEY, base_url="https://gate.example/v1")
    assert type(test).objects.get(pk=test.pk).reveal() == ALICE_KEY


def test_opening_happens_in_one_place_for_each_kind_of_key() -> None:
    from pathlib import Path

    root = Path(__file__).resolve().parents[2]
    callers = {
        str(path.relative_to(root))
        for package in ("project", "agents", "llm_credentials")
        for path in (root / package).rglob("*.py")
        if "tests" not in path.parts and ".reveal()" in path.read_text()
    }
    assert callers == {"llm_credentials/opening.py", "llm_credentials/search_keys.py", "agents/tools/mcp.py"}
