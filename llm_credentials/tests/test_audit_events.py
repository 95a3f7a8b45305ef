"""What is written down, where, and by whom; and that no key ever is."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth.models import User
from django.core import mail
from django.db import connection, transaction
from django.test import Client
from django.urls import reverse
from kombu.exceptions import OperationalError

from llm_credentials import audit, bridge, connection_tests, rotation, services, tasks
from llm_credentials.audit import Action, AuditUnavailable
from llm_credentials.audit.context import circumstances
from llm_credentials.audit.opening import announce_opening
from llm_credentials.audit.verify import verify
from llm_credentials.factory import client_for
from llm_credentials.live import listener
from llm_credentials.models import AuditEvent, ConnectionTest, PersonalAccessToken, UserCredential
from llm_credentials.providers import CredentialUnreadable, LLMMessage
from llm_credentials.tests.factories import UserCredentialFactory
from project.tests.servers import wait_until

KEY = "sk-audit-canary-0123456789abcdef"


def _actions() -> list[str]:
    return list(AuditEvent.objects.order_by("at", "seq").values_list("action", flat=True))


def _last() -> AuditEvent:
    found = AuditEvent.objects.order_by("-at", "-seq").first()
    assert found is not None
    return found


def test_each_change_of_a_key_is_written_down(alice: User) -> None:
    def save(**fields: Any) -> None:
        services.credential_save(user=alice, provider="openai", **fields)

    save(api_key=KEY)
    save(api_key=KEY + "-2")
    save(is_active=False)
    save(model="gpt-other")
    save(model="gpt-other")
    services.credential_delete(user=alice, provider="openai")
    assert _actions() == [
        *("credential.create", "credential.replace", "credential.toggle", "credential.change", "credential.delete"),
    ]
    assert set(AuditEvent.objects.values_list("subject", flat=True)) == {str(alice.pk)}
    assert [event.result for event in AuditEvent.objects.filter(action="credential.toggle")] == ["off"]
    assert _last().target.startswith("credential:openai:")
    assert verify().holds


def test_no_event_holds_a_key_a_name_or_an_address(alice: User, client: Client) -> None:
    client.force_login(alice)
    services.credential_save(user=alice, provider="openai", name="my-private-name", api_key=KEY)
    token, secret = services.token_create(user=alice, name="laptop of alice")
    client.post(reverse("account_login"), {"login": KEY, "password": KEY})
    services.token_revoke(user=alice, token_id=token.pk)
    said = json.dumps([[str(value) for value in row] for row in AuditEvent.objects.values_list()])
    for secret_text in (KEY, secret, "my-private-name", "laptop", "alice", "127.0.0.1", KEY[-4:]):
        assert secret_text not in said


def test_settings_and_tokens_are_written_down(alice: User) -> None:
    services.settings_update(user=alice, fallback_to_system=False)
    token, _ = services.token_create(user=alice)
    services.token_revoke(user=alice, token_id=token.pk)
    services.token_revoke(user=alice, token_id=token.pk)
    assert _actions() == ["settings.change", "token.create", "token.revoke"]
    assert _last().target == f"token:{token.pk}"


def test_a_refused_change_is_not_written_down(alice: User) -> None:
    with pytest.raises(UserCredential.DoesNotExist):
        services.credential_delete(user=alice, provider="openai")
    with pytest.raises(PersonalAccessToken.DoesNotExist):
        services.token_revoke(user=alice, token_id=uuid4())
    assert _actions() == []


def test_a_started_test_is_written_down(alice: User) -> None:
    credential = UserCredentialFactory(user=alice)
    test = connection_tests.test_start(user=alice, provider=credential.provider)
    assert (_last().action, _last().target) == ("test.start", f"test:openai:{test.pk}")


def test_quarantine_is_written_down_once(alice: User, settings: Any) -> None:
    credential = UserCredentialFactory(user=alice)
    UserCredential.objects.filter(pk=credential.pk).update(base_url="https://elsewhere.example")
    rotation.verify(batch=10)
    rotation.verify(batch=10)
    assert _actions() == ["credential.quarantine"]
    assert (_last().actor, _last().subject) == ("", str(alice.pk))


# Requests


def test_login_logout_and_failure_are_written_down(alice: User, client: Client) -> None:
    client.post(
        reverse("account_login"), {"login": "alice", "password": "wrong"}, headers={"X-Request-ID": "abcdefgh1"}
    )
    assert (_last().action, _last().subject, _last().actor) == ("login.failed", str(alice.pk), "")
    assert (_last().request_id, _last().channel, _last().ip) == ("abcdefgh1", "page", "127.0.0.0/24")
    client.post(reverse("account_login"), {"login": "alice", "password": "alice-password"})
    assert (_last().action, _last().subject, _last().actor) == ("login", str(alice.pk), str(alice.pk))
    client.post(reverse("account_logout"))
    assert (_last().action, _last().actor) == ("logout", str(alice.pk))


def test_a_login_of_nobody_says_not_what_was_typed(db: None, client: Client) -> None:
    client.post(reverse("account_login"), {"login": "nobody-here", "password": "wrong"})
    assert (_last().action, _last().subject) == ("login.failed", "")


def test_event_of_a_request_knows_the_caller(alice: User, client: Client) -> None:
    _, secret = services.token_create(user=alice)
    body = {"provider": "openai", "api_key": KEY}
    client.post(
        "/api/user/llm-credentials",
        json.dumps(body),
        content_type="application/json",
        headers={"Authorization": f"Bearer {secret}"},
    )
    event = AuditEvent.objects.get(action="credential.create")
    assert (event.actor, event.subject, event.channel) == (str(alice.pk), str(alice.pk), "api")


def test_circumstances_end_with_the_request(alice: User, client: Client) -> None:
    client.force_login(alice)
    client.get(reverse("llm_credentials:provider-list"))
    audit.record(action=Action.SETTINGS_CHANGE)
    assert (_last().actor, _last().channel, _last().request_id) == ("", "python", "")


def test_reaching_for_what_is_anothers_is_written_down(alice: User, bob: User, client: Client) -> None:
    test = ConnectionTest.objects.create(user=alice, provider="openai")
    client.force_login(bob)
    url = reverse("llm_credentials:connection-test-detail", args=[test.pk])
    assert client.get(url).status_code == 404
    event = AuditEvent.objects.get(action="access.denied")
    assert (event.actor, event.subject, event.target) == (str(bob.pk), str(alice.pk), f"test:{test.pk}")
    assert client.get(url.replace(str(test.pk), str(uuid4()))).status_code == 404
    assert _actions().count("access.denied") == 1


def test_a_bad_token_is_written_down_but_a_flood_is_not(db: None, client: Client) -> None:
    for _ in range(40):
        client.get("/api/user/llm-credentials", headers={"Authorization": "Bearer ksw_" + "x" * 43})
    assert _actions().count("token.refused") == 30
    assert "x" * 10 not in json.dumps(list(AuditEvent.objects.values_list("target", flat=True)))


def test_missing_scope_is_written_down(alice: User, client: Client) -> None:
    _, secret = services.token_create(user=alice, scopes=["gateway"])
    client.get("/api/user/llm-credentials", headers={"Authorization": f"Bearer {secret}"})
    assert (_last().action, _last().actor, _last().result) == ("access.denied", str(alice.pk), "403")


def test_second_factor_is_written_down(alice: User, client: Client) -> None:
    from allauth.mfa.models import Authenticator
    from allauth.mfa.signals import authenticator_added, authenticator_removed

    factor = Authenticator(user=alice, type="totp", data={"secret": "x"})
    for signal in (authenticator_added, authenticator_removed):
        signal.send(sender=Authenticator, request=None, user=alice, authenticator=factor)
    assert _actions() == ["factor.add", "factor.remove"]
    assert _last().target == "factor:totp"


def test_pages_stay_up_without_a_key_ring(alice: User, client: Client, settings: Any) -> None:
    settings.CREDENTIAL_KEYS = ""
    client.post(reverse("account_login"), {"login": "alice", "password": "alice-password"})
    assert client.get(reverse("llm_credentials:security-detail")).status_code == 200
    assert _actions() == []


def test_bridge_takes_the_circumstances_along() -> None:
    async def seen() -> str:
        return circumstances().actor

    with audit.acting(actor="7"):
        assert bridge.run(seen) == "7"


# Opening keys


def _ask(user: User) -> Any:
    return async_to_sync(client_for(user).complete)([LLMMessage.user("Hello")])


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many events others could see at each opening of a key."""
    found: list[int] = []
    reveal = UserCredential.reveal

    def committed() -> int:
        try:
            return AuditEvent.objects.filter(action="key.open").count()
        finally:
            connection.close()

    def watched(credential: UserCredential) -> str:
        with ThreadPoolExecutor(1) as other_connection:
            found.append(other_connection.submit(committed).result())
        return reveal(credential)

    monkeypatch.setattr(UserCredential, "reveal", watched)
    return found


