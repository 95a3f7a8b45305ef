from __future__ import annotations

from typing import Any

import pytest
from django.utils import timezone

from llm_credentials import services, validation
from llm_credentials.models import SystemCredential, UserCredential
from llm_credentials.services import (
    credential_check,
    credential_delete,
    credential_save,
    system_credential_delete,
    system_credential_save,
)
from llm_credentials.tests.factories import UserCredentialFactory
from llm_credentials.tests.writes import at_once, refused

KEY = "sk-proj-0123456789abcdef-WXYZ"
NEW_KEY = "sk-proj-fedcba9876543210-ABCD"


# Saving


def test_credential_save_stores_the_key_sealed(alice: Any) -> None:
    saved = credential_save(user=alice, provider="openai", api_key=f" {KEY}\n", model="gpt-4o", priority=5)
    assert (saved.created, saved.key_changed) == (True, True)
    row = UserCredential.objects.get()
    assert row == saved.credential
    assert row.reveal() == KEY
    assert (row.last4, row.masked, row.model, row.priority, row.version) == ("WXYZ", "•••• WXYZ", "gpt-4o", 5, 1)
    assert (row.name, row.is_active, row.status, row.base_url, row.options) == ("default", True, "unverified", "", {})
    assert KEY not in str(vars(row))


def test_credential_save_again_changes_only_what_is_given(alice: Any) -> None:
    credential_save(user=alice, provider="openai", api_key=KEY, model="gpt-4o")
    UserCredential.objects.update(status="valid", status_detail="Works.", tested_at=timezone.now(), request_count=7)
    before = UserCredential.objects.values().get()
    saved = credential_save(user=alice, provider="openai", is_active=False)
    assert (saved.created, saved.key_changed) == (False, False)
    after = UserCredential.objects.values().get()
    assert {name for name in after if after[name] != before[name]} == {"is_active", "version", "updated_at"}
    assert after["version"] == saved.credential.version == 2
    assert UserCredential.objects.get().reveal() == KEY


def test_credential_save_without_a_change_writes_nothing(alice: Any) -> None:
    credential_save(user=alice, provider="openai", api_key=KEY, model="gpt-4o")
    before = UserCredential.objects.values().get()
    credential_save(user=alice, provider="openai", api_key="", model="gpt-4o", is_active=True, priority=100)
    assert UserCredential.objects.values().get() == before


@pytest.mark.parametrize("typed", [None, "", "  ", "•••• WXYZ", "****WXYZ", "***"])
def test_credential_save_keeps_the_key_when_nothing_or_its_mask_comes_back(alice: Any, typed: str | None) -> None:
    credential_save(user=alice, provider="openai", api_key=KEY)
    saved = credential_save(user=alice, provider="openai", api_key=typed, model="gpt-4o-mini")
    assert not saved.key_changed
    assert UserCredential.objects.get().reveal() == KEY


@pytest.mark.parametrize("typed", [None, "", "   ", "\n"])
def test_credential_save_first_time_needs_a_key(alice: Any, typed: str | None) -> None:
    errors = refused(lambda: credential_save(user=alice, provider="openai", api_key=typed))
    assert errors == {"api_key": ["Enter your OpenAI key."]}
    assert not UserCredential.objects.exists()


def test_credential_save_new_key_begins_unverified(alice: Any) -> None:
    first = credential_save(user=alice, provider="openai", api_key=KEY).credential
    UserCredential.objects.update(
        status="needs_reentry", status_detail="Enter it again.", tested_at=timezone.now(), request_count=7
    )
    saved = credential_save(user=alice, provider="openai", api_key=NEW_KEY)
    row = UserCredential.objects.get()
    assert (saved.key_changed, row.reveal(), row.last4) == (True, NEW_KEY, "ABCD")
    assert (row.status, row.status_detail, row.tested_at) == ("unverified", "", None)
    assert (row.pk, row.version, row.request_count) == (first.pk, 2, 7)
    assert row.fingerprint != first.fingerprint


