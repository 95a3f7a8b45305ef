"""The browser of the audit trail: what narrows it, and in whose words it speaks."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from llm_credentials import audit
from llm_credentials.audit import Action, acting, guard
from llm_credentials.audit.verify import last_check
from llm_credentials.models import AuditEvent

PAGE = "/admin/llm_credentials/auditevent/"


@pytest.fixture
def events(alice: User, bob: User) -> None:
    with acting(actor=str(alice.pk), channel="page"):
        audit.record(action=Action.CREDENTIAL_CREATE, subject=str(alice.pk), target="credential:openai:1")
    with acting(actor=str(bob.pk), channel="api"):
        audit.record(action=Action.TOKEN_CREATE, subject=str(bob.pk), target="token:2")
        audit.record(action=Action.ACCESS_DENIED, subject=str(alice.pk), target="run:3", result="refused")
    audit.record(action=Action.CONFIG_CHANGE, subject="system", target="config:llm:supervisor", actor="")
    audit.record(action=Action.KEY_OPEN, subject="987654", target="credential:groq:4", actor="987654")


def shown(site: Client, query: str) -> list[str]:
    page = site.get(f"{PAGE}?{query}")
    assert page.status_code == 200, page.headers
    return sorted(event.action for event in page.context["cl"].result_list if event.action != "login")


@pytest.mark.parametrize(
    ("query", "actions"),
    [
        ("kind=keys", ["credential.create", "key.open"]),
        ("kind=tokens", ["token.create"]),
        ("kind=logins", ["access.denied"]),
        ("kind=site", ["config.change"]),
        ("kind=nothing", []),
        ("action_is=token.create", ["token.create"]),
        ("result_is=other", ["access.denied"]),
        ("channel_is=api", ["access.denied", "token.create"]),
        ("q=alice", ["access.denied", "credential.create"]),
        ("q=credential%3Agroq", ["key.open"]),
        ("q=nobody-of-this-name", []),
        ("kind=tokens&q=alice", []),
    ],
)
def test_trail_is_narrowed(site: Client, events: None, query: str, actions: list[str]) -> None:
    assert shown(site, query) == actions


def test_trail_is_narrowed_by_time(site: Client, events: None) -> None:
    today = timezone.now().date()
    assert len(shown(site, f"at__gte={today}&at__lt={today + timedelta(days=1)}")) == 5
    assert shown(site, f"at__gte={today - timedelta(days=7)}&at__lt={today}") == []
    kept = site.get(f"{PAGE}?kind=keys&at__gte={today}&at__lt={today + timedelta(days=1)}").text
    assert f'value="{today}"' in kept
    assert '<input type="hidden" name="kind" value="keys">' in kept


@pytest.mark.parametrize("query", ["at__gte=yesterday&at__lt=x", "at__gte=2026-02-31", "kind=%27", "q=%27%20OR%201=1"])
def test_trail_asked_for_nonsense_answers(site: Client, events: None, query: str) -> None:
    assert site.get(f"{PAGE}?{query}", follow=True).status_code == 200


def test_trail_speaks_of_people_by_name_and_of_those_gone_by_id(site: Client, events: None) -> None:
    page = site.get(PAGE).text
    for words in ("alice", "bob", "987654", "the site", "Key added", "Access refused", "refused"):
        assert words in page


def test_trail_asks_the_database_little(site: Client, events: None, django_assert_max_num_queries: Any) -> None:
    site.get(PAGE)
    with django_assert_max_num_queries(10):
        site.get(PAGE)


def test_trail_says_when_it_was_checked(site: Client, events: None) -> None:
    assert "Not checked within a month" in site.get(PAGE).text
    site.post(reverse("admin:llm_credentials_audit_verify"))
    assert "Held when last checked" in site.get(PAGE).text
    with guard.lifted():
        AuditEvent.objects.filter(action="token.create").update(target="token:9")
    site.post(reverse("admin:llm_credentials_audit_verify"))
    assert "Broken when last checked" in site.get(PAGE).text


def test_check_by_the_command_counts_when_it_was_whole(events: None, capsys: Any) -> None:
    call_command("audit_verify", "--from", "2020-01-01")
    assert last_check() is None
    call_command("audit_verify")
    found = last_check()
    assert found is not None
    assert found.result == "holds"


def test_copy_that_nobody_may_write_to_is_checked_all_the_same(events: None, monkeypatch: Any, capsys: Any) -> None:
    def read_only(**fields: Any) -> None:
        raise audit.AuditUnavailable

    monkeypatch.setattr("llm_credentials.audit.verify.note", read_only)
    call_command("audit_verify")
    assert "The audit trail holds." in capsys.readouterr().out
