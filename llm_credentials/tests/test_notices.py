from __future__ import annotations

import re
import smtplib
from typing import Any

import pytest
import structlog
from allauth.account.models import EmailAddress
from allauth.mfa.totp.internal.auth import TOTP, generate_totp_secret
from django.contrib.auth.models import User
from django.core import mail
from django.db import transaction
from django.test import Client
from kombu.exceptions import OperationalError

from llm_credentials import leaving, services
from llm_credentials.audit import acting
from llm_credentials.notices import Kind, deliver, notify, sending
from llm_credentials.tests.proofs import prove
from project.env import BASE_DIR
from project.tests.servers import wait_until

pytestmark = pytest.mark.django_db

KEY = "sk-canary-notices-0123456789-4f2a"
OTHER_KEY = "sk-canary-notices-9876543210-77aa"
FACTS = {
    "provider": "OpenAI",
    "last4": "4f2a",
    "token": "ksw_abcdefgh",
    "scopes": "read",
    "factor": "totp",
    "address": "https://elsewhere.example/v1",
}


@pytest.fixture
def broker_away(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*args: Any, **options: Any) -> None:
        raise OperationalError("no broker")

    monkeypatch.setattr(sending.current_app, "send_task", away)


@pytest.fixture
def no_broker(broker_away: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """And every change counts as committed at once, so that the mail is there when it returns."""
    monkeypatch.setattr(sending.transaction, "on_commit", lambda told, robust=False: told())


def _last() -> Any:
    (sent,) = mail.outbox
    mail.outbox.clear()
    text = f"{sent.subject}\n{sent.body}\n{sent.alternatives[0].content}"
    assert "canary" not in text and "://" not in text.replace("https://elsewhere.example/v1", "")
    return sent


def test_every_kind_has_a_text_and_every_text_a_kind() -> None:
    folder = BASE_DIR / "templates" / "llm_credentials" / "mail"
    texts = {path.stem for path in folder.glob("*.txt") if not path.stem.startswith("_")}
    assert texts == {kind.value for kind in Kind}


@pytest.mark.parametrize("kind", Kind)
def test_text_has_a_subject_of_one_line_and_says_what_to_do(alice: User, kind: Kind) -> None:
    done = {"at": "21 November 2026, 13:00 UTC", "by": "you", "through": "page", "ip": "203.0.113.7"}
    assert deliver(alice.pk, kind, FACTS | (done if kind.was_done_by_somebody else {}))
    sent = _last()
    assert sent.to == [alice.email]
    assert sent.subject.startswith("Keyswitch: ") and len(sent.subject) < 90
    assert "{" not in sent.subject + sent.body
    if kind.was_done_by_somebody:
        advice = "open Settings, Providers" if kind in (Kind.KEY_TURNED_OFF, Kind.REENTRY_ASKED) else "it was not"
        for words in ("21 November 2026", "your account, in a browser", "203.0.113.7", advice, "no links"):
            assert words in sent.body, words
    else:
        assert re.search("Settings, (Providers|Usage|Alerts)", sent.body)


def test_words_of_users_stand_as_typed_on_one_line(alice: User, no_broker: None) -> None:
    notify(alice.pk, Kind.TOKEN_MADE, token="ksw_abcdefgh", name="Tom & Jerry's\r\nBcc: x@example.com", scopes="read")
    sent = _last()
    assert "“Tom & Jerry's Bcc: x@example.com”" in sent.body
    ((shown, kind),) = sent.alternatives
    assert kind == "text/html"
    assert "“Tom &amp; Jerry&#x27;s Bcc: x@example.com”" in shown
    assert sent.bcc == []


def test_owner_is_told_of_everything_that_is_done_to_a_key(alice: User, no_broker: None) -> None:
    services.credential_save(user=alice, provider="openai", api_key=KEY)
    assert "OpenAI key was added" in (added := _last()).subject
    assert "ending 4f2a" in added.body
    services.credential_save(user=alice, provider="openai", api_key=OTHER_KEY)
    assert "OpenAI key was replaced" in (replaced := _last()).subject
    assert "77aa" in replaced.body
    services.credential_delete(user=alice, provider="openai")
    assert "OpenAI key was removed" in _last().subject


def test_owner_is_told_of_a_new_address(alice: User, no_broker: None, settings: Any) -> None:
    settings.LLM_EGRESS_ALLOW = ["127.0.0.1:11434", "127.0.0.1:11435"]
    services.credential_save(user=alice, provider="ollama", base_url="http://127.0.0.1:11434", model="llama")
    mail.outbox.clear()
    services.credential_save(user=alice, provider="ollama", base_url="http://127.0.0.1:11435")
    assert "goes to another address" in mail.outbox[0].subject
    assert "http://127.0.0.1:11435" in mail.outbox[0].body


def test_ordinary_changes_are_nobodys_mail(alice: User, no_broker: None) -> None:
    services.credential_save(user=alice, provider="openai", api_key=KEY)
    mail.outbox.clear()
    services.credential_save(user=alice, provider="openai", model="gpt-other", is_active=False, priority=3)
    services.settings_update(user=alice, fallback_to_system=False)
    assert mail.outbox == []


def test_owner_is_told_of_tokens_factors_and_exports(alice: User, no_broker: None) -> None:
    token, secret = services.token_create(user=alice, name="laptop", scopes=["read", "gateway"])
    made = _last()
    assert token.prefix in made.body and "read, gateway" in made.body and secret not in made.body
    services.token_revoke(user=alice, token_id=token.pk)
    services.token_revoke(user=alice, token_id=token.pk)
    assert "revoked" in _last().subject
    leaving.account_export(user=alice)
    assert "exported" in _last().subject


def test_owner_is_told_of_a_second_factor(alice: User, client: Client, no_broker: None) -> None:
    TOTP.activate(alice, generate_totp_secret())
    client.force_login(alice)
    session = client.session
    session["account_authentication_methods_user"] = str(alice.pk)
    session["account_authentication_methods"] = [{"method": "mfa", "at": 9e9, "reauthenticated": True}]
    session.save()
    mail.outbox.clear()
    client.post("/accounts/2fa/totp/deactivate/")
    assert "second factor was removed" in mail.outbox[0].subject
    assert "127.0.0.1" in mail.outbox[0].body


def test_old_address_hears_of_a_new_one(alice: User, client: Client, no_broker: None) -> None:
    EmailAddress.objects.create(user=alice, email=alice.email, primary=True)
    new = EmailAddress.objects.create(user=alice, email="new@example.com")
    client.force_login(alice)
    client.post("/accounts/email/", {"action_primary": "", "email": new.email})
    alice.refresh_from_db()
    assert alice.email == "alice@example.com", "not without a proof"
    prove(client, alice)
    client.post("/accounts/email/", {"action_primary": "", "email": new.email})
    alice.refresh_from_db()
    assert alice.email == "new@example.com"
    (sent,) = [each for each in mail.outbox if "address of your account" in each.subject]
    assert sent.to == ["alice@example.com"]


def test_mail_says_that_staff_did_it_and_not_from_where(alice: User, staff: User, no_broker: None) -> None:
    with acting(actor=str(staff.pk), ip="203.0.113.7", channel="page"):
        notify(alice.pk, Kind.KEY_REMOVED, provider="OpenAI")
    body = _last().body
    assert "the site's staff" in body
    assert "203.0.113" not in body and "staff@example.com" not in body


def test_owner_is_told_when_staff_remove_a_key(alice: User, staff: User, client: Client, no_broker: None) -> None:
    row = services.credential_save(user=alice, provider="openai", api_key=KEY).credential
    mail.outbox.clear()
    client.force_login(staff)
    client.post(f"/admin/llm_credentials/usercredential/{row.pk}/delete/", {"post": "yes"})
    sent = _last()
    assert sent.to == [alice.email] and "OpenAI key was removed" in sent.subject
    assert "ending 4f2a" in sent.body and "the site's staff" in sent.body and "127.0.0.1" not in sent.body


@pytest.mark.django_db(transaction=True)
def test_nothing_is_sent_for_what_was_rolled_back(alice: User, broker_away: None) -> None:
    with pytest.raises(RuntimeError), transaction.atomic():
        services.credential_save(user=alice, provider="openai", api_key=KEY)
        raise RuntimeError
    assert mail.outbox == []


def test_user_without_an_address_gets_none(no_broker: None) -> None:
    user = User.objects.create_user("plain")
    services.credential_save(user=user, provider="openai", api_key=KEY)
    assert mail.outbox == []


@pytest.mark.django_db(transaction=True)
def test_mail_server_that_fails_breaks_nothing(alice: User, broker_away: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise smtplib.SMTPServerDisconnected("the server went away")

    monkeypatch.setattr(sending, "mail_send", refuse)
    with structlog.testing.capture_logs() as logs:
        services.credential_save(user=alice, provider="openai", api_key=KEY)
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["notice_not_sent"]
    assert "canary" not in str(logs)


@pytest.mark.django_db(transaction=True)
def test_mail_goes_through_a_worker(alice: User, celery_worker_thread: Any) -> None:
    services.credential_save(user=alice, provider="openai", api_key=KEY)
    wait_until(lambda: mail.outbox, "the mail")
    assert "was added" in mail.outbox[0].subject