def test_credential_save_bad_key_changes_nothing(alice: Any) -> None:
    credential_save(user=alice, provider="openai", api_key=KEY)
    before = UserCredential.objects.values().get()
    errors = refused(lambda: credential_save(user=alice, provider="openai", api_key=f"{KEY}\nX: 1", model="gpt-4o"))
    assert list(errors) == ["api_key"]
    assert KEY not in str(errors)
    assert UserCredential.objects.values().get() == before


def test_credential_save_names_every_wrong_field_at_once(alice: Any) -> None:
    errors = refused(
        lambda: credential_save(
            user=alice, provider="openai", api_key="short", model="../x", base_url="file:///etc", options={"x": "1"}
        )
    )
    assert set(errors) == {"api_key", "model", "base_url", "options"}


def test_credential_save_unknown_provider_names_the_field(alice: Any) -> None:
    assert list(refused(lambda: credential_save(user=alice, provider="nope", api_key=KEY))) == ["provider"]


@pytest.mark.parametrize(
    ("field", "value"), [("is_active", "yes"), ("is_active", 1), ("priority", -1), ("name", "a b")]
)
def test_credential_save_bad_plain_field_is_named(alice: Any, field: str, value: Any) -> None:
    bad: dict[str, Any] = {field: value}
    assert list(refused(lambda: credential_save(user=alice, provider="openai", api_key=KEY, **bad))) == [field]


def test_credential_save_holds_several_keys_by_name(alice: Any) -> None:
    credential_save(user=alice, provider="openai", api_key=KEY)
    credential_save(user=alice, provider="openai", name="work", api_key=NEW_KEY)
    keys = {row.name: row.reveal() for row in UserCredential.objects.for_user(alice)}
    assert keys == {"default": KEY, "work": NEW_KEY}


def test_credential_save_touches_nobody_elses(alice: Any, bob: Any) -> None:
    credential_save(user=alice, provider="openai", api_key=KEY)
    credential_save(user=bob, provider="openai", api_key=NEW_KEY)
    assert UserCredential.objects.for_user(alice).get().reveal() == KEY
    assert UserCredential.objects.for_user(bob).get().reveal() == NEW_KEY


def test_credential_save_short_key_shows_nothing_of_itself(alice: Any) -> None:
    row = credential_save(user=alice, provider="openai", api_key="12345678").credential
    assert (row.last4, row.masked) == ("", "••••")


def test_credential_save_provider_without_keys_needs_its_address_only(alice: Any, settings: Any) -> None:
    settings.LLM_EGRESS_ALLOW = ["127.0.0.1:11434", "127.0.0.1:11435"]
    row = credential_save(user=alice, provider="ollama", base_url="http://127.0.0.1:11434/v1").credential
    assert (row.has_key, row.masked, row.reveal()) == (False, "", "")
    credential_save(user=alice, provider="ollama", base_url="http://127.0.0.1:11435/v1")
    assert "11435" in UserCredential.objects.get().base_url


# The destination


def test_changed_address_asks_for_the_key_again(alice: Any) -> None:
    credential_save(user=alice, provider="openai_compatible", api_key=KEY, base_url="https://one.example/v1")
    for typed in (None, "", "•••• WXYZ"):
        errors = refused(
            lambda typed=typed: credential_save(
                user=alice, provider="openai_compatible", api_key=typed, base_url="https://two.example/v1"
            )
        )
        assert errors == {"api_key": [validation.REENTER]}
    row = UserCredential.objects.get()
    assert (row.base_url, row.reveal()) == ("https://one.example/v1", KEY)


def test_changed_address_with_its_key_is_taken(alice: Any) -> None:
    credential_save(user=alice, provider="openai_compatible", api_key=KEY, base_url="https://one.example/v1")
    credential_save(user=alice, provider="openai_compatible", api_key=NEW_KEY, base_url="https://two.example/v1")
    row = UserCredential.objects.get()
    assert (row.base_url, row.reveal(), row.version) == ("https://two.example/v1", NEW_KEY, 2)


