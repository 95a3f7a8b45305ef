"""What pages show of the account beside keys and settings, over the API: alerts, webhook, order, budget, security."""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from allauth.usersessions.models import UserSession
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.test import Client
from django.utils import timezone

from llm_credentials import removal, services, webhooks
from llm_credentials.models import Alert, LLMSettings, UserCredential, Webhook, WebhookDelivery
from llm_credentials.notices.kinds import ALERTS
from llm_credentials.tests.factories import UsageRecordFactory, UserCredentialFactory
from llm_credentials.tests.proofs import make_stale, prove, proven

pytestmark = pytest.mark.django_db

HOOK = "https://hooks.example.com/alerts"


@pytest.fixture
def program(alice: User) -> Client:
    return Client(headers={"Authorization": f"Bearer {services.token_create(user=alice)[1]}"})


@pytest.fixture
def reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is looked up or sent."""
    sent: list[Any] = []
    monkeypatch.setattr(webhooks, "_enqueue", lambda *args, **_: sent.append(args))


def _send(program: Client, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    said = {} if body is None else {"data": json.dumps(body), "content_type": "application/json"}
    response = getattr(program, method)(path, **said)
    return response.status_code, json.loads(response.content) if response.content else None


# Alerts


def test_alerts_stand_until_they_are_dismissed(program: Client, alice: User, bob: User) -> None:
    own = Alert.objects.create(user=alice, kind="webhook_off", detail="Five in a row.", at=timezone.now())
    others = Alert.objects.create(user=bob, kind="webhook_off", detail="bob's", at=timezone.now())
    (shown,) = program.get("/api/user/alerts").json()["items"]
    assert (shown["id"], shown["kind"], shown["meaning"]) == (str(own.pk), "webhook_off", "attention")
    assert "Five in a row." in shown["text"]
    assert _send(program, "delete", f"/api/user/alerts/{others.pk}")[0] == 404
    assert [_send(program, "delete", f"/api/user/alerts/{own.pk}")[0] for _ in range(2)] == [204, 204]
    assert program.get("/api/user/alerts").json() == {"items": [], "count": 0}
    others.refresh_from_db()
    assert others.dismissed_at is None


def test_alert_settings_name_the_kinds_that_are_wanted(program: Client, alice: User) -> None:
    path = "/api/user/alert-settings"
    every = [kind.value for kind in ALERTS]
    assert program.get(path).json() == {"mail": every, "webhook": [], "kinds": every}
    assert _send(program, "patch", path, {"mail": ["key_spent"]})[1]["mail"] == ["key_spent"]
    assert _send(program, "patch", path, {})[1]["mail"] == ["key_spent"]
    assert _send(program, "patch", path, {"webhook": []}) == (409, _error("no_webhook", "Set a webhook first."))
    Webhook.objects.create(user=alice, url=HOOK)
    assert _send(program, "patch", path, {"webhook": ["key_spent"]})[1]["webhook"] == ["key_spent"]
    assert _send(program, "patch", path, {"mail": ["sunrise"]})[0] == 422
    services.settings_update(user=alice, alerts=False)
    assert program.get(path).json()["mail"] == []


def _error(code: str, message: str, where: str | None = None) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "where": where}}


def test_webhook_is_set_tested_and_removed(program: Client, alice: User, reachable: None) -> None:
    path = "/api/user/webhook"
    assert _send(program, "get", path)[0] == 404
    assert _send(program, "post", f"{path}/test")[0] == 409
    status, made = _send(program, "put", path, {"url": HOOK})
    assert (status, made["url"], made["is_active"]) == (200, HOOK, True)
    assert made["secret"].startswith("whsec_")
    same = _send(program, "put", path, {"url": HOOK})[1]
    assert same["secret"] is None
    status, delivery = _send(program, "post", f"{path}/test")
    assert (status, delivery["kind"], delivery["state"]) == (202, "test", "waiting")
    shown = program.get(path)
    assert [each["id"] for each in shown.json()["deliveries"]] == [delivery["id"]]
    assert "secret" not in shown.json() and made["secret"] not in shown.content.decode()
    assert [_send(program, "delete", path)[0] for _ in range(2)] == [204, 204]
    assert not WebhookDelivery.objects.exists()


def test_webhook_goes_to_no_address_that_is_closed(program: Client) -> None:
    for url in ("http://169.254.169.254/", "https://127.0.0.1/x", "ftp://example.com", "no address"):
        status, said = _send(program, "put", "/api/user/webhook", {"url": url})
        assert (status, said["error"]["where"]) == (422, "body.url"), url
    assert not Webhook.objects.exists()


def test_webhook_tests_are_limited(program: Client, alice: User, reachable: None) -> None:
    Webhook.objects.create(user=alice, url=HOOK)
    answers = [program.post("/api/user/webhook/test") for _ in range(7)]
    assert [answer.status_code for answer in answers] == [202] * 6 + [429]
    assert answers[-1]["Retry-After"]


# Order, removed keys, budget


def test_key_order_is_set_by_provider_and_name(program: Client, alice: User, bob: User) -> None:
    for provider in ("openai", "groq", "mistral"):
        UserCredentialFactory(user=alice, provider=provider)
    UserCredentialFactory(user=bob, provider="together")
    path = "/api/user/key-order"
    status, said = _send(program, "put", path, {"items": [{"provider": "mistral"}, {"provider": "openai"}]})
    assert (status, [each["provider"] for each in said["items"]]) == (200, ["mistral", "openai", "groq"])
    assert program.get(path).json() == said
    for items, status in (
        ([{"provider": "together"}], 404),
        ([{"provider": "groq"}, {"provider": "groq"}], 409),
        ([{"provider": "groq", "name": 5}], 422),
        ("groq", 422),
    ):
        assert _send(program, "put", path, {"items": items})[0] == status, items
    assert program.get(path).json() == said


def test_removed_keys_can_be_brought_back_for_a_moment(program: Client, alice: User, bob: User) -> None:
    row = UserCredentialFactory(user=alice, provider="openai")
    others = UserCredentialFactory(user=bob, provider="openai")
    for user in (alice, bob):
        removal.remove(user=user, provider="openai")
    (removed,) = program.get("/api/user/removed-credentials").json()["items"]
    assert (removed["provider"], removed["last4"]) == ("openai", row.last4)
    assert 0 < removed["seconds_left"] <= removal.UNDO_S
    back = [program.post(removed["undo_url"]) for _ in range(2)]
    assert [(each.status_code, each.json()["provider"]) for each in back] == [(200, "openai")] * 2
    assert program.post(f"/api/user/removed-credentials/{others.pk}/undo").status_code == 404
    UserCredential.with_removed.filter(pk=row.pk).update(removed_at=timezone.now() - timedelta(seconds=60))
    assert program.post(removed["undo_url"]).json()["error"]["code"] == "undo_refused"


def test_key_removed_over_the_api_can_be_kept_for_a_moment(program: Client, alice: User) -> None:
    UserCredentialFactory(user=alice, provider="openai")
    assert program.delete("/api/user/llm-credentials/openai?undo=true").status_code == 204
    assert program.get("/api/user/removed-credentials").json()["count"] == 1
    assert program.get("/api/user/llm-credentials").json()["count"] == 0


def test_budget_says_how_far_it_is_used(program: Client, alice: User) -> None:
    path = "/api/user/budget"
    UsageRecordFactory(user=alice, cost_usd=Decimal("4.5"), at=timezone.now())
    assert program.get(path).json()["percent"] is None
    status, said = _send(program, "put", path, {"monthly_budget_usd": "5.00", "stops": False})
    assert (status, said["monthly_budget_usd"], said["stops"], said["percent"]) == (200, "5.00", False, 90)
    assert (said["warns"], said["is_used_up"], Decimal(said["spent_usd"])) == (True, False, Decimal("4.5"))
    assert LLMSettings.of(alice).budget_stops is False
    assert _send(program, "put", path, {"monthly_budget_usd": None})[1]["stops"] is True
    for wrong in (-1, "1e3", "12.505", True, "", 10_000_001):
        assert _send(program, "put", path, {"monthly_budget_usd": wrong})[0] == 422, wrong


# Comparison, security, account


def test_comparison_orders_models_by_what_they_would_cost(program: Client, alice: User) -> None:
    UserCredentialFactory(user=alice, provider="openai")
    found = program.get("/api/providers/comparison?can=vision&can=tools&sort=cost").json()
    assert found["sample"]["own"] is False and found["count"] == len(found["items"]) > 5
    assert all({"vision", "tools"} <= set(each["capabilities"]) for each in found["items"])
    costs = [Decimal(each["cost_usd"]) for each in found["items"] if each["cost_usd"] is not None]
    assert costs == sorted(costs)
    assert {each["has_key"] for each in found["items"] if each["provider"] == "openai"} == {True}
    assert found["advice"] and found["as_of"]
    assert program.get("/api/providers/comparison?can=flying").status_code == 422


def test_security_says_what_opens_the_account(program: Client, client: Client, alice: User, bob: User) -> None:
    client.force_login(alice)
    for user in (alice, bob):
        key = client.session.session_key if user == alice else "of-bob"
        UserSession.objects.create(user=user, session_key=key, ip="127.0.0.1", user_agent="A browser")
    found = program.get("/api/user/security").json()
    assert (found["has_password"], found["second_factors"], found["tokens"]) == (True, [], 1)
    assert [each["is_this"] for each in found["sessions"]] == [False]
    assert [each["is_this"] for each in client.get("/api/user/security").json()["sessions"]] == [True]


def test_account_says_who_asks_and_what_the_token_may_do(program: Client, client: Client, alice: User) -> None:
    assert program.get("/api/user/account").json()["username"] == "alice"
    narrow = services.token_create(user=alice, scopes=["gateway"])[1]
    said = Client(headers={"Authorization": f"Bearer {narrow}"}).get("/api/user/account").json()
    assert said["scopes"] == ["gateway"]
    client.force_login(alice)
    assert client.get("/api/user/account").json()["scopes"] is None


def test_account_is_exported_without_a_key(program: Client, alice: User) -> None:
    UserCredentialFactory(user=alice, key="sk-export-canary-0123456789abcdef")
    answer = program.post("/api/user/account/export")
    assert (answer.status_code, answer["Cache-Control"]) == (200, "no-store")
    assert answer.json()["account"]["username"] == "alice"
    assert "canary" not in answer.content.decode()


def test_account_is_deleted_in_a_session_only_and_by_name(program: Client, alice: User) -> None:
    path = "/api/user/account?confirm=alice"
    assert program.delete(path).json()["error"]["code"] == "session_needed"
    browser = proven(alice)
    make_stale(browser)
    assert browser.delete(path).json()["error"]["code"] == "reauthentication_required"
    prove(browser, alice)
    assert browser.delete("/api/user/account?confirm=bob").json()["error"]["code"] == "not_confirmed"
    assert User.objects.filter(pk=alice.pk).exists()
    assert browser.delete(path).status_code == 204
    assert not User.objects.filter(pk=alice.pk).exists()
    assert program.get("/api/user/account").status_code == 401


def test_session_needs_a_proof_where_the_page_asks_for_one(client: Client, alice: User) -> None:
    client.force_login(alice)
    make_stale(client)
    for method, path, body in (
        ("put", "/api/user/webhook", {"url": HOOK}),
        ("delete", "/api/user/webhook", None),
        ("post", "/api/user/account/export", None),
    ):
        status, said = _send(client, method, path, body)
        assert (status, said["error"]["code"]) == (401, "reauthentication_required"), path


def test_services_refuse_what_the_document_does_not_name(alice: User) -> None:
    with pytest.raises(ValidationError):
        services.settings_update(user=alice, muted=["sunrise"])
