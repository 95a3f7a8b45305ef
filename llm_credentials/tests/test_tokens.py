"""Access tokens: their page, their API, and what calls with them may reach and cost."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.test import Client
from django.utils import timezone

from llm_credentials import services, stepup
from llm_credentials.factory import client_for
from llm_credentials.ledger import books, budgets
from llm_credentials.ledger.budgets import Limits
from llm_credentials.ledger.prices import Price
from llm_credentials.models import AuditEvent, BudgetCounter, PersonalAccessToken, UsageRecord
from llm_credentials.providers import BudgetExceeded, LLMMessage, NotConfigured
from llm_credentials.routing.receipt import KeyOwner
from llm_credentials.tests.factories import UsageRecordFactory, UserCredentialFactory
from llm_credentials.tests.proofs import make_stale, prove

pytestmark = pytest.mark.django_db

PAGE = "/settings/llm/tokens/"
NEW = f"{PAGE}new/"
API = "/api/user/tokens"
FORM = {"name": "laptop", "scopes": ["read", "gateway"], "days": "30", "budget_usd": "5", "providers": ["openai"]}
ASK = [LLMMessage.user("Hello")]


def _secret(response: Any) -> str:
    found = re.search(r"ksw_[A-Za-z0-9_-]{43}", response.content.decode())
    assert found
    return found[0]


# The page


def test_page_makes_a_token_and_shows_it_once(visitor: Client, alice: User) -> None:
    response = visitor.post(NEW, FORM)
    assert response.status_code == 200
    assert "no-store" in response["Cache-Control"]
    secret = _secret(response)
    token = services.token_authenticate(secret)
    assert token is not None
    assert (token.user, token.name, token.scopes) == (alice, "laptop", ["read", "gateway"])
    assert (token.budget_usd, token.providers) == (Decimal(5), ["openai"])
    assert token.expires_at is not None
    assert timedelta(days=29) < token.expires_at - timezone.now() <= timedelta(days=30)
    text = visitor.get(PAGE).content.decode()
    assert "laptop" in text and token.prefix in text and "OpenAI" in text and "$5.00 a month" in text
    assert secret not in text
    assert secret not in json.dumps([row.get_decoded() for row in Session.objects.all()])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scopes": []}, "This field is required."),
        ({"scopes": ["all"]}, "not one of the available choices"),
        ({"days": "-1"}, "not one of the available choices"),
        ({"budget_usd": "-1"}, "greater than or equal to 0"),
        ({"budget_usd": "NaN"}, "Enter a number."),
        ({"providers": ["nowhere"]}, "not one of the available choices"),
        ({"name": "x" * 101}, "at most 100 characters"),
        ({"name": "two\x07bells"}, "at most 100 characters on one line"),
    ],
)
def test_page_refuses_bad_input_and_keeps_the_rest(visitor: Client, change: dict[str, Any], words: str) -> None:
    response = visitor.post(NEW, FORM | change)
    assert response.status_code == 422
    assert words in response.content.decode()
    assert not PersonalAccessToken.objects.exists()


def test_form_comes_after_the_proof_and_keeps_what_was_chosen(visitor: Client, alice: User) -> None:
    make_stale(visitor)
    assert visitor.get(PAGE).status_code == 200
    assert visitor.get(NEW)["Location"] == stepup.url(NEW)
    response = visitor.post(NEW, FORM)
    assert response.status_code == 302
    assert not PersonalAccessToken.objects.exists()
    prove(visitor, alice)
    back = visitor.get(visitor.get(response["Location"])["Location"]).content.decode()
    assert 'value="laptop"' in back and 'value="5"' in back
    assert len(re.findall(r'value="(?:read|gateway|openai)"[^>]*checked', back)) == 3


def test_revoking_asks_first_and_needs_no_proof(visitor: Client, alice: User) -> None:
    token, secret = services.token_create(user=alice, name="laptop")
    make_stale(visitor)
    assert "laptop" in visitor.get(f"{PAGE}{token.pk}/remove/").content.decode()
    assert services.token_authenticate(secret) is not None
    response = visitor.post(f"{PAGE}{token.pk}/revoke/", follow=True)
    assert "refused from now on" in response.content.decode()
    assert services.token_authenticate(secret) is None
    assert "laptop" not in response.content.decode()
    assert visitor.get(f"{PAGE}{token.pk}/remove/").status_code == 404


def test_tokens_of_others_are_not_there(visitor: Client, bob: User) -> None:
    token, secret = services.token_create(user=bob, name="of bob")
    assert "of bob" not in visitor.get(PAGE).content.decode()
    assert visitor.get(f"{PAGE}{token.pk}/remove/").status_code == 404
    assert visitor.post(f"{PAGE}{token.pk}/revoke/").status_code == 404
    assert visitor.delete(f"{API}/{token.pk}").status_code == 404
    assert services.token_authenticate(secret) is not None


def test_expired_token_is_listed_as_such(visitor: Client, alice: User) -> None:
    token, _ = services.token_create(user=alice, name="old")
    PersonalAccessToken.objects.filter(pk=token.pk).update(expires_at=timezone.now() - timedelta(days=2))
    assert "Expired" in visitor.get(PAGE).content.decode()
    assert visitor.get(API).json()["items"][0]["is_usable"] is False


# The API


def _post(client: Client, body: dict[str, Any], secret: str = "") -> Any:
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    return client.post(API, json.dumps(body), content_type="application/json", headers=headers)


def test_api_makes_lists_and_revokes(visitor: Client, alice: User) -> None:
    body = {"name": "ci", "scopes": ["gateway"], "budget_usd": 2.5, "providers": ["anthropic"]}
    response = _post(visitor, body)
    assert response.status_code == 201
    assert "no-store" in response["Cache-Control"]
    made = response.json()
    assert services.token_authenticate(made["token"]) is not None
    (listed,) = visitor.get(API).json()["items"]
    assert "token" not in listed and "hash" not in listed
    assert made["token"].startswith(listed["prefix"])
    assert (listed["scopes"], listed["providers"], Decimal(listed["budget_usd"])) == (
        ["gateway"],
        ["anthropic"],
        Decimal("2.5"),
    )
    assert visitor.delete(f"{API}/{made['id']}").status_code == 204
    assert visitor.delete(f"{API}/{made['id']}").status_code == 204
    assert visitor.delete(f"{API}/{uuid4()}").status_code == 404
    assert visitor.get(API).json() == {"items": [], "count": 0}


def test_api_asks_a_session_for_a_recent_proof(visitor: Client, alice: User) -> None:
    make_stale(visitor)
    response = _post(visitor, {"scopes": ["read"]})
    assert (response.status_code, response.json()["error"]["code"]) == (401, "reauthentication_required")
    prove(visitor, alice)
    assert _post(visitor, {"scopes": ["read"]}).status_code == 201


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"scopes": []}, "body.scopes"),
        ({"scopes": ["root"]}, "body.scopes"),
        ({"scopes": ["read"], "expires_at": "2020-01-01T00:00:00Z"}, "body.expires_at"),
        ({"scopes": ["read"], "expires_at": "2030-01-01T00:00:00"}, "body.expires_at"),
        ({"scopes": ["read"], "budget_usd": -1}, "body.budget_usd"),
        ({"scopes": ["read"], "budget_usd": 1e300}, "body.budget_usd"),
        ({"scopes": ["read"], "providers": ["nowhere"]}, "body.providers"),
        ({"scopes": ["read"], "name": "a\nb"}, "body.name"),
        ({"scopes": ["read"], "user": 1}, "body.user"),
    ],
)
def test_api_refuses_bad_input(visitor: Client, body: dict[str, Any], where: str) -> None:
    response = _post(visitor, body)
    assert (response.status_code, response.json()["error"]["where"]) == (422, where)
    assert not PersonalAccessToken.objects.exists()


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"scopes": ["credentials", "agents"]}, "scopes"),
        ({"scopes": ["read"], "providers": ["openai", "groq"]}, "providers"),
        ({"scopes": ["read"], "budget_usd": 5.01}, "budget_usd"),
        ({"scopes": ["read"], "expires_at": "2099-01-01T00:00:00Z"}, "expires_at"),
    ],
)
def test_token_hands_on_no_more_than_it_has(client: Client, alice: User, body: dict[str, Any], where: str) -> None:
    _, secret = services.token_create(
        user=alice,
        scopes=["read", "credentials"],
        providers=["openai"],
        budget_usd=5,
        expires_at=timezone.now() + timedelta(days=3),
    )
    response = _post(client, body, secret)
    assert (response.status_code, response.json()["error"]["where"]) == (422, f"body.{where}")


def test_token_hands_on_its_own_limits_where_nothing_is_said(client: Client, alice: User) -> None:
    until = timezone.now() + timedelta(days=3)
    _, secret = services.token_create(
        user=alice, scopes=["credentials"], providers=["openai"], budget_usd=5, expires_at=until
    )
    made = _post(client, {"scopes": ["credentials"]}, secret).json()
    token = services.token_authenticate(made["token"])
    assert token is not None
    assert (token.providers, token.budget_usd, token.expires_at) == (["openai"], Decimal(5), until)


# Calls with a token


def _token(user: User, **limits: Any) -> PersonalAccessToken:
    token, _ = services.token_create(user=user, scopes=["gateway"], **limits)
    return token


@pytest.mark.django_db(transaction=True)
def test_call_reaches_only_the_providers_of_its_token(alice: User, sandbox_url: str) -> None:
    UserCredentialFactory(user=alice, provider="sandbox", key="sbx-good-tokens-0001", model="sandbox-instant")
    token = _token(alice, providers=["openai"])
    assert token.allows_provider("openai") and not token.allows_provider("sandbox")
    with pytest.raises(NotConfigured):
        async_to_sync(client_for(alice, token=token).complete)(ASK)
    route = async_to_sync(client_for(alice, token=token).route)()
    assert "access token of this call may not use Sandbox" in str(route)
    free = _token(alice)
    assert async_to_sync(client_for(alice, token=free).with_defaults(max_tokens=20).complete)(ASK).text
    assert UsageRecord.objects.get().token_id == free.pk


@pytest.mark.django_db(transaction=True)
def test_call_stops_at_the_budget_of_its_token(alice: User, sandbox_url: str) -> None:
    UserCredentialFactory(user=alice, provider="openai", key="sk-test-token-budget-0001", model="gpt-5-mini")
    spent, fresh = _token(alice, budget_usd=1), _token(alice, budget_usd=1)
    UsageRecordFactory(user=alice, token_id=spent.pk, cost_usd=Decimal("1.00"), key_owner="system")
    with pytest.raises(BudgetExceeded, match=r"The budget of this access token for this month is \$1\.00"):
        async_to_sync(client_for(alice, token=spent).complete)(ASK)
    assert budgets.spent_usd("token", spent.pk) == Decimal("1.00")
    assert budgets.spent_usd("token", fresh.pk) == 0


@pytest.mark.parametrize("owner", ["user", "system"])
def test_budget_of_a_token_holds_on_either_kind_of_key(alice: User, owner: KeyOwner) -> None:
    limits = Limits(token_id=uuid4(), token_monthly_usd=Decimal(1))
    UsageRecordFactory(user=alice, token_id=limits.token_id, cost_usd=Decimal("0.90"))
    UsageRecordFactory(user=alice, token_id=uuid4(), cost_usd=Decimal("5.00"))

    def reserve(usd: str) -> None:
        entry = books.Entry(
            call_id=uuid4(),
            user_id=alice.pk,
            task="",
            provider="openai",
            model="gpt",
            credential_id=None,
            key_owner=owner,
            token_id=limits.token_id,
        )
        books.reserve(entry, limits, Price(usd=Decimal(usd), source="test"), 10)

    reserve("0.05")
    with pytest.raises(BudgetExceeded, match="budget of this access token"):
        reserve("0.20")
    reserve("0.05")
    with pytest.raises(BudgetExceeded):
        reserve("0.01")
    BudgetCounter.objects.update(used_e8=0, again_at=timezone.now())
    assert budgets.recount() == 1
    with pytest.raises(BudgetExceeded):
        reserve("0.01")


# The command


def test_command_makes_a_limited_token(alice: User, capsys: Any) -> None:
    call_command("token_create", "alice", "--scope", "gateway", "--budget-usd", "2.50", "--provider", "openai")
    token = services.token_authenticate(capsys.readouterr().out.split()[-1])
    assert token is not None
    assert (token.budget_usd, token.providers) == (Decimal("2.50"), ["openai"])


def test_tokens_that_a_token_made_end_with_it(client: Client, alice: User) -> None:
    """Whoever had it for a while keeps nothing of it."""
    parent, first = services.token_create(user=alice)
    secrets, secret = [first], first
    for _ in range(2):
        headers = {"Authorization": f"Bearer {secret}"}
        wanted = {"scopes": ["credentials"]}
        made = client.post("/api/user/tokens", wanted, content_type="application/json", headers=headers)
        secret = made.json()["token"]
        secrets.append(secret)
    _, own = services.token_create(user=alice)
    assert all(services.token_authenticate(each) for each in (*secrets, own))
    services.token_revoke(user=alice, token_id=parent.pk)
    assert not any(services.token_authenticate(each) for each in secrets)
    assert services.token_authenticate(own)
    assert AuditEvent.objects.filter(action="token.revoke").count() == 3
    with pytest.raises(ValidationError, match="was revoked"):
        services.token_create(user=alice, parent=parent)


def test_parent_without_limits_hands_on_anything(alice: User) -> None:
    parent = _token(alice)
    with pytest.raises(ValidationError):
        services.token_create(user=alice, scopes=["agents"], parent=parent)
    services.token_create(user=alice, scopes=["gateway"], providers=["groq"], budget_usd=9, parent=parent)


# Through the gateway


@pytest.mark.django_db(transaction=True)
def test_gateway_holds_a_token_to_its_limits(live_site: str, alice: User, sandbox_url: str) -> None:
    UserCredentialFactory(user=alice, provider="sandbox", key="sbx-good-tokens-0002", model="sandbox-instant")

    def ask(token: PersonalAccessToken, secret: str) -> Any:
        body = {"model": "auto", "messages": [{"role": "user", "content": "Hello"}]}
        headers = {"authorization": f"Bearer {secret}"}
        return httpx2.post(f"{live_site}/v1/chat/completions", json=body, headers=headers, trust_env=False)

    narrow, narrow_secret = services.token_create(user=alice, scopes=["gateway"], providers=["openai"])
    assert ask(narrow, narrow_secret).status_code != 200
    assert not UsageRecord.objects.exists()
    free, free_secret = services.token_create(user=alice, scopes=["gateway"], providers=["sandbox"])
    assert ask(free, free_secret).status_code == 200
    assert UsageRecord.objects.get().token_id == free.pk
