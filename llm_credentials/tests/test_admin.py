from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.core.exceptions import ValidationError
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from llm_credentials import services
from llm_credentials.audit import guard
from llm_credentials.models import (
    AuditEvent,
    ConnectionTest,
    LLMSettings,
    PersonalAccessToken,
    SystemConfig,
    SystemCredential,
    UsageRecord,
    UserCredential,
)
from llm_credentials.tests.factories import (
    ConnectionTestFactory,
    LLMSettingsFactory,
    SystemCredentialFactory,
    TokenFactory,
    UsageRecordFactory,
    UserCredentialFactory,
)

CANARY = "sk-canary-0123456789abcdef-CNRY"
NEW_KEY = "sk-proj-fedcba9876543210-ABCD"
ENV_KEY = "sk-environment-0123456789-ENVK"

SHOWN = (UserCredential, SystemCredential, LLMSettings, PersonalAccessToken, UsageRecord, ConnectionTest, SystemConfig)


@pytest.fixture
def rows(alice: Any) -> dict[type, Any]:
    """One row of every kind, each with the canary in it where it can be."""
    credential = UserCredentialFactory(user=alice, key=CANARY, model="gpt-4o")
    return {
        UserCredential: credential,
        SystemCredential: SystemCredentialFactory(key=CANARY),
        ConnectionTest: ConnectionTestFactory(user=alice, key=CANARY, credential=credential),
        PersonalAccessToken: TokenFactory(user=alice),
        LLMSettings: LLMSettingsFactory(user=alice),
        UsageRecord: UsageRecordFactory(user=alice, credential_id=credential.pk),
        SystemConfig: SystemConfig.objects.create(category="llm", key="supervisor", value={"model": "x"}),
    }


def url(model: type, page: str, *args: Any) -> str:
    return reverse(f"admin:llm_credentials_{model.__name__.lower()}_{page}", args=args)


def secrets_of(rows: dict[type, Any]) -> list[str]:
    sealed = [rows[model].api_key._stored for model in (UserCredential, SystemCredential, ConnectionTest)]
    token = rows[PersonalAccessToken]
    return [CANARY, CANARY[:-4], *sealed, token.secret[12:], token.hash, rows[UserCredential].fingerprint]


def test_admin_has_every_model_of_the_app() -> None:
    registered = {model for model in admin.site._registry if model._meta.app_label == "llm_credentials"}
    assert set(SHOWN) <= registered


@pytest.mark.parametrize("model", SHOWN)
def test_admin_pages_hold_no_key_ciphertext_or_hash(site: Client, rows: dict[type, Any], model: type) -> None:
    pk = rows[model].pk
    pages = [url(model, "changelist"), url(model, "change", pk), url(model, "history", pk)]
    pages.append(url(model, "changelist") + "?q=alice" if model is UserCredential else pages[0])
    if model not in (UsageRecord, ConnectionTest, LLMSettings):
        pages.append(url(model, "delete", pk))
    for page in pages:
        response = site.get(page)
        assert response.status_code == 200, page
        found = [secret for secret in secrets_of(rows) if secret in response.text]
        assert found == [], page


def test_admin_shows_the_mask_and_the_status(site: Client, rows: dict[type, Any]) -> None:
    page = site.get(url(UserCredential, "changelist")).text
    assert "•••• CNRY" in page
    assert "Not tested yet" in page


@pytest.mark.parametrize("ring", ["", "x9:ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA="])
def test_admin_pages_answer_without_the_right_ring(
    site: Client, rows: dict[type, Any], settings: Any, ring: str
) -> None:
    settings.CREDENTIAL_KEYS = ring
    for model in SHOWN:
        assert site.get(url(model, "changelist")).status_code == 200
        assert site.get(url(model, "change", rows[model].pk)).status_code == 200
    assert "Needs re-entry" in site.get(url(UserCredential, "changelist")).text


@pytest.mark.parametrize("model", [UserCredential, LLMSettings, PersonalAccessToken, UsageRecord, ConnectionTest])
def test_admin_cannot_add_or_change_what_is_others(site: Client, rows: dict[type, Any], model: type) -> None:
    assert site.get(url(model, "add")).status_code == 403
    before = model._default_manager.values().get()  # type: ignore[attr-defined]
    evil = {"base_url": "https://evil.example/v1", "api_key": NEW_KEY, "is_active": "on", "scopes": '["read"]'}
    assert site.post(url(model, "change", rows[model].pk), evil).status_code == 403
    assert model._default_manager.values().get() == before  # type: ignore[attr-defined]


