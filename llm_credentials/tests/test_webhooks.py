"""A user's webhook: signed, only to addresses that may be called, tried again, switched off when it stays away."""

from __future__ import annotations

import hmac
import json
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import connection
from django.test import Client

from llm_credentials import leaving, stepup, tasks, webhooks
from llm_credentials.factory import client_for
from llm_credentials.fields import Unreadable
from llm_credentials.models import Alert, AuditEvent, EgressAllowance, UserCredential, Webhook, WebhookDelivery
from llm_credentials.providers import LLMError, LLMMessage
from llm_credentials.tests.factories import UserCredentialFactory
from project.tests.servers import wait_until

PAGE = "/settings/alerts/"
SET = "/settings/alerts/webhook/set/"
TEST = "/settings/alerts/webhook/test/"


class Receiver(HTTPServer):
    """Somebody's program; answers ``status``."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 204
        self.heard: list[tuple[dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.heard.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(self.server.status)
        self.send_header("content-length", "0")
        self.send_header("location", "http://127.0.0.1:1/elsewhere")
        self.end_headers()

    def log_message(self, *args: Any) -> None: ...


@pytest.fixture
def receiver(transactional_db: Any) -> Iterator[Receiver]:
    server = Receiver()
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    EgressAllowance.objects.create(host="127.0.0.1", port=server.server_port, for_providers=False, for_tools=True)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def queued(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """What would have been handed to a worker: (delivery, after how many seconds)."""
    sent: list[tuple[str, float]] = []
    monkeypatch.setattr(
        webhooks.current_app,
        "send_task",
        lambda name, args, countdown=0, **options: sent.append((args[0], countdown)),
    )
    return sent


def _set(user: User, receiver: Receiver) -> str:
    return webhooks.webhook_set(user=user, url=receiver.url)[1]


def _announce(user: User, event: str = "key_refused") -> WebhookDelivery:
    made = webhooks.announce(user.pk, event, {"provider": "OpenAI", "last4": "wxyz"})
    assert made is not None
    return made


def _state(delivery: WebhookDelivery) -> tuple[str, int, int | None]:
    delivery.refresh_from_db()
    return delivery.state, delivery.attempts, delivery.status_code


def test_webhook_message_is_signed_with_its_secret(
    alice: User, receiver: Receiver, queued: list[tuple[str, float]]
) -> None:
    secret = _set(alice, receiver)
    delivery = _announce(alice)
    tasks.webhook_delivery(queued[0][0])
    ((headers, body),) = receiver.heard
    at, mac = (part.partition("=")[2] for part in headers["keyswitch-signature"].split(","))
    assert mac == hmac.new(secret.encode(), f"{at}.".encode() + body, sha256).hexdigest()
    assert headers["keyswitch-event"] == "key_refused" and headers["keyswitch-delivery"] == str(delivery.pk)
    told = json.loads(body)
    assert (told["id"], told["event"], told["facts"]["provider"]) == (str(delivery.pk), "key_refused", "OpenAI")
    assert _state(delivery) == ("delivered", 1, 204)
    tasks.webhook_delivery(str(delivery.pk))
    assert len(receiver.heard) == 1, "the same task twice"


def test_webhook_is_tried_again_with_growing_pauses_and_then_given_up(
    alice: User, receiver: Receiver, queued: list[tuple[str, float]]
) -> None:
    _set(alice, receiver)
    receiver.status = 500
    delivery = _announce(alice)
    for _ in range(5):
        tasks.webhook_delivery(str(delivery.pk))
    assert [countdown for _id, countdown in queued] == [0, 10, 60, 300, 600]
    assert _state(delivery) == ("given_up", 5, 500)
    assert {body for _headers, body in receiver.heard} == {delivery.body.encode()}


def test_webhook_that_comes_back_is_delivered(alice: User, receiver: Receiver, queued: list[tuple[str, float]]) -> None:
    _set(alice, receiver)
    receiver.status = 503
    delivery = _announce(alice)
    tasks.webhook_delivery(str(delivery.pk))
    receiver.status = 200
    tasks.webhook_delivery(str(delivery.pk))
    assert _state(delivery) == ("delivered", 2, 200)


def test_webhook_follows_no_redirect(alice: User, receiver: Receiver, queued: list[tuple[str, float]]) -> None:
    _set(alice, receiver)
    receiver.status = 307
    delivery = _announce(alice)
    tasks.webhook_delivery(str(delivery.pk))
    assert len(receiver.heard) == 1
    assert delivery.state != "delivered"


def test_webhook_that_stays_away_is_switched_off_and_its_owner_told(
    alice: User, receiver: Receiver, queued: list[tuple[str, float]]
) -> None:
    _set(alice, receiver)
    receiver.status = 410
    for number in range(webhooks.GIVE_UP_AFTER):
        assert Webhook.objects.get().is_active, number
        tasks.webhook_delivery(str(_announce(alice).pk))
    assert not Webhook.objects.get().is_active
    assert [alert.kind for alert in Alert.objects.for_user(alice)] == ["webhook_off"]
    assert webhooks.announce(alice.pk, "key_refused", {}) is None
    _set(alice, receiver)
    assert Webhook.objects.get().is_active


def test_webhook_success_forgives_earlier_failures(
    alice: User, receiver: Receiver, queued: list[tuple[str, float]]
) -> None:
    _set(alice, receiver)
    receiver.status = 410
    tasks.webhook_delivery(str(_announce(alice).pk))
    assert Webhook.objects.get().failures == 1
    receiver.status = 200
    tasks.webhook_delivery(str(_announce(alice).pk))
    assert Webhook.objects.get().failures == 0


def test_webhook_address_that_may_not_be_called_any_more_is_not(
    alice: User, receiver: Receiver, queued: list[tuple[str, float]]
) -> None:
    _set(alice, receiver)
    EgressAllowance.objects.all().delete()
    delivery = _announce(alice)
    tasks.webhook_delivery(str(delivery.pk))
    assert _state(delivery) == ("given_up", 1, None)
    assert "private" in delivery.detail
    assert receiver.heard == []


def test_webhook_may_not_reach_the_servers_of_keys(alice: User, settings: Any) -> None:
    """What operators allow for calls with keys is not allowed for messages of users' own making."""
    settings.LLM_EGRESS_ALLOW = ["127.0.0.1:11434"]
    with pytest.raises(ValidationError):
        webhooks.webhook_set(user=alice, url="http://127.0.0.1:11434/api/delete")


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "http://example.com/",
            "https://127.0.0.1/",
            "https://localhost/x",
            "https://[::1]/",
            "ftp://example.com",
        ),
        *(
            "https://169.254.169.254/latest",
            "https://user:word@example.com/",
            "https://example.com/\r\nX: y",
            "https://",
        ),
        *("https://metadata.google.internal/", "https://2130706433/", "https://example.com:22/", "javascript:alert(1)"),
        "https://" + "a" * 3000 + ".com/",
    ],
)
def test_webhook_refuses_addresses_in_words(client: Client, alice: User, url: str) -> None:
    client.force_login(alice)
    response = _proven(client).post(SET, {"url": url})
    assert response.status_code == 422
    assert 'id="webhook-error"' in response.content.decode()
    assert not Webhook.objects.exists()


