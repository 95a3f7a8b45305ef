"""The sealed column against everything that is wrong with an encrypted field used plainly (d01 to d11), and more."""

from __future__ import annotations

import copy
import io
import json
import pickle
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from django import forms
from django.core import serializers
from django.core.cache import cache
from django.core.exceptions import FieldError, ValidationError
from django.core.management import call_command
from django.core.serializers.base import DeserializationError
from django.core.serializers.json import DjangoJSONEncoder
from django.db import connection, transaction

from llm_credentials import services
from llm_credentials.admin.system_credentials import SystemCredentialForm
from llm_credentials.models import UserCredential
from llm_credentials.providers import CredentialUnreadable
from llm_credentials.tests.factories import UserCredentialFactory
from llm_credentials.tests.sealed_text import ALICE_KEY, BOB_KEY, fresh, put_text, stored_text

OTHER_RING = "t9:ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA="
SAME_ID_OTHER_KEY = "t1:ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA="


@pytest.fixture
def hers(alice: Any) -> UserCredential:
    return UserCredentialFactory(user=alice, key=ALICE_KEY)


@pytest.fixture
def his(bob: Any) -> UserCredential:
    return UserCredentialFactory(user=bob, key=BOB_KEY)


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
    with pytest.raises(TypeError, match="not JSON serializable"):
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
