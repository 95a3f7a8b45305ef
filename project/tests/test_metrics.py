"""``/metrics``: what is counted, who may read it, and that nobody's data stands in it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.test import Client

from llm_credentials import services
from llm_credentials.factory import client_for
from llm_credentials.providers import LLMMessage, RateLimited
from llm_credentials.routing import health
from project import env
from project.metrics import surface_of
from project.tests.servers import wait_until

GOOD = "sbx-good-canary-0123456789"
ASK = [LLMMessage.user("say the word marmalade")]


def values(text: str) -> dict[str, float]:
    lines = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def read(client: Client) -> dict[str, float]:
    response = client.get("/metrics")
    assert response.status_code == 200, response.content
    return values(response.content.decode())


def grown(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    return {name: value - before.get(name, 0) for name, value in after.items() if value != before.get(name, 0)}


def store(user: User, url: str, name: str, model: str, priority: int) -> None:
    services.credential_save(
        user=user, provider="openai_compatible", name=name, api_key=GOOD, model=model, base_url=f"{url}/v1"
    )
    user.llm_credentials.filter(name=name).update(priority=priority)


@pytest.mark.django_db(transaction=True)
async def test_metrics_count_calls_attempts_failovers_and_tokens(sandbox_url: str) -> None:
    alice = await sync_to_async(User.objects.create_user)("alice")
    await sync_to_async(store)(alice, sandbox_url, "first", "sandbox-instant~fault=429", 1)
    await sync_to_async(store)(alice, sandbox_url, "second", "sandbox-instant", 2)
    before = await sync_to_async(read)(Client())
    await client_for(alice, task="conversation").complete(ASK)
    async for _ in client_for(alice, task="conversation").stream(ASK):
        pass
    after = grown(before, await sync_to_async(read)(Client()))
    attempts = 'keyswitch_attempts_total{key_owner="user",outcome="%s",provider="openai_compatible"}'
    assert after['keyswitch_calls_total{task="conversation"}'] == 2
    assert after[attempts % "ok"] == 2
    assert after[attempts % "RateLimited"] >= 1
    assert after['keyswitch_failovers_total{provider="openai_compatible"}'] >= 1
    assert after['keyswitch_attempt_seconds_count{provider="openai_compatible"}'] >= 3
    assert after['keyswitch_first_content_seconds_count{provider="openai_compatible"}'] == 1
    assert after['keyswitch_tokens_total{direction="output",provider="openai_compatible"}'] > 0
    assert not any(name.startswith("keyswitch_failed_calls") for name in after)


@pytest.mark.django_db(transaction=True)
async def test_metrics_count_a_call_that_nobody_answered(sandbox_url: str) -> None:
    alice = await sync_to_async(User.objects.create_user)("alice")
    await sync_to_async(store)(alice, sandbox_url, "only", "sandbox-instant~fault=429", 1)
    before = await sync_to_async(read)(Client())
    with pytest.raises(RateLimited):
        await client_for(alice, task="conversation").complete(ASK)
    after = grown(before, await sync_to_async(read)(Client()))
    assert after['keyswitch_failed_calls_total{error="RateLimited",task="conversation"}'] == 1


@pytest.mark.django_db
def test_metrics_show_the_state_of_the_parts(client: Client) -> None:
    found = read(client)
    assert found["keyswitch_valkey_up"] == 1
    assert found['keyswitch_queue_depth{queue="celery"}'] == 0
    assert found["keyswitch_workers"] == 0
    assert found['keyswitch_troubles{meaning="broken"}'] >= 1  # no worker runs here


@pytest.mark.django_db
def test_metrics_count_open_breakers_by_provider_and_name_no_address(client: Client) -> None:
    for _ in range(health.FAILURES):
        health.failed("to:openai_compatible|https://marmalade.example/v1")
    text = client.get("/metrics").content.decode()
    assert values(text)['keyswitch_resting_destinations{provider="openai_compatible"}'] == 1
    assert values(text)['keyswitch_resting_destinations{provider="openai"}'] == 0
    assert "marmalade" not in text


@pytest.mark.django_db
def test_metrics_answer_while_valkey_is_away(client: Client, settings: Any) -> None:
    settings.REDIS_URL = "unix:///nowhere/valkey.sock"
    found = read(client)
    assert found["keyswitch_valkey_up"] == 0
    assert not any(name.startswith("keyswitch_queue_depth") for name in found)


@pytest.mark.django_db
def test_metrics_hold_nobodys_data(client: Client, alice: User, sandbox_url: str) -> None:
    services.credential_save(
        user=alice, provider="openai_compatible", name="marmalade", api_key=GOOD, base_url=f"{sandbox_url}/v1"
    )
    client.get("/marmalade/alice@example.com")
    text = client.get("/metrics").content.decode()
    for word in ("alice", "marmalade", "canary", "127.0.0.1"):
        assert word not in text, word


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"REMOTE_ADDR": "203.0.113.7"}, 403),
        ({"HTTP_X_FORWARDED_FOR": "203.0.113.7"}, 403),
        ({"HTTP_FORWARDED": "for=203.0.113.7"}, 403),
        ({"HTTP_X_REAL_IP": "203.0.113.7"}, 403),
        ({"HTTP_VIA": "1.1 proxy"}, 403),
        ({"REMOTE_ADDR": "no address"}, 403),
    ],
)
@pytest.mark.django_db
def test_metrics_without_a_token_are_for_this_machine(client: Client, headers: dict[str, str], status: int) -> None:
    assert client.get("/metrics", **headers).status_code == status


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("given", "status"), [("", 403), ("Bearer wrong", 403), ("Bearer tok-én", 403), ("Bearer t0ken", 200)]
)
def test_metrics_with_a_token_are_for_who_has_it(client: Client, settings: Any, given: str, status: int) -> None:
    settings.METRICS_TOKEN = "t0ken"
    headers = {"HTTP_AUTHORIZATION": given, "REMOTE_ADDR": "203.0.113.7"}
    assert client.get("/metrics", **headers).status_code == status


@pytest.mark.parametrize(
    ("path", "surface"),
    [("/v1/models", "v1"), ("/settings/llm/", "settings"), ("/", "other"), ("/wp-admin/x", "other"), ("", "other")],
)
def test_surface_is_one_of_a_few(path: str, surface: str) -> None:
    assert surface_of(path) == surface


def test_requests_are_counted_by_surface_and_status(live_site: str) -> None:
    def count(name: str) -> float:
        return values(httpx2.get(f"{live_site}/metrics").text).get(name, 0)

    refused = 'keyswitch_http_requests_total{status="4xx",surface="v1"}'
    before = count(refused)
    assert httpx2.get(f"{live_site}/v1/models").status_code == 401
    wait_until(lambda: count(refused) == before + 1, "the count of the refusal")
    assert count('keyswitch_http_request_seconds_count{surface="v1"}') >= 1


COUNTING = """
import sys
from project import env
env._Environment.ENVIRON = {"METRICS_DIR": sys.argv[1]}
env.shared_metrics("METRICS_DIR")
from prometheus_client import Counter
Counter("keyswitch_tried", "Tried", []).inc(int(sys.argv[2]))
"""


@pytest.mark.django_db
def test_processes_of_one_machine_count_together(tmp_path: Path, client: Client, settings: Any) -> None:
    settings.METRICS_DIR = str(tmp_path / "counts")
    for many in ("2", "3"):
        command = [sys.executable, "-c", COUNTING, settings.METRICS_DIR, many]
        subprocess.run(command, check=True, cwd=env.BASE_DIR, env=env.child_environment())
    assert read(client)["keyswitch_tried_total"] == 5


@pytest.mark.django_db
def test_every_metric_is_described(client: Client) -> None:
    text = client.get("/metrics").content.decode()
    named = set(re.findall(r"^# TYPE (keyswitch_\w+)", text, re.MULTILINE))
    assert named == set(re.findall(r"^# HELP (keyswitch_\w+) \S", text, re.MULTILINE))
    assert len(named) >= 12