@pytest.mark.parametrize("typed", ["https://one.example/v1", " https://one.example/v1/ ", "https://ONE.example/v1"])
def test_same_address_spelt_otherwise_is_no_change(alice: Any, typed: str) -> None:
    credential_save(user=alice, provider="openai_compatible", api_key=KEY, base_url="https://one.example/v1")
    credential_save(user=alice, provider="openai_compatible", base_url=typed)
    assert UserCredential.objects.get().version == 1


def test_address_of_the_provider_itself_is_stored_as_none(alice: Any) -> None:
    credential_save(user=alice, provider="openai", api_key=KEY, base_url="https://api.openai.com/v1/")
    assert UserCredential.objects.get().base_url == ""


def test_provider_that_has_no_address_needs_one(alice: Any) -> None:
    errors = refused(lambda: credential_save(user=alice, provider="openai_compatible", api_key=KEY))
    assert list(errors) == ["base_url"]


@pytest.mark.parametrize(
    "address",
    [
        "http://169.254.169.254/v1",
        "https://metadata.google.internal/v1",
        "http://127.0.0.1:11434/v1",
        "http://127.1/v1",
        "http://2130706433/",
        "http://[::1]/v1",
        "http://10.0.0.5/v1",
        "https://user:pw@good.example/v1",
        "https://good.example\\@127.0.0.1/",
        "file:///etc/passwd",
        "gopher://good.example/",
        "javascript:alert(1)",
        "//good.example/v1",
        "https:good.example",
        "https://good.example/v1?api_key=x",
        "https://good.example/v1#x",
        "https://good.example/\x00",
        "https://good.example/v1\r\nX: 1",
        "https://" + "a" * 10_000,
        "redis",
        7,
        ["https://good.example"],
    ],
)
def test_forbidden_address_is_refused_and_stored_nowhere(alice: Any, address: Any) -> None:
    errors = refused(lambda: credential_save(user=alice, provider="openai_compatible", api_key=KEY, base_url=address))
    assert list(errors) == ["base_url"]
    assert not UserCredential.objects.exists()


def test_check_lays_a_draft_over_what_is_stored_and_writes_nothing(alice: Any) -> None:
    stored = credential_save(user=alice, provider="openai", api_key=KEY, model="gpt-4o").credential
    before = UserCredential.objects.values().get()
    kept = credential_check(provider="openai", stored=stored, draft=None)
    assert (kept.api_key, kept.model, kept.base_url, kept.options) == (None, "gpt-4o", "", {})
    draft = services.Draft(api_key=NEW_KEY, model="gpt-4o-mini")
    typed = credential_check(provider="openai", stored=stored, draft=draft)
    assert (typed.api_key, typed.model) == (NEW_KEY, "gpt-4o-mini")
    assert NEW_KEY not in repr(typed) + repr(draft)
    assert UserCredential.objects.values().get() == before


def test_check_refuses_a_stored_key_for_another_address(alice: Any) -> None:
    stored = credential_save(user=alice, provider="openai", api_key=KEY).credential
    draft = services.Draft(base_url="https://evil.example/v1")
    errors = refused(lambda: credential_check(provider="openai", stored=stored, draft=draft))
    assert errors == {"api_key": [validation.REENTER]}


# Deleting


def test_credential_delete_removes_the_users_own(alice: Any, bob: Any) -> None:
    credential_save(user=alice, provider="openai", api_key=KEY)
    credential_save(user=bob, provider="openai", api_key=NEW_KEY)
    credential_delete(user=alice, provider="openai")
    assert [row.user for row in UserCredential.objects.all()] == [bob]


@pytest.mark.parametrize(
    ("provider", "name"), [("openai", "default"), ("groq", "work"), ("nope", "x"), ("", ""), ("a\0b", "c\0d")]
)
def test_credential_delete_of_nothing_is_an_error(alice: Any, bob: Any, provider: str, name: str) -> None:
    credential_save(user=bob, provider="openai", api_key=KEY)
    with pytest.raises(UserCredential.DoesNotExist):
        credential_delete(user=alice, provider=provider, name=name)
    assert UserCredential.objects.count() == 1


