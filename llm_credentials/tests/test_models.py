from __future__ import annotations

import pickle
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.db import IntegrityError, transaction

from llm_credentials import conf, egress
from llm_credentials.models import (
    ConnectionTest,
    LLMSettings,
    PersonalAccessToken,
    SystemConfig,
    TaskOverride,
    UsageRecord,
    UserCredential,
    system_credentials,
)
from llm_credentials.providers import CredentialUnreadable, UnknownProvider
from llm_credentials.tests.factories import (
    ConnectionTestFactory,
    LLMSettingsFactory,
    SystemCredentialFactory,
    TokenFactory,
    UsageRecordFactory,
    UserCredentialFactory,
)

ENV_KEY = "sk-environment-0123456789-ENVK"


def test_for_user_shows_each_user_their_own_rows(alice: Any, bob: Any, charlie: Any) -> None:
    for user in (alice, bob):
        UserCredentialFactory(user=user)
        ConnectionTestFactory(user=user)
        TokenFactory(user=user)
        UsageRecordFactory(user=user)
        TaskOverride.objects.create(user=user, task="chat", provider="openai")
    for model in (UserCredential, ConnectionTest, PersonalAccessToken, UsageRecord, TaskOverride):
        rows: Any = model.objects
        assert [row.user for row in rows.for_user(alice)] == [alice]
        assert not rows.for_user(charlie).exists()
        assert not rows.for_user(AnonymousUser()).exists()
        assert not rows.for_user(User()).exists()


def test_credentials_come_in_order_of_priority_then_age(alice: Any) -> None:
    for provider, priority, active in (("groq", 20, True), ("openai", 10, False), ("anthropic", 20, True)):
        UserCredentialFactory(user=alice, provider=provider, priority=priority, is_active=active)
    rows = UserCredential.objects.for_user(alice)
    assert [row.provider for row in rows.in_order()] == ["openai", "groq", "anthropic"]
    assert [row.provider for row in rows.active().in_order()] == ["groq", "anthropic"]
    assert [row.provider for row in rows.for_provider("openai")] == ["openai"]


def test_one_credential_of_a_name_per_user_and_provider(alice: Any, bob: Any) -> None:
    UserCredentialFactory(user=alice)
    UserCredentialFactory(user=alice, name="work")
    UserCredentialFactory(user=bob)
    with pytest.raises(IntegrityError), transaction.atomic():
        UserCredentialFactory(user=alice)


def test_one_unfinished_test_of_a_credential(alice: Any) -> None:
    first = ConnectionTestFactory(user=alice)
    ConnectionTestFactory(user=alice, name="work")
    with pytest.raises(IntegrityError), transaction.atomic():
        ConnectionTestFactory(user=alice)
    ConnectionTest.objects.filter(pk=first.pk).update(state=ConnectionTest.State.VALID)
    ConnectionTestFactory(user=alice)
    assert ConnectionTest.objects.for_user(alice).unfinished().count() == 2


def test_override_names_a_credential_or_a_provider(alice: Any) -> None:
    credential = UserCredentialFactory(user=alice)
    with pytest.raises(IntegrityError), transaction.atomic():
        TaskOverride.objects.create(user=alice, task="chat", credential=credential, provider="openai")


def test_deleting_a_credential_keeps_its_tests_overrides_and_usage(alice: Any) -> None:
    credential = UserCredentialFactory(user=alice)
    ConnectionTestFactory(user=alice, credential=credential, key=None)
    TaskOverride.objects.create(user=alice, task="chat", credential=credential)
    UsageRecordFactory(user=alice, credential_id=credential.pk)
    gone = credential.pk
    credential.delete()
    assert ConnectionTest.objects.get().credential is None
    assert TaskOverride.objects.get().credential is None
    assert UsageRecord.objects.get().credential_id == gone


def test_deleting_a_user_takes_keys_and_tokens_and_leaves_the_ledger(alice: Any) -> None:
    UserCredentialFactory(user=alice)
    ConnectionTestFactory(user=alice)
    TokenFactory(user=alice)
    LLMSettingsFactory(user=alice)
    UsageRecordFactory(user=alice)
    alice.delete()
    for model in (UserCredential, ConnectionTest, PersonalAccessToken, LLMSettings):
        rows: Any = model.objects
        assert not rows.exists()
    assert UsageRecord.objects.get().user is None


