"""What staff do with the selected keys: whose they are, what is told to whom, and what stays as it was."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core import mail
from django.core.exceptions import ValidationError
from django.test import Client
from django.urls import reverse
from kombu.exceptions import OperationalError

from llm_credentials import connection_tests, services
from llm_credentials.models import AuditEvent, ConnectionTest, SystemCredential, UserCredential
from llm_credentials.notices import sending
from llm_credentials.tests.factories import SystemCredentialFactory, UserCredentialFactory

pytestmark = pytest.mark.django_db
committed = pytest.mark.django_db(transaction=True)
GOOD = "sbx-good-CANARY-0123456789"


@pytest.fixture
def mails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*args: Any, **options: Any) -> None:
        raise OperationalError("no broker")

    monkeypatch.setattr(sending.current_app, "send_task", away)
    monkeypatch.setattr(sending.transaction, "on_commit", lambda told, robust=False: told())


def act(site: Client, action: str, *rows: Any) -> str:
    """The words that come back."""
    model = type(rows[0])._meta.model_name
    chosen = {"action": action, "_selected_action": [str(row.pk) for row in rows]}
    page = site.post(reverse(f"admin:llm_credentials_{model}_changelist"), chosen, follow=True)
    return " ".join(str(message) for message in page.context["messages"])


def test_turned_off_key_is_off_and_its_owner_is_told(site: Client, alice: User, mails_at_once: None) -> None:
    credential = UserCredentialFactory(user=alice, key=GOOD, status="valid")
    assert "1 key is turned off." in act(site, "turn_off", credential)
    credential.refresh_from_db()
    assert (credential.is_active, credential.has_key, credential.version) == (False, True, 2)
    (sent,) = mail.outbox
    assert sent.to == [alice.email]
    assert "was turned off" in sent.subject
    assert "By: the site's staff" in sent.body
    event = AuditEvent.objects.get(action="credential.toggle")
    assert (event.subject, event.result) == (str(alice.pk), "off")
    assert "Nothing was to be done." in act(site, "turn_off", credential)
    assert len(mail.outbox) == 1


def test_owner_is_asked_to_enter_the_key_again_and_it_stays(site: Client, alice: User, mails_at_once: None) -> None:
    credential = UserCredentialFactory(user=alice, key=GOOD)
    before = UserCredential.objects.values().get()
    assert "1 owner is asked by mail." in act(site, "ask_for_reentry", credential)
    assert UserCredential.objects.values().get() == before
    (sent,) = mail.outbox
    assert "enter your OpenAI key again" in sent.subject
    assert GOOD not in sent.body
    event = AuditEvent.objects.get(action="credential.ask")
    assert (event.subject, event.target) == (str(alice.pk), f"credential:openai:{credential.pk}")


def test_owner_is_not_asked_all_day(site: Client, alice: User, mails_at_once: None) -> None:
    credential = UserCredentialFactory(user=alice, key=GOOD)
    for _ in range(2):
        act(site, "ask_for_reentry", credential)
    assert "was asked already today" in act(site, "ask_for_reentry", credential)
    assert len(mail.outbox) == AuditEvent.objects.filter(action="credential.ask").count() == 2


def test_owner_without_an_address_is_not_said_to_be_asked(site: Client, alice: User) -> None:
    User.objects.filter(pk=alice.pk).update(email="")
    said = act(site, "ask_for_reentry", UserCredentialFactory(user=alice, key=GOOD))
    assert "has no e-mail address" in said
    assert "asked by mail" not in said
    assert not AuditEvent.objects.filter(action="credential.ask").exists()


@committed
def test_keys_are_tested_again_in_their_owners_names(site: Client, alice: User, staff: User, sandbox_url: str) -> None:
    credential = UserCredentialFactory(
        user=alice, provider="sandbox", key=GOOD, model="sandbox-chat", base_url=sandbox_url, status="invalid"
    )
    assert "1 key is being tested" in act(site, "retest", credential)
    test = ConnectionTest.objects.get()
    assert (test.user_id, test.credential_id, test.for_site, test.has_key) == (alice.pk, credential.pk, False, False)
    assert "being tested already" in act(site, "retest", credential)
    connection_tests.test_run(test.pk)
    credential.refresh_from_db()
    assert credential.status == "valid"
    event = AuditEvent.objects.get(action="test.start")
    assert (event.actor, event.subject) == (str(staff.pk), str(alice.pk))


@committed
def test_key_of_the_site_is_tested_again_and_turned_off(site: Client, sandbox_url: str) -> None:
    credential = SystemCredentialFactory(provider="sandbox", key=GOOD, model="sandbox-chat", base_url=sandbox_url)
    assert "1 key is being tested" in act(site, "retest", credential)
    connection_tests.test_run(ConnectionTest.objects.get(for_site=True).pk)
    assert SystemCredential.objects.get().status == "valid"
    assert "1 key is turned off." in act(site, "turn_off", credential)
    assert SystemCredential.objects.get().is_active is False
    assert AuditEvent.objects.filter(action="credential.toggle", subject="system").count() == 1


@pytest.mark.parametrize("factory", [UserCredentialFactory, SystemCredentialFactory])
def test_row_without_a_key_is_turned_off_and_stays_off(site: Client, factory: Any) -> None:
    """Whatever is the matter with it, nothing stands in the way of turning it off."""
    credential = factory(key=None)
    assert "1 key is turned off." in act(site, "turn_off", credential)
    credential.refresh_from_db()
    assert credential.is_active is False
    with pytest.raises(ValidationError, match="Enter your OpenAI key"):
        _turn_on(credential)


def _turn_on(credential: Any) -> None:
    if isinstance(credential, SystemCredential):
        services.system_credential_save(provider=credential.provider, name=credential.name, is_active=True)
    else:
        services.credential_save(
            user=credential.user, provider=credential.provider, name=credential.name, is_active=True
        )


def test_tests_count_for_whoever_asks(site: Client, alice: User, bob: User, set_rate: Any) -> None:
    set_rate("test", "user", "1/m")
    first, second = (UserCredentialFactory(user=user, key=GOOD) for user in (alice, bob))
    said = act(site, "retest", first, second)
    assert "1 key is being tested" in said
    assert "Too many requests" in said
    assert ConnectionTest.objects.count() == 1


def test_test_without_a_queue_is_said_and_leaves_nothing(site: Client, alice: User, monkeypatch: Any) -> None:
    def away(*args: Any, **options: Any) -> None:
        raise connection_tests.QueueUnavailable

    monkeypatch.setattr("llm_credentials.admin.key_actions.enqueue_connection_test", away)
    said = act(site, "retest", UserCredentialFactory(user=alice, key=GOOD))
    assert "Background jobs cannot be started" in said
    assert "being tested" not in said


@pytest.mark.parametrize(
    ("query", "owners"),
    [
        ("owner=staff", ["staff"]),
        ("owner=active", ["alice", "staff"]),
        ("owner=deactivated", ["bob"]),
        ("owner=nobody", []),
        ("owner=99999999999999999999999", []),
        ("status__exact=invalid", ["bob"]),
        ("provider=groq", ["alice"]),
    ],
)
def test_list_is_narrowed(site: Client, alice: User, bob: User, staff: User, query: str, owners: list[str]) -> None:
    for user, fields in ((alice, {"provider": "groq"}), (bob, {"status": "invalid"}), (staff, {})):
        UserCredentialFactory(user=user, key=GOOD, **fields)
    User.objects.filter(pk=bob.pk).update(is_active=False)
    page = site.get(f"{reverse('admin:llm_credentials_usercredential_changelist')}?{query}")
    assert sorted(row.user.username for row in page.context["cl"].queryset) == owners


def test_list_links_to_all_keys_of_an_owner(site: Client, alice: User, bob: User) -> None:
    for user in (alice, alice, bob):
        UserCredentialFactory(user=user, key=GOOD, name=f"key-{UserCredential.objects.count()}")
    place = reverse("admin:llm_credentials_usercredential_changelist")
    page = site.get(place)
    assert f"{place}?owner={alice.pk}" in page.text
    page = site.get(f"{place}?owner={alice.pk}")
    assert {row.user_id for row in page.context["cl"].queryset} == {alice.pk}
    assert GOOD not in page.text


def test_list_asks_the_database_little(site: Client, django_assert_max_num_queries: Any) -> None:
    UserCredentialFactory.create_batch(8, key=GOOD)
    place = reverse("admin:llm_credentials_usercredential_changelist")
    site.get(place)
    with django_assert_max_num_queries(10):
        site.get(place)
