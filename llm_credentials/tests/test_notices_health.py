from __future__ import annotations

from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.core import mail

from llm_credentials import tasks
from llm_credentials.factory import client_for
from llm_credentials.models import LLMSettings, UserCredential
from llm_credentials.notices import health
from llm_credentials.providers import LLMError, LLMMessage
from llm_credentials.tests.factories import UserCredentialFactory
from project.tests.servers import wait_until

pytestmark = pytest.mark.django_db

ASK = [LLMMessage.user("Hello")]
KEY = "sbx-good-for-alerts-1"


@pytest.fixture
def credential(alice: User, sandbox_url: str) -> UserCredential:
    made: UserCredential = UserCredentialFactory(
        user=alice, provider="sandbox", name="work", model="sandbox-chat+fault:401", key=KEY
    )
    return made


def _call(user: User) -> None:
    with pytest.raises(LLMError):
        async_to_sync(client_for(user).complete)(ASK)


@pytest.fixture
def queued(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What would have been handed to a worker."""
    sent: list[tuple[str, ...]] = []
    monkeypatch.setattr(health.current_app, "send_task", lambda name, args, **options: sent.append((name, *args)))
    return sent


def test_alert_is_queued_once_a_change(
    alice: User, credential: UserCredential, queued: list[tuple[str, ...]], django_capture_on_commit_callbacks: Any
) -> None:
    for _ in range(3):
        with django_capture_on_commit_callbacks(execute=True):
            _call(alice)
    assert queued == [(tasks.credential_alert.name, str(credential.pk), "invalid")]


def test_alert_is_not_queued_for_a_change_for_the_better(
    alice: User, credential: UserCredential, queued: list[tuple[str, ...]], django_capture_on_commit_callbacks: Any
) -> None:
    UserCredential.objects.update(model="sandbox-chat", status="invalid")
    with django_capture_on_commit_callbacks(execute=True):
        async_to_sync(client_for(alice).complete)(ASK)
    assert queued == []


def test_alert_says_which_key_and_nothing_of_it(alice: User, credential: UserCredential) -> None:
    UserCredential.objects.update(status="invalid")
    tasks.credential_alert(str(credential.pk), "invalid")
    (sent,) = mail.outbox
    assert sent.to == [alice.email]
    assert sent.subject == "Keyswitch: your Sandbox key “work” was refused by the provider"
    assert KEY not in sent.body
    assert "Settings, Providers" in sent.body


def test_alert_comes_once_an_hour_for_a_key_that_goes_back_and_forth(credential: UserCredential) -> None:
    UserCredential.objects.update(status="error")
    assert health.credential_alert(credential.pk, "error")
    assert not health.credential_alert(credential.pk, "error")
    UserCredential.objects.update(status="invalid")
    assert health.credential_alert(credential.pk, "invalid")


@pytest.mark.parametrize("why", ["mended", "deleted", "unwanted", "no address", "deactivated"])
def test_alert_is_not_sent_without_reason(alice: User, credential: UserCredential, why: str) -> None:
    UserCredential.objects.update(status="invalid")
    match why:
        case "mended":
            UserCredential.objects.update(status="valid")
        case "deleted":
            credential.delete()
        case "unwanted":
            LLMSettings.objects.create(user=alice, alerts=False)
        case "no address":
            User.objects.filter(pk=alice.pk).update(email="")
        case "deactivated":
            User.objects.filter(pk=alice.pk).update(is_active=False)
    assert not health.credential_alert(credential.pk, "invalid")
    assert mail.outbox == []


@pytest.mark.django_db(transaction=True)
def test_alert_reaches_the_owner_through_a_worker(
    alice: User, credential: UserCredential, celery_worker_thread: Any
) -> None:
    _call(alice)
    wait_until(lambda: mail.outbox, "the mail")
    assert "was refused" in mail.outbox[0].subject


@pytest.mark.django_db(transaction=True)
def test_alert_that_cannot_be_queued_fails_no_call(
    alice: User, credential: UserCredential, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*args: Any, **options: Any) -> None:
        raise health.OperationalError("no broker")

    monkeypatch.setattr(health.current_app, "send_task", away)
    UserCredentialFactory(user=alice, provider="sandbox", key="sbx-good-second-00001", priority=200)
    receipt = async_to_sync(client_for(alice).complete)(ASK).receipt
    assert [each.outcome for each in receipt.attempts] == ["AuthenticationFailed", "ok"]
    credential.refresh_from_db()
    assert credential.status == "invalid"