def test_config_has_one_value_a_key(db: Any) -> None:
    SystemConfig.objects.create(category="llm", key="supervisor", value={"model": "x"})
    with pytest.raises(IntegrityError), transaction.atomic():
        SystemConfig.objects.create(category="llm", key="supervisor", value={})


def test_row_of_a_provider_that_is_gone_can_still_be_listed(alice: Any) -> None:
    row = UserCredentialFactory(user=alice, provider="no_longer_here", key=None)
    assert (row.provider_label, str(row)) == ("no_longer_here", "no_longer_here · default")
    with pytest.raises(UnknownProvider):
        _ = row.spec
    with pytest.raises(CredentialUnreadable):
        row.reveal()


def test_row_without_a_key_where_one_is_needed_is_unreadable(alice: Any) -> None:
    with pytest.raises(CredentialUnreadable):
        UserCredentialFactory(user=alice, key=None).reveal()


def test_system_credentials_stored_ones_first_then_the_environments(db: Any, settings: Any) -> None:
    settings.LLM_SYSTEM_KEYS = {
        "openai": {"api_key": ENV_KEY, "model": "gpt-4o", "base_url": ""},
        "groq": {"api_key": " ", "model": "", "base_url": None},
        "no_longer_here": {"api_key": ENV_KEY},
    }
    SystemCredentialFactory(provider="anthropic", priority=2)
    SystemCredentialFactory(provider="openai", priority=1)
    SystemCredentialFactory(provider="groq", is_active=False)
    found = [(row.source, row.provider) for row in system_credentials()]
    assert found == [("database", "openai"), ("database", "anthropic"), ("environment", "openai")]


def test_environment_credential_has_the_surface_of_a_stored_one(db: Any, settings: Any) -> None:
    settings.LLM_SYSTEM_KEYS = {"openai": {"api_key": ENV_KEY, "model": "gpt-4o", "base_url": ""}}
    (row,) = system_credentials()
    stored = SystemCredentialFactory(provider="openai")
    surface = {name for name in dir(stored) if name in stored.__dict__ or name in dir(type(stored)) if name[0] != "_"}
    used = {"id", "pk", "provider", "name", "model", "base_url", "options", "is_active", "priority", "status", "source"}
    used |= {"status_detail", "tested_at", "last_used_at", "request_count", "version", "last4", "masked", "has_key"}
    used |= {"needs_reentry", "is_lost", "shown_status", "spec", "provider_label", "fingerprint", "reveal"}
    assert used <= surface
    assert used <= set(dir(row))
    assert (row.id, row.reveal(), row.masked, row.model) == (None, ENV_KEY, "•••• ENVK", "gpt-4o")
    assert ENV_KEY not in repr(row) + str(row)
    with pytest.raises(TypeError):
        pickle.dumps(row)


def test_environment_credential_has_another_version_when_it_changes(settings: Any) -> None:
    versions = set()
    for key, model, base_url in ((ENV_KEY, "", ""), (ENV_KEY + "2", "", ""), (ENV_KEY, "m", ""), (ENV_KEY, "", "m")):
        settings.LLM_SYSTEM_KEYS = {"openai": {"api_key": key, "model": model, "base_url": base_url}}
        from llm_credentials.models import environment_credentials

        versions |= {environment_credentials()[0].version, environment_credentials()[0].version}
    assert len(versions) == 4


def test_environment_without_a_key_counts_only_for_a_keyless_provider_with_an_address(settings: Any) -> None:
    from llm_credentials.models import environment_credentials

    settings.LLM_SYSTEM_KEYS = {"ollama": {"api_key": "", "base_url": "http://127.0.0.1:11434/v1"}}
    assert [row.reveal() for row in environment_credentials()] == [""]
    settings.LLM_SYSTEM_KEYS = {"ollama": {"api_key": "", "base_url": ""}, "openai": {"api_key": None}}
    assert environment_credentials() == []


@pytest.mark.django_db
def test_settings_of_the_app_are_read_at_each_call(settings: Any) -> None:
    settings.LLM_EGRESS_ALLOW = ["127.0.0.1:1"]
    settings.LLM_DEFAULT_PROVIDER = "groq"
    assert set(egress.policy().allow) == {"127.0.0.1:1"}
    assert conf.default_provider() == "groq"
    settings.LLM_EGRESS_ALLOW = []
    assert not egress.policy().allow
