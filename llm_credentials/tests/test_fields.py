"""The sealed column against everything that is wrong with an encrypted field used plainly (d01 to d11), and more."""

from __future__ import annotations

import copy
import io
import json
import pickle
import sys
import threading
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django import forms
from django.core import serializers
from django.core.cache import cache
from django.core.exceptions import FieldError, ValidationError
from django.core.management import call_command
from django.core.serializers.base import DeserializationError
from django.core.serializers.json import DjangoJSONEncoder
from django.db import connection, models, transaction
from django.db.models.functions import Cast
from encrypted_fields.fields import EncryptedTextField
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_credentials import keyring, services
from llm_credentials.admin.system_credentials import SystemCredentialForm
from llm_credentials.fields import Sealed, SealedField
from llm_credentials.models import SystemCredential, UserCredential
from llm_credentials.providers import CredentialUnreadable
from llm_credentials.tests.factories import ConnectionTestFactory, SystemCredentialFactory, UserCredentialFactory

ALICE_KEY = "sk-alice-canary-0123456789abcdef"
BOB_KEY = "sk-bob-canary-fedcba9876543210"
OTHER_RING = "t9:ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA="
SAME_ID_OTHER_KEY = "t1:ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA="


@pytest.fixture
def hers(alice: Any) -> UserCredential:
    return UserCredentialFactory(user=alice, key=ALICE_KEY)


@pytest.fixture
def his(bob: Any) -> UserCredential:
    return UserCredentialFactory(user=bob, key=BOB_KEY)


