from __future__ import annotations

from io import StringIO
from typing import Any
from uuid import uuid4

import pytest
from django.conf import settings as site_settings
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command

from llm_credentials import tasks
from llm_credentials.ledger import books
from llm_credentials.ledger.budgets import Limits
from llm_credentials.ledger.prices import UNKNOWN
from llm_credentials.models import GroupPolicy, UsageRecord, UserCredential
from llm_credentials.routing import kinds
from llm_credentials.routing.kinds import TaskKind
from llm_credentials.tests.factories import UserCredentialFactory

pytestmark = pytest.mark.django_db


def _run(*args: str, **options: Any) -> str:
    out = StringIO()
    call_command(*args, stdout=out, **options)
    return out.getvalue()


@pytest.fixture
def chain(alice: User, sandbox_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "_kinds", {})
    kinds.register(TaskKind("look", "Look", "normal", {"vision"}))
    UserCredentialFactory(user=alice, provider="sandbox", key="sbx-good-0123456789")
    UserCredentialFactory(user=alice, provider="openai", is_active=False)


def test_explain_route_command_shows_every_kind_of_task(alice: User, chain: None) -> None:
    assert _run("explain_route", "alice").splitlines() == [
        "any call:",
        "  1. Sandbox with sandbox-chat: the next key in order",
        "  -  OpenAI: Turned off.",
        "look:",
        "  no key can be used",
        "  -  Sandbox: sandbox-chat cannot do this: vision.",
        "  -  OpenAI: Turned off.",
    ]


def test_explain_route_command_takes_one_task_provider_model_and_need(alice: User, chain: None) -> None:
    text = _run("explain_route", "alice", "--task", "look", "--model", "sandbox-vision", "--need", "tools")
    assert "1. Sandbox with sandbox-vision: named by the call" in text
    assert "no provider called 'nowhere'" in _run("explain_route", "alice", "--provider", "nowhere")


def test_explain_route_command_shows_the_policy(alice: User, chain: None) -> None:
    GroupPolicy.objects.create(allowed_providers=["openai"], system_daily_usd=2, rates={"chat": "5/m"})
    GroupPolicy.objects.create(allowed_models=["openai/gpt-5*"], system_keys=False)
    lines = _run("explain_route", "alice", "--task", "look").splitlines()
    assert lines[:6] == [
        "policy of the organisation:",
        "  providers: openai",
        "  models: openai/gpt-5*",
        "  no keys of the site",
        "  a day on the site's keys: $2.00",
        "  chat: 5/m",
    ]
    assert "  -  Sandbox: Sandbox is not allowed by your organisation's policy. Use another provider." in lines


def test_explain_route_command_shows_no_key(alice: User, chain: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(row: UserCredential) -> str:
        raise AssertionError("a key was opened")

    monkeypatch.setattr(UserCredential, "reveal", opened)
    assert "6789" not in _run("explain_route", "alice")


@pytest.mark.parametrize(
    ("args", "words"), [(["mallory"], "no user called 'mallory'"), (["alice", "--task", "fly"], "no task called 'fly'")]
)
def test_explain_route_command_refuses_what_does_not_exist(
    alice: User, chain: None, args: list[str], words: str
) -> None:
    with pytest.raises(CommandError, match=words):
        _run("explain_route", *args)


def _leave_open(alice: User) -> None:
    entry = books.Entry(
        call_id=uuid4(), user_id=alice.pk, task="", provider="x", model="y", credential_id=None, key_owner="user"
    )
    books.reserve(entry, Limits(), UNKNOWN, 10)


def test_ledger_sweep_command_closes_what_is_old_enough(alice: User) -> None:
    _leave_open(alice)
    assert _run("ledger_sweep") == "0 open attempts closed as estimated.\n"
    assert _run("ledger_sweep", "--older-than", "0") == "1 open attempt closed as estimated.\n"
    assert UsageRecord.objects.get().state == "estimated"


@pytest.mark.parametrize("seconds", ["-1", "nan", "inf"])
def test_ledger_sweep_command_refuses_an_age_that_is_none(seconds: str) -> None:
    with pytest.raises(CommandError):
        _run("ledger_sweep", f"--older-than={seconds}")


def test_ledger_sweep_is_on_the_schedule(alice: User) -> None:
    entry = site_settings.CELERY_BEAT_SCHEDULE["ledger-sweep"]
    assert entry["task"] == tasks.ledger_sweep.name
    assert entry["schedule"] + books.LOST_AFTER_S < 300
    _leave_open(alice)
    tasks.ledger_sweep()
    assert UsageRecord.objects.get().state == "reserved"


def test_explain_route_command_tells_what_if_a_key_failed(alice: User, chain: None) -> None:
    UserCredentialFactory(user=alice, provider="mistral", name="work")
    lines = _run("explain_route", "alice", "--without", "sandbox").splitlines()
    assert lines[1].startswith("  1. Mistral · work with mistral-medium-latest")
    assert "  -  Sandbox: Supposed to have failed." in lines
    assert "no key can be used" in _run("explain_route", "alice", without=["sandbox", "mistral:work"])
    for unknown in ("groq", "mistral:default", "system", "user:", ""):
        with pytest.raises(CommandError, match="names no key here"):
            _run("explain_route", "alice", "--without", unknown)
