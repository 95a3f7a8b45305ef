from __future__ import annotations

import base64
import io
from typing import Any

import pytest
from django.core.checks import run_checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connection

from llm_credentials import canary, keyring, services
from llm_credentials.audit import guard
from llm_credentials.models import KeyringCanary, LLMCredential, UserCredential
from llm_credentials.sealed_columns import sealed_columns
from llm_credentials.tests.factories import UserCredentialFactory

KEY = "sk-proj-0123456789abcdef-WXYZ"
OTHER = base64.b64encode(b"fedcba9876543210fedcba9876543210").decode()


def found(**kwargs: Any) -> dict[str, str]:
    """Id → hint of this app's messages."""
    own = [message for message in run_checks(**kwargs) if message.id and message.id.startswith("llm_credentials.")]
    return {message.id or "": message.hint or "" for message in own}


def test_checks_are_silent_when_all_is_well(alice: Any) -> None:
    services.credential_save(user=alice, provider="openai", api_key=KEY)
    assert found(databases=["default"]) == {}


@pytest.mark.parametrize("ring", ["", "  "])
def test_check_e001_missing_ring_says_how_to_make_one(settings: Any, ring: str) -> None:
    settings.CREDENTIAL_KEYS = ring
    messages = found()
    assert list(messages) == ["llm_credentials.E001"]
    assert "os.urandom(32)" in messages["llm_credentials.E001"]


def test_check_e002_unreadable_ring_does_not_print_it(settings: Any) -> None:
    settings.CREDENTIAL_KEYS = "k1:c2hvcnQgYnV0IHNlY3JldA=="
    out = io.StringIO()
    with pytest.raises(SystemCheckError) as caught:
        call_command("check", stdout=out, stderr=out)
    assert "llm_credentials.E002" in str(caught.value)
    assert "entry 1 (id 'k1')" in str(caught.value)
    assert "c2hvcnQ" not in str(caught.value) + out.getvalue()


def test_check_e010_allowance_that_names_nothing(settings: Any) -> None:
    settings.LLM_EGRESS_ALLOW = ["ollama.lan:11434", "192.168.7.8", "10.0.0.0/99:80"]
    messages = [message for message in run_checks() if message.id == "llm_credentials.E010"]
    assert len(messages) == 2
    assert "192.168.7.8" in messages[0].msg


def test_check_e003_replaced_key_under_the_same_id(alice: Any, settings: Any) -> None:
    services.credential_save(user=alice, provider="openai", api_key=KEY)
    settings.CREDENTIAL_KEYS = f"t1:{OTHER}"
    messages = found(databases=["default"])
    assert list(messages) == ["llm_credentials.E003"]
    assert "Put back the key" in messages["llm_credentials.E003"]
    with pytest.raises(SystemCheckError):
        call_command("check", databases=["default"], stdout=io.StringIO(), stderr=io.StringIO())


def test_check_e004_rows_under_a_key_that_left_the_ring(alice: Any, bob: Any, settings: Any) -> None:
    for user in (alice, bob):
        services.credential_save(user=user, provider="openai", api_key=KEY)
    settings.CREDENTIAL_KEYS = f"n1:{OTHER}"
    with pytest.raises(SystemCheckError, match="no key 't1', under which 2 stored keys or second factors are sealed"):
        call_command("check", databases=["default"], stdout=io.StringIO(), stderr=io.StringIO())


def test_old_key_may_leave_the_ring_when_nothing_is_sealed_under_it(alice: Any, settings: Any) -> None:
    services.credential_save(user=alice, provider="openai", api_key=KEY)
    services.credential_delete(user=alice, provider="openai")
    settings.CREDENTIAL_KEYS = f"n1:{OTHER}"
    assert found(databases=["default"]) == {}


def test_a_tampered_row_is_no_reason_to_refuse_the_start(alice: Any) -> None:
    services.credential_save(user=alice, provider="openai", api_key=KEY)
    UserCredentialFactory(provider="groq")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE user_llm_credentials SET api_key = 'v1:zz:tampered' WHERE provider = 'groq'")
    assert found(databases=["default"]) == {}


