"""A token that is taken away while what it asked for is under way, and one whose budget or providers say no."""

from __future__ import annotations

import json
import threading
from decimal import Decimal
from typing import Any

import httpx2
import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from llm_credentials import connection_tests, services
from llm_credentials.ledger import writer
from llm_credentials.live import access
from llm_credentials.models import ConnectionTest, PersonalAccessToken, UsageRecord, UserCredential
from llm_credentials.tests.factories import UsageRecordFactory, UserCredentialFactory
from llm_credentials.tests.test_live_changes import elsewhere
from project.tests.servers import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("live_as_in_production")]

TEST = "/api/user/llm-credentials/openai/test"


@pytest.fixture
def credential(alice: User, sandbox_url: str) -> UserCredential:
    httpx2.delete(f"{sandbox_url}/_sandbox/requests")
    made: UserCredential = UserCredentialFactory(
        user=alice, provider="openai", key="sbx-good-0123456789", model="sandbox-chat", base_url=f"{sandbox_url}/v1"
    )
    return made


def _asked(sandbox_url: str) -> list[Any]:
    return [row for row in httpx2.get(f"{sandbox_url}/_sandbox/requests").json()["items"] if row["method"] == "POST"]


def _begin(token: str, model: str) -> ConnectionTest:
    """A test as a program asks for it; its worker is the one that calls ``test_run``."""
    answer = Client(headers={"Authorization": f"Bearer {token}"}).post(
        TEST, json.dumps({"model": model}), content_type="application/json"
    )
    assert answer.status_code == 202
    return ConnectionTest.objects.get(pk=answer.json()["id"])


def test_test_under_way_ends_with_its_token(alice: User, credential: UserCredential, sandbox_url: str) -> None:
    row, token = services.token_create(user=alice)
    test = _begin(token, "sandbox-chat~wait=30")
    worker = threading.Thread(target=connection_tests.test_run, args=(test.pk,))
    worker.start()
    wait_until(lambda: bool(_asked(sandbox_url)), "the call to be under way")
    elsewhere(lambda: PersonalAccessToken.objects.filter(pk=row.pk).update(revoked_at=timezone.now()))
    worker.join(20)
    test.refresh_from_db()
    assert (test.state, test.detail, test.has_key) == ("error", access.WORDS["token"], False)
    wait_until(lambda: _asked(sandbox_url)[0]["client_gone"], "the provider to notice")
    credential.refresh_from_db()
    assert credential.status == "unverified"


def test_test_of_a_token_that_is_gone_calls_nothing(alice: User, credential: UserCredential, sandbox_url: str) -> None:
    row, token = services.token_create(user=alice)
    test = _begin(token, "sandbox-chat")
    services.token_revoke(user=alice, token_id=row.pk)
    connection_tests.test_run(test.pk)
    test.refresh_from_db()
    assert (test.state, test.detail) == ("error", access.WORDS["token"])
    assert _asked(sandbox_url) == []


def test_tokens_budget_runs_out_over_gateway_and_api_together(
    live_site: str, alice: User, credential: UserCredential
) -> None:
    UserCredential.objects.update(model="gpt-4o-mini")
    row, token = services.token_create(user=alice, budget_usd=Decimal("1.00"))
    other = services.token_create(user=alice, budget_usd=Decimal("1.00"))[1]
    UsageRecordFactory(user=alice, token_id=row.pk, cost_usd=Decimal("0.9999"), at=timezone.now())
    body = {"model": "auto", "max_tokens": 2000, "messages": [{"role": "user", "content": "Hello"}]}
    with httpx2.Client(base_url=live_site, headers={"authorization": f"Bearer {token}"}) as program:
        for path in ("/v1/chat/completions", "/v1/messages"):
            refused = program.post(path, json=body)
            assert (refused.status_code, refused.json()["error"]["code"]) == (402, "budget_exceeded"), path
        opened = program.post("/api/conversations", json={"agent": "conversation"}).json()["id"]
        answer = program.post(f"/api/conversations/{opened}/messages", json={"text": "Hello"}).json()
        assert answer["error"]["class"] == "BudgetExceeded"
    writer.flush()
    assert not UsageRecord.objects.filter(token_id=row.pk, state__in=("settled", "estimated"), outcome="ok").exclude(
        cost_usd=Decimal("0.9999")
    )
    fresh = httpx2.post(f"{live_site}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {other}"})
    assert fresh.status_code != 402


def test_tokens_providers_hold_for_gateway_and_api(live_site: str, alice: User, credential: UserCredential) -> None:
    token = services.token_create(user=alice, providers=["groq"])[1]
    with httpx2.Client(base_url=live_site, headers={"authorization": f"Bearer {token}"}) as program:
        body = {"model": "auto", "messages": [{"role": "user", "content": "Hello"}]}
        assert program.post("/v1/chat/completions", json=body).status_code in (400, 403)
        assert [row["id"] for row in program.get("/v1/models").json()["data"] if row["owned_by"] == "openai"] == []
        opened = program.post("/api/conversations", json={"agent": "conversation"}).json()["id"]
        answer = program.post(f"/api/conversations/{opened}/messages", json={"text": "Hello"}).json()
        assert answer["state"] != "complete"
    writer.flush()
    assert not UsageRecord.objects.exists()