@pytest.mark.parametrize("model", [UsageRecord, ConnectionTest])
def test_admin_cannot_delete_the_record(site: Client, rows: dict[type, Any], model: type) -> None:
    assert site.post(url(model, "delete", rows[model].pk), {"post": "yes"}).status_code == 403


@pytest.mark.parametrize("model", [UserCredential, SystemCredential, ConnectionTest])
@pytest.mark.parametrize(
    "query",
    [
        "api_key__startswith=s",
        "api_key=x",
        "api_key__isnull=1",
        "fingerprint__startswith=a",
        "last4=CNRY",
        "user__llm_credentials__api_key__startswith=s",
        "credential__api_key__contains=sk",
    ],
)
def test_admin_lookup_by_key_is_refused(site: Client, rows: dict[type, Any], model: type, query: str) -> None:
    response = site.get(f"{url(model, 'changelist')}?{query}")
    assert response.status_code == 400


@pytest.mark.parametrize("query", ["hash__startswith=a", "user__llm_credentials__last4=CNRY"])
def test_admin_lookup_by_token_hash_is_refused(site: Client, rows: dict[type, Any], query: str) -> None:
    assert site.get(f"{url(PersonalAccessToken, 'changelist')}?{query}").status_code == 400


def test_admin_orders_by_nothing_that_holds_a_key(site: Client, rows: dict[type, Any]) -> None:
    columns = {model: admin.site._registry[model].get_sortable_by(None) for model in SHOWN}  # type: ignore[arg-type]
    for model, names in columns.items():
        assert not {"api_key", "fingerprint", "last4", "hash"} & set(names), model
    page = site.get(f"{url(UserCredential, 'changelist')}?o=4")
    assert [row.pk for row in page.context["cl"].queryset] == [rows[UserCredential].pk]
    assert (
        "ORDER BY" not in str(page.context["cl"].queryset.query)
        or "api_key" not in str(page.context["cl"].queryset.query).partition("ORDER BY")[2]
    )


def test_admin_search_is_by_user_and_not_by_key(site: Client, rows: dict[type, Any]) -> None:
    def count(text: str) -> int:
        return site.get(url(UserCredential, "changelist"), {"q": text}).context["cl"].result_count

    assert count("alice") == 1
    assert count(CANARY) == count("CNRY") == count(rows[UserCredential].fingerprint) == 0
    assert count("%" * 100) == 0


def test_admin_filters_by_provider_status_and_active(site: Client, rows: dict[type, Any]) -> None:
    UserCredentialFactory(provider="groq", status="valid", is_active=False)
    for query, provider in (
        ("provider=groq", "groq"),
        ("status__exact=unverified", "openai"),
        ("is_active__exact=0", "groq"),
    ):
        page = site.get(f"{url(UserCredential, 'changelist')}?{query}")
        assert [row.provider for row in page.context["cl"].queryset] == [provider]


def form_data(**changes: Any) -> dict[str, Any]:
    return {
        "provider": "openai",
        "name": "default",
        "new_key": "",
        "base_url": "",
        "model": "",
        "options": "{}",
        "is_active": "on",
        "priority": "100",
        **changes,
    }


def test_admin_stores_a_system_key_sealed_and_never_shows_it(site: Client) -> None:
    response = site.post(url(SystemCredential, "add"), form_data(new_key=f" {CANARY} ", model="gpt-4o"), follow=True)
    assert response.status_code == 200
    row = SystemCredential.objects.get()
    assert (row.reveal(), row.model, row.version) == (CANARY, "gpt-4o", 1)
    entry = LogEntry.objects.get()
    assert str(row.pk) == entry.object_id
    for text in (response.text, site.get(url(SystemCredential, "change", row.pk)).text, entry.change_message):
        assert CANARY not in text


def test_admin_keeps_or_replaces_the_stored_system_key(site: Client) -> None:
    row = SystemCredentialFactory(key=CANARY)
    site.post(url(SystemCredential, "change", row.pk), form_data(model="gpt-4o"))
    row = SystemCredential.objects.get()
    assert (row.reveal(), row.model, row.version) == (CANARY, "gpt-4o", 2)
    site.post(url(SystemCredential, "change", row.pk), form_data(new_key=NEW_KEY, model="gpt-4o"))
    row = SystemCredential.objects.get()
    assert (row.reveal(), row.version) == (NEW_KEY, 3)
    assert NEW_KEY not in "".join(entry.change_message for entry in LogEntry.objects.all())


def test_admin_system_key_goes_to_no_other_address_or_provider(site: Client) -> None:
    row = SystemCredentialFactory(key=CANARY)
    response = site.post(url(SystemCredential, "change", row.pk), form_data(base_url="https://evil.example/v1"))
    assert "Enter the key again" in response.text
    site.post(url(SystemCredential, "change", row.pk), form_data(provider="groq", name="other"))
    row = SystemCredential.objects.get()
    assert (row.provider, row.name, row.base_url, row.reveal()) == ("openai", "default", "", CANARY)