# At the same time


@pytest.mark.django_db(transaction=True)
def test_two_first_saves_make_one_credential(alice: Any) -> None:
    keys = [f"sk-proj-racing-{number:016d}" for number in range(6)]
    results = at_once(*(lambda key=key: credential_save(user=alice, provider="openai", api_key=key) for key in keys))
    assert [result for result in results if isinstance(result, Exception)] == []
    row = UserCredential.objects.get()
    assert row.reveal() in keys
    assert sum(result.created for result in results) == 1
    assert row.version == len(keys)


@pytest.mark.django_db(transaction=True)
def test_two_editors_keep_both_changes(alice: Any) -> None:
    credential_save(user=alice, provider="openai", api_key=KEY)
    results = at_once(
        lambda: credential_save(user=alice, provider="openai", model="gpt-4o"),
        lambda: credential_save(user=alice, provider="openai", priority=7),
        lambda: credential_save(user=alice, provider="openai", is_active=False),
    )
    assert [result for result in results if isinstance(result, Exception)] == []
    row = UserCredential.objects.get()
    assert (row.model, row.priority, row.is_active, row.version) == ("gpt-4o", 7, False, 4)
    assert row.reveal() == KEY


@pytest.mark.django_db(transaction=True)
def test_new_key_and_new_address_at_once_leave_a_row_that_opens(alice: Any) -> None:
    """The key is sealed for the address that stands in the row, whoever of the two was last."""
    one, two = "https://one.example/v1", "https://two.example/v1"
    credential_save(user=alice, provider="openai_compatible", api_key=KEY, base_url=one)
    for turn in range(8):
        address = (two, one)[turn % 2]
        at_once(
            lambda address=address: credential_save(
                user=alice, provider="openai_compatible", api_key=NEW_KEY, base_url=address
            ),
            *[lambda: credential_save(user=alice, provider="openai_compatible", api_key=KEY)] * 3,
        )
        row = UserCredential.objects.get()
        assert row.base_url == address
        assert row.reveal() in (KEY, NEW_KEY)


@pytest.mark.django_db(transaction=True)
def test_save_and_delete_at_once_leave_a_whole_row_or_none(alice: Any) -> None:
    for _ in range(5):
        credential_save(user=alice, provider="openai", api_key=KEY)
        saved, _deleted = at_once(
            lambda: credential_save(user=alice, provider="openai", api_key=NEW_KEY),
            lambda: credential_delete(user=alice, provider="openai"),
        )
        assert not isinstance(saved, Exception)
        rows = list(UserCredential.objects.all())
        assert [row.reveal() for row in rows] in ([], [NEW_KEY])
        UserCredential.objects.all().delete()


def test_changing_a_row_that_was_deleted_meanwhile_is_an_error(alice: Any) -> None:
    row = UserCredentialFactory(user=alice)
    UserCredential.objects.all().delete()
    with pytest.raises(UserCredential.DoesNotExist):
        services._write_changes(row, {"model": "gpt-4o"})


# Keys of the site


def test_system_credential_is_sealed_and_changed_like_a_users(db: Any) -> None:
    saved = system_credential_save(provider="openai", api_key=KEY, model="gpt-4o")
    assert (saved.created, saved.credential.reveal()) == (True, KEY)
    system_credential_save(provider="openai", is_active=False)
    row = SystemCredential.objects.get()
    assert (row.is_active, row.version, row.reveal()) == (False, 2, KEY)
    errors = refused(lambda: system_credential_save(provider="openai", base_url="https://two.example/v1"))
    assert errors == {"api_key": [validation.REENTER]}
    system_credential_delete(provider="openai")
    with pytest.raises(SystemCredential.DoesNotExist):
        system_credential_delete(provider="openai")
