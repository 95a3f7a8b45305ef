from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from html import unescape
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.core import mail
from django.core.exceptions import ValidationError
from django.test import Client
from django.utils import timezone
from kombu.exceptions import OperationalError

from llm_credentials import services, tasks
from llm_credentials.factory import client_for
from llm_credentials.models import Alert, LLMSettings, UserCredential
from llm_credentials.notices import alerts, sending
from llm_credentials.notices.budget_watch import watch_budgets
from llm_credentials.providers import LLMError, LLMMessage
from llm_credentials.tests.factories import UsageRecordFactory, UserCredentialFactory
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
    monkeypatch.setattr(alerts.current_app, "send_task", lambda name, args, **options: sent.append((name, *args)))
    return sent


def test_alert_is_queued_once_a_change(
    alice: User, credential: UserCredential, queued: list[tuple[str, ...]], django_capture_on_commit_callbacks: Any
) -> None:
    for _ in range(3):
        with django_capture_on_commit_callbacks(execute=True):
            _call(alice)
    assert queued == [(tasks.alert.name, str(Alert.objects.get().pk))]


def test_alert_is_not_queued_for_a_change_for_the_better(
    alice: User, credential: UserCredential, queued: list[tuple[str, ...]], django_capture_on_commit_callbacks: Any
) -> None:
    UserCredential.objects.update(model="sandbox-chat", status="invalid")
    with django_capture_on_commit_callbacks(execute=True):
        async_to_sync(client_for(alice).complete)(ASK)
    assert queued == []


@pytest.mark.parametrize(
    ("fault", "kind", "status"),
    [
        ("401", "key_refused", "invalid"),
        ("quota", "key_spent", "error"),
        ("403", "key_limited", "unverified"),
        ("429", None, "unverified"),
        ("500", None, "unverified"),
        ("404", None, "unverified"),
    ],
)
def test_alert_is_raised_for_what_is_clear_and_nothing_else(
    alice: User, credential: UserCredential, fault: str, kind: str | None, status: str
) -> None:
    """What says nothing about the key never takes it out of use."""
    UserCredential.objects.update(model=f"sandbox-chat+fault:{fault}", status="unverified")
    _call(alice)
    credential.refresh_from_db()
    assert (credential.status, credential.is_active) == (status, True)
    assert [alert.kind for alert in Alert.objects.all()] == ([kind] if kind else [])