@pytest.mark.parametrize(
    "changes",
    [
        {"new_key": ""},
        {"new_key": f"{CANARY}\nX: 1"},
        {"new_key": "sk-7!"},
        {"new_key": "gAAAAABk0123456789012345678901234567890"},
        {"new_key": CANARY, "provider": "nope"},
        {"new_key": CANARY, "name": "two words"},
        {"new_key": CANARY, "model": "../admin"},
        {"new_key": CANARY, "base_url": "http://169.254.169.254/"},
        {"new_key": CANARY, "options": '{"x": 1}'},
        {"new_key": CANARY, "options": "[1"},
        {"new_key": CANARY, "options": "null"},
        {"new_key": CANARY, "priority": "-1"},
        {"new_key": CANARY, "priority": "99999999"},
        {"new_key": CANARY, "priority": ""},
    ],
)
def test_admin_system_credential_bad_input_is_shown_without_the_key(site: Client, changes: dict[str, str]) -> None:
    response = site.post(url(SystemCredential, "add"), form_data(**changes))
    if changes.get("options") == "null":
        assert SystemCredential.objects.get().options == {}
        return
    assert response.status_code == 200
    assert "errornote" in response.text
    assert CANARY not in response.text
    assert changes["new_key"] not in response.text or not changes["new_key"]
    assert not SystemCredential.objects.exists()


def test_admin_change_that_fails_at_the_last_moment_is_told_in_words(site: Client, monkeypatch: Any) -> None:
    def somebody_was_faster(**fields: Any) -> None:
        raise ValidationError({"name": ["This key was just changed somewhere else. Reload and try again."]})

    monkeypatch.setattr(services, "system_credential_save", somebody_was_faster)
    response = site.post(url(SystemCredential, "add"), form_data(new_key=CANARY), follow=True)
    assert "just changed somewhere else" in response.text
    assert not LogEntry.objects.exists()


def test_admin_second_system_credential_of_a_name_is_refused(site: Client) -> None:
    SystemCredentialFactory(key=CANARY)
    response = site.post(url(SystemCredential, "add"), form_data(new_key=NEW_KEY))
    assert "errornote" in response.text
    assert SystemCredential.objects.get().reveal() == CANARY


def test_admin_lists_keys_of_the_environment_masked_and_read_only(site: Client, settings: Any) -> None:
    settings.LLM_SYSTEM_KEYS = {"openai": {"api_key": ENV_KEY, "model": "gpt-4o", "base_url": ""}}
    page = site.get(url(SystemCredential, "changelist")).text
    assert "From the environment" in page
    assert "•••• ENVK" in page
    assert ENV_KEY not in page


def test_admin_config_with_a_key_in_it_is_refused(site: Client) -> None:
    data = {"category": "llm", "key": "completions_config", "value": f'{{"api_key": "{CANARY}"}}'}
    response = site.post(url(SystemConfig, "add"), data)
    assert "A key does not belong here" in response.text
    assert not SystemConfig.objects.exists()
    site.post(url(SystemConfig, "add"), data | {"value": '{"provider": "openai"}'})
    assert SystemConfig.objects.get().value == {"provider": "openai"}


def test_admin_revokes_tokens(site: Client, rows: dict[type, Any]) -> None:
    token = rows[PersonalAccessToken]
    PersonalAccessToken.objects.filter(pk=token.pk).update(created_at=timezone.now())
    data = {"action": "revoke", "_selected_action": [str(token.pk)]}
    assert "1 token is revoked." in site.post(url(PersonalAccessToken, "changelist"), data, follow=True).text
    assert PersonalAccessToken.objects.get().revoked_at is not None
    assert "Nothing was to be done." in site.post(url(PersonalAccessToken, "changelist"), data, follow=True).text


@pytest.mark.parametrize("model", SHOWN)
def test_admin_is_closed_to_users_without_staff_rights(
    client: Client, alice: Any, rows: dict[type, Any], model: type
) -> None:
    client.force_login(alice)
    for page in (url(model, "changelist"), url(model, "change", rows[model].pk)):
        assert client.get(page).status_code in (302, 403)