def _proven(client: Client) -> Client:
    """With a login a moment ago, as the pages see it."""
    session = client.session
    session[stepup.LOGGED_IN_AT] = time.time()
    session.save()
    return client


def test_webhook_secret_is_shown_once_and_sealed(client: Client, alice: User, bob: User) -> None:
    client.force_login(alice)
    text = _proven(client).post(SET, {"url": "https://example.com/hook"}).content.decode()
    secret = text.partition('id="webhook-secret">')[2].partition("<")[0]
    assert secret.startswith(webhooks.SECRET_PREFIX) and len(secret) > 40
    with connection.cursor() as cursor:
        cursor.execute("SELECT secret FROM llm_webhooks")
        (stored,) = cursor.fetchone()
    assert stored.startswith("v1:") and secret not in stored
    for page in (client.get(PAGE), client.post(SET, {"url": "https://example.com/hook"}, follow=True)):
        assert secret not in page.content.decode()
    assert secret not in json.dumps(leaving.account_export(user=alice), default=str)
    row = Webhook.objects.get()
    assert row.reveal_secret() == secret
    row.url = "https://evil.example/"
    with pytest.raises(Unreadable):
        row.reveal_secret()
    assert AuditEvent.objects.filter(action="webhook.change", subject=str(alice.pk)).count() == 2