def test_database_is_not_asked_unless_it_is_named(alice: Any, settings: Any, django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(0):
        assert found() == {}


@pytest.mark.parametrize(("secret", "weak"), [(b"a" * 32, True), (b"password" * 4, True), (bytes(range(32)), False)])
def test_check_w001_typed_key_before_deployment(db: Any, settings: Any, secret: bytes, weak: bool) -> None:
    settings.CREDENTIAL_KEYS = f"k1:{base64.b64encode(secret).decode()}"
    assert ("llm_credentials.W001" in found(include_deployment_checks=True)) is weak


def test_wrong_ring_shows_as_needs_reentry_once_examined(alice: Any, settings: Any) -> None:
    services.credential_save(user=alice, provider="openai", api_key=KEY)
    settings.CREDENTIAL_KEYS = f"t1:{OTHER}"
    assert canary.examine() == {"t1"}
    assert UserCredential.objects.get().shown_status == LLMCredential.Status.NEEDS_REENTRY


@pytest.mark.parametrize("ring", [f"n1:{OTHER}", "", "nonsense"])
def test_missing_key_shows_as_needs_reentry_without_asking_anything(
    alice: Any, settings: Any, ring: str, django_assert_num_queries: Any
) -> None:
    services.credential_save(user=alice, provider="openai", api_key=KEY)
    row = UserCredential.objects.get()
    assert row.shown_status == LLMCredential.Status.UNVERIFIED
    settings.CREDENTIAL_KEYS = ring
    with django_assert_num_queries(0):
        assert row.shown_status == LLMCredential.Status.NEEDS_REENTRY


@pytest.mark.parametrize("ring", ["", "nonsense", f"t1:{OTHER}"])
def test_saving_a_key_under_a_wrong_ring_is_refused_in_words(alice: Any, settings: Any, ring: str) -> None:
    services.credential_save(user=alice, provider="openai", api_key=KEY)
    settings.CREDENTIAL_KEYS = ring
    with pytest.raises(services.ValidationError) as caught:
        services.credential_save(user=alice, provider="openai", api_key=KEY + "2")
    assert "encryption keys are not in order" in caught.value.message_dict["api_key"][0]


def test_canary_is_planted_once_a_key(alice: Any, bob: Any, settings: Any) -> None:
    for user in (alice, bob):
        services.credential_save(user=user, provider="openai", api_key=KEY)
    assert list(KeyringCanary.objects.values_list("key_id", flat=True)) == ["t1"]
    settings.CREDENTIAL_KEYS = f"n1:{OTHER},{settings.CREDENTIAL_KEYS}"
    services.credential_save(user=alice, provider="openai", api_key=KEY)
    assert set(KeyringCanary.objects.values_list("key_id", flat=True)) == {"t1", "n1"}
    assert canary.examine() == frozenset()


def test_rows_are_counted_by_key_id(alice: Any, settings: Any) -> None:
    UserCredentialFactory(user=alice, provider="openai")
    UserCredentialFactory(user=alice, provider="groq")
    UserCredentialFactory(user=alice, provider="ollama", key=None)
    settings.CREDENTIAL_KEYS = f"n1:{OTHER},{settings.CREDENTIAL_KEYS}"
    UserCredentialFactory(user=alice, provider="anthropic")
    UserCredentialFactory(user=alice, provider="broken")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE user_llm_credentials SET api_key = 'gAAAA-plain' WHERE provider = 'broken'")
    (column,) = [each for each in sealed_columns() if each.model is UserCredential]
    assert column.rows_by_key_id() == {"t1": 2, "n1": 1, "": 1}


def test_ring_of_the_tests_is_usable() -> None:
    assert keyring.ring().ids == ("t1",)


def test_check_w003_audit_trail_without_its_guard(db: None) -> None:
    guard.remove()
    assert "guard.install()" in found(databases=["default"])["llm_credentials.W003"]
    guard.install()
    assert found(databases=["default"]) == {}