@pytest.mark.django_db(transaction=True)
def test_event_is_committed_before_the_key_is_opened(alice: User, sandbox_url: str, opened: list[int]) -> None:
    credential = UserCredentialFactory(user=alice, provider="sandbox", key="sbx-good-0123456789")
    _ask(alice)
    assert opened == [1]
    event = AuditEvent.objects.get(action="key.open")
    assert (event.actor, event.subject) == (str(alice.pk), str(alice.pk))
    assert event.target == f"credential:sandbox:{credential.pk}"
    assert verify().holds


@pytest.mark.django_db(transaction=True)
def test_a_kept_client_opens_nothing_and_writes_nothing(
    alice: User, sandbox_url: str, opened: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a busy machine it may hear of the key's first storing late, and clients are made anew then.
    listener.close()
    monkeypatch.setattr(listener, "ensure", lambda **_: None)
    credential = UserCredentialFactory(user=alice, provider="sandbox", key="sbx-good-0123456789")

    async def go() -> None:
        for _ in range(5):
            await client_for(alice).complete([LLMMessage.user("Hello")])
        await sync_to_async(services.credential_save)(user=alice, provider="sandbox", model="sandbox-fast")
        await client_for(alice, credential=credential.pk).complete([LLMMessage.user("Hello")])

    async_to_sync(go)()
    assert opened == [1, 2]


@pytest.mark.django_db(transaction=True)
def test_no_key_is_opened_when_the_event_cannot_be_written(alice: User, sandbox_url: str, opened: list[int]) -> None:
    UserCredentialFactory(user=alice, provider="sandbox", key="sbx-good-0123456789")
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE audit_heads RENAME TO audit_heads_away")
    try:
        with pytest.raises(AuditUnavailable):
            _ask(alice)
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE audit_heads_away RENAME TO audit_heads")
    assert opened == []


@pytest.mark.django_db(transaction=True)
def test_no_site_key_is_opened_without_a_key_ring(alice: User, sandbox_url: str, settings: Any) -> None:
    """A key from the environment needs no ring to be opened, but its event needs one to be signed."""
    settings.LLM_SYSTEM_KEYS = {"sandbox": {"api_key": "sbx-good-0123456789", "model": "", "base_url": ""}}
    settings.CREDENTIAL_KEYS = ""
    with pytest.raises(CredentialUnreadable):
        _ask(alice)


@pytest.mark.django_db(transaction=True)
def test_opening_in_a_worker_is_of_a_job(
    alice: User, sandbox_url: str, celery_worker_thread: Any, opened: list[int]
) -> None:
    credential = UserCredentialFactory(user=alice, provider="sandbox", key="sbx-good-0123456789")
    test = connection_tests.test_start(user=alice, provider=credential.provider)
    tasks.enqueue_connection_test(test)
    wait_until(lambda: ConnectionTest.objects.get(pk=test.pk).is_finished, "the test")
    event = AuditEvent.objects.get(action="key.open")
    assert (event.channel, event.actor, event.subject) == ("job", str(alice.pk), str(alice.pk))
    assert event.request_id
    assert opened == [1]


def test_signup_is_written_down(db: None, client: Client) -> None:
    typed = {
        "username": "dora",
        "email": "dora@example.com",
        "password1": "tr0ub4dor-and-3",
        "password2": "tr0ub4dor-and-3",
    }
    client.post(reverse("account_signup"), typed)
    dora = User.objects.get(username="dora")
    event = AuditEvent.objects.get(action="account.create")
    assert (event.actor, event.subject, event.target) == (str(dora.pk), str(dora.pk), "")


def test_what_staff_do_to_an_account_is_written_down(alice: User, staff: User, client: Client) -> None:
    client.force_login(staff)
    page = reverse("admin:auth_user_change", args=(alice.pk,))
    joined = {"date_joined_0": "2026-01-01", "date_joined_1": "00:00:00"}
    client.post(page, {"username": "alice", "email": "alice@example.com", "is_staff": "on", **joined})
    event = AuditEvent.objects.get(action="account.change")
    assert (event.actor, event.subject) == (str(staff.pk), str(alice.pk))
    assert {"is_active", "is_staff"} <= set(event.target.removeprefix("account:").split(","))
    password = reverse("admin:auth_user_password_change", args=(alice.pk,))
    client.post(password, {"usable_password": "true", "password1": "another-Pass-9", "password2": "another-Pass-9"})
    assert AuditEvent.objects.get(action="password.change").subject == str(alice.pk)
    client.post(reverse("admin:auth_user_delete", args=(alice.pk,)), {"post": "yes"})
    assert AuditEvent.objects.get(action="account.delete").subject == str(alice.pk)
    assert "another-Pass-9" not in json.dumps([[str(each) for each in row] for row in AuditEvent.objects.values_list()])


@pytest.mark.django_db(transaction=True)
def test_owner_is_told_what_staff_did_to_the_way_in(
    alice: User, staff: User, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*args: Any, **options: Any) -> None:
        raise OperationalError("no broker")

    monkeypatch.setattr("llm_credentials.notices.sending.current_app.send_task", away)
    client.force_login(staff)
    typed = {"username": "alice", "email": "mallory@example.com", "is_active": "on"}
    joined = {"date_joined_0": "2026-01-01", "date_joined_1": "00:00:00"}
    client.post(reverse("admin:auth_user_change", args=(alice.pk,)), typed | joined)
    password = reverse("admin:auth_user_password_change", args=(alice.pk,))
    client.post(password, {"usable_password": "true", "password1": "another-Pass-9", "password2": "another-Pass-9"})
    first, second = mail.outbox
    assert (first.to, second.to) == ([alice.email], ["mallory@example.com"])
    assert "address of your account was changed" in first.subject
    assert "By: the site's staff" in first.body
    assert "your password was changed" in second.subject


def test_a_check_of_the_trail_by_staff_is_written_down(staff: User, client: Client) -> None:
    client.force_login(staff)
    client.post(reverse("admin:llm_credentials_audit_verify"))
    assert (_last().action, _last().actor, _last().result) == ("audit.verify", str(staff.pk), "holds")


@pytest.mark.django_db(transaction=True)
def test_no_opening_is_announced_inside_a_transaction(alice: User) -> None:
    """It might be taken back, and the key would have been opened without an event."""
    credential = UserCredentialFactory(user=alice)
    with pytest.raises(RuntimeError), transaction.atomic():
        announce_opening(credential, alice.pk)
    assert not AuditEvent.objects.filter(action="key.open").exists()
    announce_opening(credential, alice.pk)
    assert AuditEvent.objects.filter(action="key.open").count() == 1
