"""The admin's start page and its health page."""

from __future__ import annotations

import time
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
import redis
from allauth.mfa.models import Authenticator
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from agents.models import AgentRun, RunState
from llm_credentials import audit, services
from llm_credentials.ledger import budgets
from llm_credentials.models import Alert, UserCredential
from llm_credentials.routing import health as marks
from llm_credentials.tests.factories import SystemCredentialFactory, UsageRecordFactory, UserCredentialFactory
from project import attention, health, vitals
from project import celery as clock

KEY = "sk-canary-0123456789abcdef-CNRY"


@pytest.fixture
def site(client: Client, staff: User) -> Client:
    client.force_login(staff)
    return client


def clerk(*permissions: str) -> Client:
    """Staff with these permissions and no other."""
    user = User.objects.create_user("clerk", password="clerk-password", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


def part(name: str) -> vitals.Part:
    return next(each for each in vitals.take().parts if each.name == name)


# Health


def test_health_shows_workers_clock_queues_and_what_rests(site: Client, valkey_url: str) -> None:
    health.worker_alive("celery@here")
    health.clock_alive()
    with redis.Redis.from_url(valkey_url) as server:
        server.zadd(health.WORKERS, {"celery@silent": time.time() - 30})
        server.rpush("celery", "one", "two")
        server.rpush("celery\x06\x163", "three")
        server.hset("unacked", "four", "{}")
    for _ in range(marks.FAILURES):
        marks.failed("to:openai|https://proxy.example/v1")
    marks.rest("user:00000000-0000-0000-0000-000000000000", 30)
    page = site.get(reverse("admin:health"))
    seen = page.context["vitals"]
    assert [(worker.name, worker.alive) for worker in seen.workers] == [("celery@here", True), ("celery@silent", False)]
    waiting = {queue.name: queue.waiting for queue in seen.queues}
    assert waiting == dict.fromkeys(clock.app.amqp.queues, 0) | {"celery": 3}
    assert (seen.taken, seen.cooling_keys) == (1, 1)
    assert [place.title for place in seen.destinations] == ["OpenAI · https://proxy.example/v1"]
    assert seen.troubles == []
    assert "00000000" not in page.text


def test_health_says_clearly_that_valkey_is_down(site: Client, settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    page = site.get(reverse("admin:health"))
    assert page.status_code == 200
    assert "Valkey does not answer." in page.text
    states = {each.name: each.meaning for each in page.context["vitals"].parts}
    assert (states["Valkey"], states["Workers"], states["Clock"], states["Queues"]) == ("broken", *["idle"] * 3)
    assert states["Database"] == "valid"


def test_health_says_that_worker_and_clock_are_gone(db: None) -> None:
    assert part("Workers").meaning == part("Clock").meaning == "broken"
    assert "--beat" in part("Clock").detail


def test_health_says_that_a_queue_is_deep(db: None, valkey_url: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(vitals, "DEEP", 2)
    with redis.Redis.from_url(valkey_url) as server:
        server.rpush("celery", "one")
        assert part("Queues").meaning == "valid"
        server.rpush("celery", "two")
    assert (part("Queues").meaning, part("Queues").status) == ("attention", "2 jobs wait")


@pytest.mark.parametrize("ring", ["", "t1:c2hvcnQ=", "t1:ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA="])
def test_health_says_that_the_ring_is_wrong(site: Client, alice: User, settings: Any, ring: str) -> None:
    services.credential_save(user=alice, provider="openai", api_key=KEY)
    settings.CREDENTIAL_KEYS = ring
    page = site.get(reverse("admin:health"))
    assert next(each for each in page.context["vitals"].parts if each.name == "Encryption keys").meaning == "broken"
    assert "c2hvcnQ" not in page.text
    assert "Encryption keys" in site.get(reverse("admin:index")).text


def test_health_tells_of_work_that_waits(alice: User) -> None:
    AgentRun.objects.create(user=alice, agent="conversation", input="x", state=RunState.QUEUED)
    assert part("Agent runs").meaning == "valid"
    late = timezone.now() - timedelta(minutes=10)
    AgentRun.objects.update(created_at=late)
    UsageRecordFactory(user=alice, state="reserved", at=late)
    assert part("Agent runs").meaning == part("Ledger").meaning == "attention"
    assert part("Ledger").status == "1 entry left open"


def test_health_is_for_staff_of_every_kind_and_nobody_else(client: Client, alice: User) -> None:
    assert clerk().get(reverse("admin:health")).status_code == 200
    client.force_login(alice)
    assert client.get(reverse("admin:health")).status_code == 302


def test_health_asks_the_database_little(site: Client, django_assert_max_num_queries: Any) -> None:
    site.get(reverse("admin:health"))
    with django_assert_max_num_queries(10):
        site.get(reverse("admin:health"))


# The start page


def words(page: Any) -> str:
    return " ".join(finding.words for finding in page.context["findings"])


def test_start_page_has_every_page_of_the_site_once(site: Client) -> None:
    listed = [row["admin_url"] for section in site.get("/admin/").context["app_list"] for row in section["models"]]
    assert len(listed) == len(set(listed))
    assert {"/admin/health/", "/admin/auth/user/", reverse("admin:llm_credentials_key_ring")} <= set(listed)
    assert "more" not in [section["app_label"] for section in site.get("/admin/").context["app_list"]]


def test_start_page_asks_the_database_little(site: Client, django_assert_max_num_queries: Any) -> None:
    site.get("/admin/")
    with django_assert_max_num_queries(10):
        site.get("/admin/")


def test_start_page_shows_what_one_may_see_and_no_more(db: None) -> None:
    page = clerk("view_auditevent").get("/admin/")
    listed = [row["admin_url"] for section in page.context["app_list"] for row in section["models"]]
    assert listed == ["/admin/health/", "/admin/llm_credentials/auditevent/"]
    assert len(page.context["findings"]) == 1


def test_start_page_says_that_nothing_is_wrong(site: Client, settings: Any) -> None:
    SystemCredentialFactory(key=KEY, status="valid")
    health.worker_alive("celery@here")
    health.clock_alive()
    site.post(reverse("admin:llm_credentials_audit_verify"))
    assert "Nothing. All parts of the site answer" in site.get("/admin/").text


def test_start_page_tells_of_broken_keys(site: Client, alice: User, settings: Any) -> None:
    assert "no key of its own" in words(site.get("/admin/"))
    SystemCredentialFactory(key=KEY, status="invalid")
    credential = UserCredentialFactory(user=alice, status="invalid")
    Alert.objects.create(user=alice, kind="key_refused", credential=credential, at=timezone.now())
    page = site.get("/admin/")
    assert "The site's key OpenAI · default: Refused." in words(page)
    assert "1 user's key is refused." in words(page)
    assert page.context["findings"][0].meaning == "broken"
    assert KEY not in page.text
    UserCredential.objects.update(status="valid")
    assert "user's key" not in words(site.get("/admin/"))


def test_start_page_tells_of_the_allowance(site: Client, alice: User) -> None:
    services.site_allowance_set(daily_usd_per_user=None, daily_usd_total=Decimal(10), unpriced_models=False)
    assert "are used" not in words(site.get("/admin/"))
    UsageRecordFactory(user=alice, key_owner="system", cost_usd=8, state="settled")
    budgets.forget()
    assert "$8.00 of today's $10.00" in words(site.get("/admin/"))


def test_start_page_tells_of_the_chain(site: Client) -> None:
    def said() -> str:
        return words(site.get("/admin/"))

    assert "for a week" in said()
    audit.record(action=audit.Action.AUDIT_VERIFY, subject="system", result="holds")
    assert "audit trail" not in said()
    audit.record(action=audit.Action.AUDIT_VERIFY, subject="system", result="broken")
    assert "found broken" in said()


def test_start_page_tells_of_failed_runs(site: Client, alice: User) -> None:
    run = {"user": alice, "agent": "conversation", "input": "x", "state": RunState.FAILED}
    AgentRun.objects.create(**run, heartbeat_at=timezone.now())
    AgentRun.objects.create(**run, heartbeat_at=timezone.now() - timedelta(days=2))
    assert "1 run failed" in words(site.get("/admin/"))


def test_start_page_tells_of_staff_without_a_second_factor(site: Client, staff: User, settings: Any) -> None:
    assert "second factor" not in words(site.get("/admin/"))
    settings.REQUIRE_STAFF_MFA = True
    Authenticator.objects.create(user=staff, type="totp", data={})
    User.objects.create_user("clerk", password="clerk-password", is_staff=True)
    assert "1 member of staff has no second factor" in words(site.get("/admin/"))


def test_findings_are_for_those_who_may_see_their_pages(rf: Any, alice: User) -> None:
    request = rf.get("/admin/")
    request.user = alice
    assert attention.findings(request, vitals.take()) == []


def test_clock_gives_a_sign_with_every_job(db: None, valkey_url: str) -> None:
    clock.note_clock()
    try:
        with redis.Redis.from_url(valkey_url) as server:
            server.delete(health.CLOCK)
            assert part("Clock").meaning == "broken"
            clock.app.send_task("llm_credentials.changes_prune")
            assert part("Clock").meaning == "valid"
    finally:
        clock.after_task_publish.disconnect(clock._note_tick)
