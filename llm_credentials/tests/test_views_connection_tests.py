"""Testing a key on the page: started by hand, watched to its end."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from llm_credentials import connection_tests
from llm_credentials.models import ConnectionTest, UserCredential
from llm_credentials.tests.factories import ConnectionTestFactory, UserCredentialFactory
from project.tests.servers import wait_until

TEST = "/settings/llm/openai/test/"
SANDBOX_TEST = "/settings/llm/sandbox/test/"
HTMX = {"HX-Request": "true"}
KEY = "sk-CANARY-5f1e-0123456789abcd4f2a"
GOOD = "sbx-good-CANARY-0123456789"

pytestmark = pytest.mark.django_db(transaction=True)


def html(response: Any) -> str:
    return str(response.content.decode())


def watch(test: ConnectionTest) -> str:
    return f"/settings/llm/tests/{test.pk}/"


# Start


def test_credential_test_of_a_stored_key_queues_it(visitor: Client, alice: User) -> None:
    credential = UserCredentialFactory(user=alice, key=KEY)
    response = visitor.post(TEST, {"name": "default", "api_key": "", "model": "", "base_url": ""})
    assert (response.status_code, response["Location"]) == (302, "/settings/llm/openai/")
    test = ConnectionTest.objects.get()
    assert (test.credential_id, test.has_key) == (credential.pk, False)


def test_credential_test_of_a_typed_key_seals_it_in_the_test(visitor: Client) -> None:
    response = visitor.post(TEST, {"name": "default", "api_key": KEY, "model": "gpt-mine"}, headers=HTMX)
    test = ConnectionTest.objects.get()
    assert test.reveal() == KEY
    assert test.model == "gpt-mine"
    assert not UserCredential.objects.exists()
    assert "CANARY" not in html(response)


def test_credential_test_gives_htmx_the_steps_alone(visitor: Client) -> None:
    text = html(visitor.post(TEST, {"api_key": KEY}, headers=HTMX))
    assert "<html" not in text
    assert 'hx-trigger="every 1s"' in text
    assert [label for label in ("Address", "Key", "Model", "Reply") if f"<span>{label}<" not in text] == []


@pytest.mark.parametrize("headers", [{}, HTMX], ids=["page", "htmx"])
@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ({"api_key": ""}, "Enter your OpenAI key."),
        ({"api_key": "sk-CANARY with spaces"}, "A key has no spaces"),
        ({"api_key": KEY, "base_url": "http://127.0.0.1:1/"}, 'class="error"'),
        ({"api_key": KEY, "model": "..%2f"}, "A model id has"),
    ],
)
def test_credential_test_refuses_bad_input(
    visitor: Client, typed: dict[str, str], words: str, headers: dict[str, str]
) -> None:
    response = visitor.post(TEST, typed, headers=headers)
    assert response.status_code == 422
    assert words in html(response)
    assert "CANARY" not in html(response)
    assert not ConnectionTest.objects.exists()


def test_credential_test_with_a_new_address_asks_for_the_key_again(visitor: Client, alice: User) -> None:
    UserCredentialFactory(user=alice, key=KEY)
    response = visitor.post(TEST, {"base_url": "https://llm.example.com/v1"}, headers=HTMX)
    assert response.status_code == 422
    assert "Enter the key again" in html(response)


def test_credential_test_while_one_is_under_way_shows_that_one(visitor: Client, alice: User) -> None:
    UserCredentialFactory(user=alice)
    visitor.post(TEST, {})
    running = ConnectionTest.objects.get()
    assert watch(running) in html(visitor.post(TEST, {}, headers=HTMX))
    assert ConnectionTest.objects.count() == 1


@pytest.mark.parametrize("headers", [{}, HTMX], ids=["page", "htmx"])
def test_credential_test_past_the_limit_says_when_again(
    visitor: Client, alice: User, set_rate: Any, headers: dict[str, str]
) -> None:
    set_rate("test", "user", "0/m")
    UserCredentialFactory(user=alice)
    response = visitor.post(TEST, {}, headers=headers)
    assert response.status_code == 429
    assert 1 <= int(response["Retry-After"]) <= 60
    assert f"in {response['Retry-After']} second" in html(response)
    assert ("<html" in html(response)) == (not headers)


@pytest.mark.parametrize("headers", [{}, HTMX], ids=["page", "htmx"])
def test_credential_test_without_a_queue_says_so(
    visitor: Client, alice: User, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    from llm_credentials.views import connection_tests as views

    def away(test: ConnectionTest) -> None:
        raise connection_tests.QueueUnavailable

    monkeypatch.setattr(views, "enqueue_connection_test", away)
    UserCredentialFactory(user=alice)
    response = visitor.post(TEST, {}, headers=headers)
    assert response.status_code == 503
    assert "Background jobs cannot be started just now." in html(response)
    assert ("<html" in html(response)) == (not headers)


def test_credential_test_asks_for_login(client: Client) -> None:
    assert client.post(TEST, {"api_key": KEY})["Location"].startswith("/accounts/login/")
    assert not ConnectionTest.objects.exists()


def test_credential_test_by_a_stranger_never_uses_the_owners_key(client: Client, alice: User, charlie: User) -> None:
    UserCredentialFactory(user=alice, key=KEY)
    client.force_login(charlie)
    assert client.post(TEST, {}, headers=HTMX).status_code == 422
    assert not ConnectionTest.objects.exists()


# Watch


def test_watching_tells_new_things_once(visitor: Client, alice: User) -> None:
    test = ConnectionTestFactory(user=alice, key=None)
    first = html(visitor.get(watch(test), {"seen": "queued-0-1"}, headers=HTMX))
    assert "Waiting for its turn" in first
    assert "?seen=queued-0-0" in first
    assert visitor.get(watch(test), {"seen": "queued-0-0"}, headers=HTMX).status_code == 204


def test_watching_ticks_the_steps(visitor: Client, alice: User) -> None:
    steps = [{"name": "address", "state": "ok", "text": ""}, {"name": "key", "state": "ok", "text": ""}]
    test = ConnectionTestFactory(user=alice, key=None, state="running", steps=steps)
    text = html(visitor.get(watch(test), headers=HTMX))
    assert text.count('<li class="is-ok">') == 2
    assert text.count('<li class="is-running">') == 1
    assert text.count('<li class="is-waiting">') == 1


def test_watching_says_within_five_seconds_that_no_worker_came(visitor: Client, alice: User) -> None:
    test = ConnectionTestFactory(user=alice, key=None)
    ConnectionTest.objects.update(created_at=timezone.now() - timedelta(seconds=4))
    text = html(visitor.get(watch(test), {"seen": "queued-0-0"}, headers=HTMX))
    assert "No worker has picked this up yet." in text
    assert 'hx-trigger="every 1s"' in text


def test_watching_ends_a_test_that_nobody_finished(visitor: Client, alice: User) -> None:
    test = ConnectionTestFactory(user=alice, key=KEY)
    ConnectionTest.objects.update(created_at=timezone.now() - timedelta(minutes=2))
    text = html(visitor.get(watch(test), headers=HTMX))
    assert "No worker finished this test." in text
    assert "hx-trigger" not in text
    test.refresh_from_db()
    assert not test.has_key


def test_watching_a_refused_key_says_what_to_do(visitor: Client, alice: User) -> None:
    credential = UserCredentialFactory(user=alice, status="invalid", tested_at=timezone.now())
    steps = [
        {"name": "address", "state": "ok", "text": ""},
        {"name": "key", "state": "failed", "text": "refused"},
        {"name": "model", "state": "skipped", "text": ""},
        {"name": "reply", "state": "skipped", "text": ""},
    ]
    test = ConnectionTestFactory(
        user=alice,
        key=None,
        credential=credential,
        state="invalid",
        steps=steps,
        detail="OpenAI refused this key (401).",
        finished_at=credential.tested_at,
    )
    text = html(visitor.get(watch(test), headers=HTMX))
    assert "OpenAI refused this key (401)." in text
    assert f'href="{credential.spec.key_url}"' in text
    assert 'id="status-openai-default" hx-swap-oob="true"' in text
    assert "hx-trigger" not in text


def test_watching_keeps_what_was_typed_inert(visitor: Client, alice: User) -> None:
    test = ConnectionTestFactory(
        user=alice, key=None, state="error", detail="<script>alert(1)</script>", finished_at=timezone.now()
    )
    text = html(visitor.get(watch(test), headers=HTMX))
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_watching_without_htmx_is_the_page_of_the_key(visitor: Client, alice: User) -> None:
    test = ConnectionTestFactory(user=alice, key=None)
    assert visitor.get(watch(test))["Location"] == "/settings/llm/openai/"


def test_watching_survives_a_reload_of_the_page(visitor: Client, alice: User) -> None:
    UserCredentialFactory(user=alice)
    test = ConnectionTestFactory(user=alice, key=None, state="running")
    text = html(visitor.get("/settings/llm/"))
    assert watch(test) in text
    assert '<noscript><meta http-equiv="refresh"' in text


def test_watching_without_scripts_never_reloads_what_somebody_types(visitor: Client, alice: User) -> None:
    ConnectionTestFactory(user=alice, key=None, state="running")
    assert 'http-equiv="refresh"' in html(visitor.get("/settings/llm/openai/"))
    assert 'http-equiv="refresh"' not in html(visitor.get("/settings/llm/anthropic/"))


def test_watching_asks_for_login(client: Client, alice: User) -> None:
    test = ConnectionTestFactory(user=alice, key=None)
    assert client.get(watch(test))["Location"].startswith("/accounts/login/")


@pytest.mark.parametrize("headers", [{}, HTMX], ids=["page", "htmx"])
def test_watching_a_strangers_test_is_not_there(
    client: Client, alice: User, charlie: User, headers: dict[str, str]
) -> None:
    test = ConnectionTestFactory(user=alice, key=None)
    client.force_login(charlie)
    assert client.get(watch(test), headers=headers).status_code == 404
    test.refresh_from_db()
    assert test.state == "queued"


def test_watching_an_unknown_test_is_not_there(visitor: Client) -> None:
    assert visitor.get(f"/settings/llm/tests/{uuid4()}/").status_code == 404


# The whole way


def test_a_refused_key_ticks_the_address_and_fails_at_the_key(
    visitor: Client, sandbox_url: str, celery_worker_thread: Any
) -> None:
    visitor.post(SANDBOX_TEST, {"api_key": "sbx-bad-0123456789"}, headers=HTMX)
    test = ConnectionTest.objects.get()

    def finished() -> bool:
        test.refresh_from_db()
        return test.is_finished

    wait_until(finished, "the end of the test")
    text = html(visitor.get(watch(test), headers=HTMX))
    looks = re.findall(r'<li class="is-(\w+)">', text)
    assert looks == ["ok", "failed", "skipped", "skipped"]


def test_a_typed_key_is_tested_by_the_worker_and_forgotten(
    visitor: Client, sandbox_url: str, celery_worker_thread: Any
) -> None:
    visitor.post(SANDBOX_TEST, {"api_key": GOOD}, headers=HTMX)
    test = ConnectionTest.objects.get()

    def told() -> str:
        return html(visitor.get(watch(test), headers=HTMX))

    text = wait_until(lambda: "hx-trigger" not in (shown := told()) and shown, "the end of the test")
    assert "Key accepted." in text
    assert "It is not saved yet." in text
    test.refresh_from_db()
    assert not test.has_key