@pytest.fixture
def told(django_capture_on_commit_callbacks: Any) -> Any:
    """Raise an alert as use would, and let the worker see to it."""

    def tell(credential: UserCredential, status: str) -> int:
        """How many mails have been sent by then."""
        UserCredential.objects.update(status=status)
        with django_capture_on_commit_callbacks(execute=True):
            alerts.key_changed(credential, UserCredential.Status(status))
        with django_capture_on_commit_callbacks(execute=True):
            tasks.alert(str(Alert.objects.get(credential=credential).pk))
        return len(mail.outbox)

    return tell


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Without a worker, mails leave from this process."""
    if "celery_worker_thread" in request.fixturenames:
        return

    def away(name: str, args: Any, **options: Any) -> None:
        raise OperationalError("no broker")

    monkeypatch.setattr(sending.current_app, "send_task", away)


def test_alert_says_which_key_and_nothing_of_it(alice: User, credential: UserCredential, told: Any) -> None:
    told(credential, "invalid")
    (sent,) = mail.outbox
    assert sent.to == [alice.email]
    assert sent.subject == "Keyswitch: your Sandbox key “work” was refused by the provider"
    assert KEY not in sent.body
    assert "Settings, Providers" in sent.body


def test_alert_is_mailed_once_a_change_and_five_times_an_hour_at_most(credential: UserCredential, told: Any) -> None:
    assert told(credential, "invalid") == 1
    tasks.alert(str(Alert.objects.get().pk))
    assert len(mail.outbox) == 1, "the same task twice"
    assert [told(credential, "invalid") for _ in range(5)] == [2, 3, 4, 5, 5]
    assert told(credential, "error") == 6, "another kind of change"


@pytest.mark.parametrize("why", ["mended", "deleted", "unwanted", "muted", "no address", "deactivated", "turned off"])
def test_alert_is_not_mailed_without_reason(alice: User, credential: UserCredential, why: str) -> None:
    UserCredential.objects.update(status="invalid")
    alerts.key_changed(credential, UserCredential.Status.INVALID)
    alert = Alert.objects.get()
    match why:
        case "mended":
            UserCredential.objects.update(status="valid")
        case "turned off":
            UserCredential.objects.update(is_active=False)
        case "deleted":
            credential.delete()
        case "unwanted":
            LLMSettings.objects.create(user=alice, alerts=False)
        case "muted":
            LLMSettings.objects.create(user=alice, muted=["key_refused"])
        case "no address":
            User.objects.filter(pk=alice.pk).update(email="")
        case "deactivated":
            User.objects.filter(pk=alice.pk).update(is_active=False)
    tasks.alert(str(alert.pk))
    assert mail.outbox == []


# Banners


def _banners(client: Client) -> str:
    text = unescape(client.get("/settings/security/").content.decode())
    return text.partition('aria-label="Needs your attention"')[2].partition("</section>")[0]


def test_banner_says_what_happened_and_what_to_do_until_it_is_mended(
    client: Client, alice: User, bob: User, credential: UserCredential, told: Any
) -> None:
    told(credential, "invalid")
    client.force_login(alice)
    assert "Sandbox refused your key work" in _banners(client)
    assert "/settings/llm/sandbox/?name=work" in _banners(client)
    UserCredential.objects.update(status="valid")
    assert _banners(client) == ""
    UserCredential.objects.update(status="invalid")
    client.force_login(bob)
    assert _banners(client) == ""


def test_banner_is_dismissed_until_the_next_change(
    client: Client, alice: User, credential: UserCredential, told: Any
) -> None:
    told(credential, "error")
    client.force_login(alice)
    url = f"/settings/alerts/{Alert.objects.get().pk}/dismiss/"
    assert client.post(url, {"next": "/settings/security/"})["Location"] == "/settings/security/"
    assert _banners(client) == ""
    told(credential, "invalid")
    assert "refused" in _banners(client)
    assert client.post(url, headers={"HX-Request": "true"}).content == b""
    assert _banners(client) == ""


@pytest.mark.parametrize("place", ["https://evil.example/", "//evil.example", "javascript:alert(1)", ""])
def test_banner_leads_nowhere_else(
    client: Client, alice: User, credential: UserCredential, told: Any, place: str
) -> None:
    told(credential, "error")
    client.force_login(alice)
    assert client.post(f"/settings/alerts/{Alert.objects.get().pk}/dismiss/", {"next": place})["Location"] == "/"


def test_banner_of_a_stranger_is_not_found(
    client: Client, charlie: User, credential: UserCredential, told: Any
) -> None:
    told(credential, "error")
    client.force_login(charlie)
    assert client.post(f"/settings/alerts/{Alert.objects.get().pk}/dismiss/").status_code == 404
    assert Alert.objects.get().dismissed_at is None


# Budgets


@pytest.fixture
def spend(alice: User, django_capture_on_commit_callbacks: Any) -> Any:
    def spend(amount: str, **fields: Any) -> list[str]:
        """Subjects of the mails by then."""
        UsageRecordFactory(user=alice, cost_usd=Decimal(amount), **fields)
        with django_capture_on_commit_callbacks(execute=True):
            watch_budgets()
        for alert in Alert.objects.filter(told_at__isnull=True):
            with django_capture_on_commit_callbacks(execute=True):
                tasks.alert(str(alert.pk))
        return [each.subject.partition("your budget for this month is ")[2] for each in mail.outbox]

    return spend


def test_budget_is_told_at_80_and_at_100_percent_once_a_month(client: Client, alice: User, spend: Any) -> None:
    LLMSettings.objects.create(user=alice, monthly_budget_usd=Decimal(10))
    assert spend("7.99") == []
    assert spend("0.01") == ["nearly used up"]
    assert spend("1.00") == ["nearly used up"]
    assert spend("1.00") == ["nearly used up", "used up"]
    assert spend("5.00") == ["nearly used up", "used up"]
    client.force_login(alice)
    assert "$10.00 of $10.00" in _banners(client)


def test_budget_is_told_anew_when_it_was_changed(alice: User, spend: Any) -> None:
    LLMSettings.objects.create(user=alice, monthly_budget_usd=Decimal(1))
    assert spend("0.90") == ["nearly used up"]
    services.settings_update(user=alice, monthly_budget_usd=Decimal(100))
    assert not Alert.objects.exists()
    assert spend("80") == ["nearly used up", "nearly used up"]


def test_budget_counts_own_keys_of_this_month_only(alice: User, spend: Any) -> None:
    LLMSettings.objects.create(user=alice, monthly_budget_usd=Decimal(1))
    assert spend("5", key_owner="system") == []
    assert spend("5", at=timezone.now() - timedelta(days=32)) == []
    assert spend("5", state="reserved") == []


# The settings


def test_alert_settings_keep_what_is_wanted(client: Client, alice: User) -> None:
    client.force_login(alice)
    assert (
        client.post("/settings/alerts/save/", {"mail": ["key_refused", "nonsense"]})["Location"] == "/settings/alerts/"
    )
    kept = LLMSettings.of(alice).muted
    assert "key_refused" not in kept and "budget_warned" in kept and "nonsense" not in kept
    text = client.get("/settings/alerts/").content.decode()
    assert text.count(" checked") == 1


@pytest.mark.parametrize("value", ["key_refused", ["nonsense"], [1], None, {"key_refused": True}])
def test_muted_refuses_what_is_no_list_of_kinds(alice: User, value: Any) -> None:
    with pytest.raises(ValidationError):
        services.settings_update(user=alice, muted=value)


def test_alert_settings_ask_for_login(client: Client, db: None) -> None:
    assert client.get("/settings/alerts/")["Location"].startswith("/accounts/login/")


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
        raise OperationalError("no broker")

    monkeypatch.setattr(alerts.current_app, "send_task", away)
    UserCredentialFactory(user=alice, provider="sandbox", key="sbx-good-second-00001", priority=200)
    receipt = async_to_sync(client_for(alice).complete)(ASK).receipt
    assert [each.outcome for each in receipt.attempts] == ["AuthenticationFailed", "ok"]
    credential.refresh_from_db()
    assert credential.status == "invalid"