def test_webhook_wants_a_recent_proof(client: Client, alice: User) -> None:
    client.force_login(alice)
    session = client.session
    session[stepup.LOGGED_IN_AT] = 0
    session.save()
    for path in (SET, "/settings/alerts/webhook/remove/"):
        assert (
            "/step-up/" in client.post(path, {"url": "https://example.com/"})["Location"]
            or not Webhook.objects.exists()
        )
    assert not Webhook.objects.exists()
    assert 'id="webhook-url"' not in client.get(PAGE).content.decode()


def test_webhook_removal_takes_all_of_it_along(alice: User, queued: list[Any], transactional_db: Any) -> None:
    webhooks.webhook_set(user=alice, url="https://example.com/hook")
    _announce(alice)
    webhooks.webhook_remove(user=alice)
    assert not Webhook.objects.exists() and not WebhookDelivery.objects.exists()
    webhooks.webhook_remove(user=alice)


def test_webhook_keeps_the_last_messages_only(alice: User, queued: list[Any], db: Any) -> None:
    webhooks.webhook_set(user=alice, url="https://example.com/hook")
    made = [_announce(alice).pk for _ in range(webhooks.KEPT + 3)]
    assert set(WebhookDelivery.objects.values_list("pk", flat=True)) == set(made[3:])


def test_webhook_hears_only_what_it_wants(alice: User, queued: list[Any], db: Any) -> None:
    webhooks.webhook_set(user=alice, url="https://example.com/hook", muted=["budget_warned"])
    assert webhooks.announce(alice.pk, "budget_warned", {}) is None
    assert webhooks.announce(alice.pk, "budget_used_up", {}) is not None


def test_webhook_test_says_how_it_went_and_is_limited(client: Client, alice: User, db: Any, queued: list[Any]) -> None:
    client.force_login(alice)
    assert "Set a webhook first." in client.post(TEST, follow=True).content.decode()
    webhooks.webhook_set(user=alice, url="https://example.com/hook")
    for _ in range(5):
        assert "on its way" in client.post(TEST, follow=True).content.decode()
    assert "Test again in" in client.post(TEST, follow=True).content.decode()


def test_webhook_is_told_of_a_refused_key_through_a_worker(
    alice: User, receiver: Receiver, sandbox_url: str, celery_worker_thread: Any
) -> None:
    """The whole way: a call, its alert, the message."""
    UserCredentialFactory(user=alice, provider="sandbox", model="sandbox-chat+fault:401", key="sbx-good-for-webhooks")
    _set(alice, receiver)
    for _ in range(2):
        with pytest.raises(LLMError):
            async_to_sync(client_for(alice).complete)([LLMMessage.user("Hello")])
    wait_until(lambda: receiver.heard, "the message")
    wait_until(lambda: WebhookDelivery.objects.filter(state="delivered").exists(), "the delivery")
    ((_headers, body),) = receiver.heard
    assert json.loads(body)["event"] == "key_refused"
    assert b"sbx-good" not in body
    assert UserCredential.objects.get().status == "invalid"
