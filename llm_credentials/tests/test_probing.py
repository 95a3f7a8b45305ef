"""What a key can do, found out by asking for it."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest
from django.contrib.auth.models import User

from llm_credentials import connection_tests, services
from llm_credentials.models import ConnectionTest, UserCredential
from llm_credentials.probing import ABILITIES, probe
from llm_credentials.providers import EgressPolicy, LLMClient, build_client

GOOD = "sbx-good-0123456789"


def client_of(url: str, model: str) -> LLMClient:
    egress = EgressPolicy(allow=[url.removeprefix("http://")])
    return build_client("sandbox", api_key=GOOD, model=model, egress=egress)


async def probed(url: str, model: str) -> dict[str, Any]:
    return await probe(client_of(url, model), lists=True)


@pytest.mark.parametrize(("model", "sees"), [("sandbox-instant", "yes"), ("sandbox-chat", "no")])
async def test_probe_tells_what_a_model_can_do(sandbox_url: str, model: str, sees: str) -> None:
    found = await probed(sandbox_url, model)
    assert found["model"] == model
    assert found["results"] == {**dict.fromkeys(ABILITIES, "yes"), "vision": sees}
    assert found["dimension"] == 256


async def test_probe_does_not_take_a_limit_for_a_refusal(sandbox_url: str) -> None:
    found = await probed(sandbox_url, "sandbox-instant~fault=429")
    asked = ("stream", "tools", "json", "vision")
    assert {found["results"][each] for each in asked} == {"unknown"}


async def test_probe_ends_in_time(sandbox_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_credentials.probing.PROBE_S", 0.2)
    async with asyncio.timeout(10):
        found = await probed(sandbox_url, "sandbox-instant~fault=stall-first")
    assert found["results"]["tools"] == "unknown"


@pytest.mark.django_db(transaction=True)
def test_test_keeps_what_it_found_with_the_key(alice: User, sandbox_url: str) -> None:
    services.credential_save(user=alice, provider="sandbox", api_key=GOOD, model="sandbox-instant")
    test = connection_tests.test_start(user=alice, provider="sandbox")
    connection_tests.test_run(test.pk)
    stored = UserCredential.objects.get()
    assert stored.abilities == ConnectionTest.objects.get().abilities
    assert stored.abilities["results"]["vision"] == "yes"
    services.credential_save(user=alice, provider="sandbox", api_key="sbx-good-another-0123456789")
    stored.refresh_from_db()
    assert stored.abilities == {}


@pytest.mark.django_db(transaction=True)
def test_refused_key_is_asked_for_nothing_more(alice: User, sandbox_url: str) -> None:
    services.credential_save(user=alice, provider="sandbox", api_key="sbx-bad-probing-0123")
    httpx2.delete(f"{sandbox_url}/_sandbox/requests")
    test = connection_tests.test_start(user=alice, provider="sandbox")
    connection_tests.test_run(test.pk)
    assert httpx2.get(f"{sandbox_url}/_sandbox/requests").json()["count"] == 1
    assert ConnectionTest.objects.get().abilities == {}
