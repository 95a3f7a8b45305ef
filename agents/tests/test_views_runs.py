"""Pages of background runs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from agents import runs
from agents.models import AgentRun, RunState
from agents.receipts import error_json
from agents.tests.factories import AgentRunFactory
from agents.tests.reading import HTMX, page
from llm_credentials.providers import NotConfigured

# Runs


def test_run_list_shows_ones_own(browser: Client, alice: User, bob: User) -> None:
    AgentRunFactory(user=alice, input="Mine <b>")
    AgentRunFactory(user=bob, input="Theirs")
    html = page(browser, "/runs/")
    assert "Mine &lt;b&gt;" in html
    assert "Theirs" not in html


def test_run_create_queues_and_leads_to_the_run(browser: Client, alice: User, transactional_db: Any) -> None:
    response = browser.post("/runs/create/", {"agent": "conversation", "text": "Write a haiku.", "choice": ""})
    run = AgentRun.objects.get(user=alice)
    assert response["Location"] == run.get_absolute_url()
    assert "Queued" in page(browser, run.get_absolute_url())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"agent": "conversation", "text": ""}, "Write a message first."),
        ({"agent": "conversation", "text": "x" * 1_000_000}, "at most 100,000 fit"),
        ({"agent": "nobody", "text": "Hello"}, "There is no such agent."),
        ({"agent": "conversation", "text": "Hello", "choice": "nosuch:x"}, "There is no such provider."),
        ({}, "There is no such agent."),
    ],
)
def test_run_create_refuses_bad_input_in_words(browser: Client, fields: dict[str, str], words: str) -> None:
    response = browser.post("/runs/create/", fields)
    assert response.status_code == 422
    assert words in response.content.decode()
    assert not AgentRun.objects.exists()


def test_run_create_without_a_queue_answers_503_and_keeps_the_text(browser: Client, no_queue: None) -> None:
    response = browser.post("/runs/create/", {"agent": "conversation", "text": "Write a haiku."})
    assert response.status_code == 503
    html = response.content.decode()
    assert "Background runs cannot be started just now" in html
    assert "Write a haiku.</textarea>" in html
    assert not AgentRun.objects.exists()


def test_run_detail_asks_again_while_it_lasts(browser: Client, alice: User) -> None:
    run = AgentRunFactory(user=alice)
    fragment = page(browser, run.get_absolute_url(), **HTMX)
    assert "<html" not in fragment
    assert 'hx-trigger="every 5s"' in fragment
    seen = f"{run.get_absolute_url()}?seen={run.seen}"
    assert seen in fragment
    page(browser, seen, 204, **HTMX)
    assert "<html" in page(browser, seen)
    AgentRun.objects.update(state=RunState.DONE, output="**Done**", finished_at=timezone.now())
    fragment = page(browser, seen, **HTMX)
    assert "hx-trigger" not in fragment
    assert "<strong>Done</strong>" in fragment


def test_run_detail_says_when_no_worker_comes(browser: Client, alice: User) -> None:
    run = AgentRunFactory(user=alice)
    assert "No worker has taken this run yet." not in page(browser, run.get_absolute_url())
    AgentRun.objects.update(enqueued_at=timezone.now() - timedelta(seconds=5))
    html = page(browser, run.get_absolute_url())
    assert "No worker has taken this run yet." in html
    assert "Queue it again" in html


def test_run_detail_says_when_its_worker_is_silent(browser: Client, alice: User) -> None:
    run = AgentRunFactory(user=alice)
    runs.run_claim(run.pk)
    AgentRun.objects.update(heartbeat_at=timezone.now() - timedelta(minutes=1))
    assert "has gone silent" in page(browser, run.get_absolute_url())


def test_run_detail_shows_a_failure_in_words(browser: Client, alice: User) -> None:
    run = AgentRunFactory(
        user=alice, state=RunState.FAILED, error=error_json(NotConfigured()), finished_at=timezone.now()
    )
    html = page(browser, run.get_absolute_url())
    assert "No usable key." in html
    assert "Open your keys" in html
    assert "Run again" in html


def test_run_cancel_ends_it(browser: Client, alice: User) -> None:
    run = AgentRunFactory(user=alice)
    url = reverse("agents:run-cancel", args=[run.pk])
    fragment = browser.post(url, **HTMX).content.decode()
    assert "Cancelled" in fragment
    assert "<html" not in fragment
    assert browser.post(url)["Location"] == run.get_absolute_url()


def test_run_retry_queues_an_open_one_again_and_copies_a_finished_one(browser: Client, alice: User) -> None:
    run = AgentRunFactory(user=alice)
    url = reverse("agents:run-retry", args=[run.pk])
    assert browser.post(url)["Location"] == run.get_absolute_url()
    AgentRun.objects.update(state=RunState.FAILED, finished_at=timezone.now())
    assert browser.post(url)["Location"] != run.get_absolute_url()
    assert AgentRun.objects.for_user(alice).count() == 2


def test_run_retry_without_a_queue_leaves_no_copy(browser: Client, alice: User, no_queue: None) -> None:
    run = AgentRunFactory(user=alice, state=RunState.FAILED, finished_at=timezone.now())
    assert browser.post(reverse("agents:run-retry", args=[run.pk])).status_code == 503
    assert AgentRun.objects.count() == 1