def stored_text(row: models.Model) -> str:
    """What stands in the column, past every layer of ours."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT api_key FROM {row._meta.db_table} WHERE id = %s", [_column_id(row)])
        return cursor.fetchone()[0]


def put_text(row: models.Model, text: str | None) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {row._meta.db_table} SET api_key = %s WHERE id = %s", [text, _column_id(row)])


def _column_id(row: models.Model) -> Any:
    return row.pk.hex if connection.vendor == "sqlite" else row.pk


def fresh(row: UserCredential) -> UserCredential:
    return type(row).objects.get(pk=row.pk)


# The list of the library's defects


@pytest.mark.parametrize("ring", [OTHER_RING, SAME_ID_OTHER_KEY, "", "not a ring"])
def test_d01_wrong_or_missing_key_is_an_error_and_never_the_ciphertext(
    hers: UserCredential, settings: Any, ring: str
) -> None:
    settings.CREDENTIAL_KEYS = ring
    row = fresh(hers)
    assert (repr(row.api_key), bool(row.api_key)) == ("<Sealed>", True)
    with pytest.raises(CredentialUnreadable) as caught:
        row.reveal()
    assert stored_text(hers) not in str(caught.value)


def test_d01_truncated_text_is_an_error(hers: UserCredential) -> None:
    put_text(hers, stored_text(hers)[:-7])
    with pytest.raises(CredentialUnreadable):
        fresh(hers).reveal()


def test_d02_saving_an_unreadable_row_writes_the_same_bytes_back(hers: UserCredential, settings: Any) -> None:
    before = stored_text(hers)
    right_ring = settings.CREDENTIAL_KEYS
    settings.CREDENTIAL_KEYS = OTHER_RING
    row = fresh(hers)
    row.save()
    UserCredential.objects.bulk_update([row], ["api_key"])
    assert stored_text(hers) == before
    settings.CREDENTIAL_KEYS = right_ring
    assert fresh(hers).reveal() == ALICE_KEY


def test_d03_a_stale_copy_is_told_from_the_newer_key_before_it_writes(hers: UserCredential) -> None:
    stale = fresh(hers).api_key
    services.credential_save(user=hers.user, provider=hers.provider, api_key="sk-alice-replaced-0123456789")
    swapped = UserCredential.objects.filter(pk=hers.pk, api_key__unchanged=stale).update(api_key=stale)
    assert swapped == 0
    assert fresh(hers).reveal() == "sk-alice-replaced-0123456789"


def test_d04_another_users_ciphertext_in_the_row_does_not_open(hers: UserCredential, his: UserCredential) -> None:
    put_text(his, stored_text(hers))
    with pytest.raises(CredentialUnreadable):
        fresh(his).reveal()
    assert fresh(hers).reveal() == ALICE_KEY


def test_d04_ciphertext_moved_with_its_fingerprint_does_not_open(hers: UserCredential, his: UserCredential) -> None:
    UserCredential.objects.filter(pk=his.pk).update(
        api_key=fresh(hers).api_key, fingerprint=hers.fingerprint, last4=hers.last4
    )
    with pytest.raises(CredentialUnreadable):
        fresh(his).reveal()


def test_d05_pasted_ciphertext_is_refused_and_never_decrypted(hers: UserCredential, his: UserCredential) -> None:
    for pasted in (stored_text(hers), stored_text(his), stored_text(hers).split(":", 2)[2], "enc:fernet:k1:abcdef"):
        with pytest.raises(ValidationError) as caught:
            services.credential_save(user=his.user, provider=his.provider, api_key=pasted)
        assert caught.value.message_dict == {
            "api_key": ["That is an encrypted value, not a key. Enter the key as the provider shows it."]
        }
    assert fresh(his).reveal() == BOB_KEY


def test_d05_sealing_a_ciphertext_directly_is_refused(hers: UserCredential, his: UserCredential) -> None:
    with pytest.raises(ValueError, match="no ciphertext"):
        his.seal(stored_text(hers))


@pytest.mark.parametrize("text", ["sk-plain-text-key-000000", "gAAAAABk0123456789012345678901234567890"])
def test_d05_assigning_text_is_refused_on_every_way_in(hers: UserCredential, text: str) -> None:
    def assign() -> None:
        hers.api_key = text  # type: ignore[assignment]

    ways: list[Callable[[], Any]] = [
        assign,
        lambda: UserCredential(user=hers.user, provider="openai", api_key=text),
        lambda: UserCredential.objects.create(user=hers.user, provider="groq", api_key=text),
        lambda: UserCredential.objects.filter(pk=hers.pk).update(api_key=text),
    ]
    for way in ways:
        with pytest.raises(TypeError) as caught, transaction.atomic():
            way()
        assert text not in str(caught.value)
    assert fresh(hers).reveal() == ALICE_KEY


def test_d05_loaddata_takes_no_key(hers: UserCredential, tmp_path: Any) -> None:
    fixture = json.loads(serializers.serialize("json", [hers]))
    fixture[0]["fields"]["api_key"] = stored_text(hers)
    path = tmp_path / "pasted.json"
    path.write_text(json.dumps(fixture))
    with pytest.raises(DeserializationError) as caught:
        call_command("loaddata", str(path), stdout=io.StringIO())
    assert stored_text(hers) not in str(caught.value)
    assert fresh(hers).reveal() == ALICE_KEY


class _PickyForm(forms.ModelForm):
    """A model form whose model-level validation fails after the key column was cleaned."""

    class Meta:
        model = UserCredential
        fields = ("provider", "name", "priority")


def test_d06_failed_validation_leaves_other_rows_readable(hers: UserCredential, his: UserCredential) -> None:
    hers.name = "x" * 50
    with pytest.raises(ValidationError):
        hers.full_clean()
    form = _PickyForm({"provider": "", "name": "", "priority": "-1"}, instance=fresh(hers))
    assert not form.is_valid()
    assert fresh(his).reveal() == BOB_KEY
    assert vars(UserCredential._meta.get_field("api_key")).get("_already_decrypted") is None


@pytest.mark.django_db(transaction=True)
def test_d07_reads_while_other_threads_validate_are_all_right(alice: Any, bob: Any) -> None:
    rows = [UserCredentialFactory(user=user, key=key) for user, key in ((alice, ALICE_KEY), (bob, BOB_KEY))]
    expected = {row.pk: key for row, key in zip(rows, (ALICE_KEY, BOB_KEY), strict=True)}
    wrong: list[object] = []
    start = threading.Barrier(32)

    def validate() -> None:
        start.wait()
        for _ in range(40):
            row = UserCredential(user=alice, provider="openai", name="x" * 50)
            row.seal("sk-under-validation-000000")
            try:
                row.clean_fields()
            except ValidationError:
                continue
            wrong.append("a name of 50 characters passed")

    def read() -> None:
        start.wait()
        try:
            for _ in range(10):
                for row in UserCredential.objects.filter(pk__in=expected):
                    if row.reveal() != expected[row.pk]:
                        wrong.append(row.pk)
        except Exception as error:  # a thread's exception would vanish
            wrong.append(error)
        finally:
            connection.close()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=validate if number % 2 else read) for number in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []


def test_d08_dumpdata_holds_neither_key_nor_ciphertext(hers: UserCredential) -> None:
    out = io.StringIO()
    call_command("dumpdata", "llm_credentials", stdout=out)
    dumped = out.getvalue()
    assert str(hers.pk) in dumped
    assert "api_key" not in dumped
    assert ALICE_KEY not in dumped
    assert stored_text(hers) not in dumped
    for form in ("json", "xml", "python"):
        assert "api_key" not in str(serializers.serialize(form, UserCredential.objects.all()))


def test_d08_values_are_sealed(hers: UserCredential) -> None:
    rows = UserCredential.objects.filter(pk=hers.pk)
    found = [rows.values("api_key")[0]["api_key"], rows.values_list("api_key", flat=True)[0]]
    assert [str(value) for value in found] == ["<Sealed>", "<Sealed>"]
    assert f"{found[0]} {found[0]!r} {found[0]:>20} %s" % found[0] == "<Sealed> <Sealed> <Sealed> <Sealed>"
    with pytest.raises(TypeError):
        json.dumps(found)
    with pytest.raises(TypeError):
        json.dumps(found, cls=DjangoJSONEncoder)


def test_d08_nothing_that_holds_a_seal_is_pickled_or_cached(hers: UserCredential) -> None:
    row = fresh(hers)
    for value in (row, row.api_key, [row], UserCredential.objects.filter(pk=hers.pk)):
        with pytest.raises(TypeError, match="never pickled"):
            pickle.dumps(value)
    with pytest.raises(TypeError, match="never pickled"):
        cache.set("credential", row)


def test_d08_copies_share_the_seal_and_stay_opaque(hers: UserCredential) -> None:
    sealed = fresh(hers).api_key
    assert copy.copy(sealed) is sealed
    assert copy.deepcopy([sealed])[0] is sealed


def test_d08_no_model_form_has_the_column(hers: UserCredential) -> None:
    form_class = forms.modelform_factory(UserCredential, fields="__all__")
    assert "api_key" not in form_class.base_fields
    html = str(form_class(instance=fresh(hers)))
    assert ALICE_KEY not in html
    assert stored_text(hers) not in html
    with pytest.raises(FieldError):
        forms.modelform_factory(UserCredential, fields=["api_key"])


@pytest.mark.parametrize("typed", [f"{ALICE_KEY}\nX: 1", ALICE_KEY])
def test_d09_invalid_form_does_not_echo_what_was_typed(db: Any, typed: str) -> None:
    form = SystemCredentialForm({"provider": "openai", "name": "two words", "new_key": typed, "priority": "1"})
    assert not form.is_valid()
    assert ALICE_KEY not in form.as_p() + str(form.errors)


@pytest.mark.parametrize("lookup", ["api_key", "api_key__exact", "api_key__startswith", "api_key__in", "api_key__gt"])
def test_d10_searching_the_column_is_an_error(hers: UserCredential, lookup: str) -> None:
    value = [ALICE_KEY] if lookup.endswith("__in") else ALICE_KEY
    for query in (UserCredential.objects.filter, UserCredential.objects.exclude, UserCredential.objects.get):
        with pytest.raises(FieldError):
            query(**{lookup: value})


def test_d10_presence_can_be_asked_for(hers: UserCredential, bob: Any) -> None:
    keyless = UserCredentialFactory(user=bob, key=None, provider="ollama")
    assert list(UserCredential.objects.filter(api_key__isnull=True)) == [keyless]
    assert list(UserCredential.objects.filter(api_key__isnull=False)) == [hers]


def test_d10_an_empty_text_is_refused_and_not_stored_as_null(hers: UserCredential) -> None:
    with pytest.raises(ValueError, match="non-empty"):
        hers.seal("")
    assert fresh(hers).reveal() == ALICE_KEY


def test_d11_the_sites_secret_key_has_no_part_in_it(hers: UserCredential, settings: Any) -> None:
    settings.SECRET_KEY = "another-secret-key-after-a-rotation-0123456789abcdef"
    settings.SECRET_KEY_FALLBACKS = []
    assert fresh(hers).reveal() == ALICE_KEY


def test_d11_a_new_ring_counts_without_a_restart(hers: UserCredential, settings: Any) -> None:
    settings.CREDENTIAL_KEYS = f"{OTHER_RING},{settings.CREDENTIAL_KEYS}"
    row = fresh(hers)
    assert row.reveal() == ALICE_KEY
    row.seal("sk-sealed-under-the-new-key-00")
    assert row.api_key is not None
    assert row.api_key.key_id == "t9"
    assert row.reveal() == "sk-sealed-under-the-new-key-00"


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