def test_admin_key_ring_page_says_what_is_sealed_under_which_key(
    site: Client, rows: dict[type, Any], settings: Any
) -> None:
    page = reverse("admin:llm_credentials_key_ring")
    assert page in site.get(url(SystemCredential, "changelist")).text
    settings.CREDENTIAL_KEYS = f"n1:ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=,{settings.CREDENTIAL_KEYS}"
    response = site.get(page)
    assert response.context["figures"].old == {"t1": 3}
    assert "rotate_credential_keys" in response.text
    assert [secret for secret in secrets_of(rows) if secret in response.text] == []


def test_admin_key_ring_page_answers_without_a_ring(site: Client, settings: Any) -> None:
    settings.CREDENTIAL_KEYS = "k1:c2hvcnQ="
    response = site.get(reverse("admin:llm_credentials_key_ring"))
    assert response.status_code == 200
    assert "entry 1 (id &#x27;k1&#x27;)" in response.text
    assert "c2hvcnQ" not in response.text


def test_admin_key_ring_page_is_for_staff_who_may_see_system_credentials(client: Client, alice: Any, bob: Any) -> None:
    page = reverse("admin:llm_credentials_key_ring")
    client.force_login(alice)
    assert client.get(page).status_code == 302
    bob.is_staff = True
    bob.save()
    client.force_login(bob)
    assert client.get(page).status_code == 403


# The audit trail


def test_audit_list_is_read_only_and_has_the_button(client: Client, staff: Any) -> None:
    client.force_login(staff)
    listed = client.get(reverse("admin:llm_credentials_auditevent_changelist"))
    assert "Verify chain" in listed.content.decode()
    event = AuditEvent.objects.get(action="login")
    url = reverse("admin:llm_credentials_auditevent_change", args=[event.pk])
    assert client.get(url).status_code == 200
    assert client.post(url, {"actor": "1"}).status_code == 403
    assert client.post(reverse("admin:llm_credentials_auditevent_delete", args=[event.pk])).status_code == 403
    assert client.get(reverse("admin:llm_credentials_auditevent_add")).status_code == 403


def test_audit_button_says_whether_the_chain_holds(client: Client, staff: Any) -> None:
    client.force_login(staff)
    url = reverse("admin:llm_credentials_audit_verify")
    assert client.get(url).status_code == 302
    assert "The audit trail holds" in client.post(url).content.decode()
    event = AuditEvent.objects.get(action="login")
    with guard.lifted():
        AuditEvent.objects.filter(pk=event.pk).update(target="changed")
    text = client.post(url).content.decode()
    assert "is broken" in text
    assert str(event.pk) in text


def test_audit_button_is_for_those_who_may_look(client: Client, staff: Any) -> None:
    staff.is_superuser = False
    staff.save()
    client.force_login(staff)
    assert client.post(reverse("admin:llm_credentials_audit_verify")).status_code == 403


@pytest.mark.parametrize("action, begins", [("export_json_lines", '{"id"'), ("export_csv", "id,shard,seq")])
def test_audit_export_of_selected_events(client: Client, staff: Any, action: str, begins: str) -> None:
    client.force_login(staff)
    event = AuditEvent.objects.get(action="login")
    chosen = {"action": action, "_selected_action": [str(event.pk)]}
    response = client.post(reverse("admin:llm_credentials_auditevent_changelist"), chosen)
    text = response.content.decode()
    assert text.startswith(begins)
    assert str(event.pk) in text
    assert AuditEvent.objects.filter(action="audit.export", actor=str(staff.pk)).count() == 1


def test_staff_leave_a_trace_where_they_look_remove_and_revoke(client: Client, staff: Any) -> None:
    client.force_login(staff)
    credential, other = UserCredentialFactory(), SystemCredentialFactory()
    token = TokenFactory()
    client.get(reverse("admin:llm_credentials_usercredential_change", args=[credential.pk]))
    client.post(reverse("admin:llm_credentials_usercredential_delete", args=[credential.pk]), {"post": "yes"})
    chosen = {"action": "delete_selected", "_selected_action": [str(other.pk)], "post": "yes"}
    client.post(reverse("admin:llm_credentials_systemcredential_changelist"), chosen)
    chosen = {"action": "revoke", "_selected_action": [str(token.pk)]}
    client.post(reverse("admin:llm_credentials_personalaccesstoken_changelist"), chosen)
    config = {"category": "llm", "key": "supervisor", "value": json.dumps({"provider": "openai"})}
    client.post(reverse("admin:llm_credentials_systemconfig_add"), config)
    seen = AuditEvent.objects.filter(actor=str(staff.pk)).exclude(action="login").order_by("at", "seq")
    assert list(seen.values_list("action", "subject")) == [
        ("credential.view", str(credential.user_id)),
        ("credential.delete", str(credential.user_id)),
        ("credential.delete", "system"),
        ("token.revoke", str(token.user_id)),
        ("config.change", "system"),
    ]
