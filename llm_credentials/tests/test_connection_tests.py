"""Tests of keys, run by hand and by a real worker against the sandbox provider."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import connections
from django.utils import timezone

from llm_credentials import connection_tests, services
from llm_credentials.connection_tests import QueueUnavailable, TestBusy, TestLimited, expiring
from llm_credentials.models import ConnectionTest, UserCredential
from llm_credentials.services import Draft
from llm_credentials.tasks import enqueue_connection_test
from project.tests.servers import wait_until

GOOD = "sbx-good-0123456789"
CANARY = "sbx-good-CANARY-77aa11"

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def stored(alice: User, sandbox_url: str) -> UserCredential:
    return services.credential_save(user=alice, provider="sandbox", api_key=GOOD).credential


def run(test: ConnectionTest) -> ConnectionTest:
    connection_tests.test_run(test.pk)
    test.refresh_from_db()
    return test


def test_run_finds_a_good_key_valid(alice: User, stored: UserCredential) -> None:
    test = run(connection_tests.test_start(user=alice, provider="sandbox"))
    assert test.state == "valid"
    assert [(step["name"], step["state"]) for step in test.steps] == [
        ("address", "ok"),
        ("key", "ok"),
        ("model", "ok"),
        ("reply", "ok"),
    ]
    stored.refresh_from_db()
    assert stored.status == "valid"
    assert stored.tested_at is not None
    assert "Key accepted" in stored.status_detail


@pytest.mark.parametrize(
    ("key", "state", "failed_step", "words"),
    [
        ("sbx-bad-0123456789", "invalid", "key", "refused this key"),
        ("sbx-exhausted-0123456789", "invalid", "reply", "no credit or quota"),
        ("sbx-limited-0123456789", "error", "reply", "fewer requests"),
    ],
)
def test_run_says_what_failed(
    alice: User, sandbox_url: str, key: str, state: str, failed_step: str, words: str
) -> None:
    services.credential_save(user=alice, provider="sandbox", api_key=key)
    test = run(connection_tests.test_start(user=alice, provider="sandbox"))
    assert test.state == state
    assert [step["name"] for step in test.steps if step["state"] == "failed"] == [failed_step]
    assert words in test.detail
    assert key not in test.detail


def test_run_names_an_unknown_model(alice: User, stored: UserCredential) -> None:
    test = connection_tests.test_start(user=alice, provider="sandbox", unsaved=Draft(model="sandbox-chat~fault=404"))
    test = run(test)
    assert test.state == "invalid"
    assert [step["name"] for step in test.steps if step["state"] == "failed"] == ["model"]
    assert "Choose another" in test.detail


def test_run_gives_up_at_its_cap(alice: User, sandbox_url: str, settings: Any) -> None:
    settings.LLM_TEST_TIMEOUT_S = 0.3
    services.credential_save(user=alice, provider="sandbox", api_key=GOOD, model="sandbox-chat~fault=stall-first")
    test = run(connection_tests.test_start(user=alice, provider="sandbox"))
    assert test.state == "error"
    assert "did not answer within" in test.detail


def test_run_of_an_unsaved_key_destroys_it(alice: User, sandbox_url: str) -> None:
    test = connection_tests.test_start(user=alice, provider="sandbox", unsaved=Draft(api_key=CANARY))
    assert test.has_key
    test = run(test)
    assert test.state == "valid"
    assert not test.has_key
    assert not UserCredential.objects.exists()


def test_run_of_an_unsaved_key_leaves_the_stored_status(alice: User, stored: UserCredential) -> None:
    run(connection_tests.test_start(user=alice, provider="sandbox", unsaved=Draft(api_key="sbx-bad-0123456789")))
    stored.refresh_from_db()
    assert stored.status == "unverified"


def test_run_twice_asks_once(alice: User, stored: UserCredential) -> None:
    test = run(connection_tests.test_start(user=alice, provider="sandbox"))
    finished_at = test.finished_at
    assert run(test).finished_at == finished_at


def test_run_of_an_unknown_test_does_nothing(db: None) -> None:
    connection_tests.test_run("00000000-0000-0000-0000-000000000000")


def test_run_does_not_mark_a_key_that_was_replaced_meanwhile(alice: User, sandbox_url: str) -> None:
    httpx2.delete(f"{sandbox_url}/_sandbox/requests")
    services.credential_save(user=alice, provider="sandbox", api_key="sbx-slow-0123456789")
    test = connection_tests.test_start(user=alice, provider="sandbox")
    worker = threading.Thread(target=in_thread(lambda: connection_tests.test_run(test.pk)))
    worker.start()
    wait_until(lambda: asked_with(sandbox_url, "6789"), "the provider to be asked")
    services.credential_save(user=alice, provider="sandbox", api_key="sbx-good-fresh-0123456789")
    worker.join(timeout=30)
    credential = UserCredential.objects.get()
    assert ConnectionTest.objects.get(pk=test.pk).is_finished
    assert credential.status == "unverified"


def test_start_refuses_a_second_test_of_the_same_key(alice: User, stored: UserCredential) -> None:
    first = connection_tests.test_start(user=alice, provider="sandbox")
    with pytest.raises(TestBusy) as busy:
        connection_tests.test_start(user=alice, provider="sandbox")
    assert busy.value.test == first


def test_start_by_two_at_once_makes_one_test(alice: User, stored: UserCredential) -> None:
    barrier = threading.Barrier(4)
    outcomes: list[str] = []

    def start() -> None:
        barrier.wait()
        try:
            connection_tests.test_start(user=alice, provider="sandbox")
            outcomes.append("started")
        except TestBusy:
            outcomes.append("busy")

    threads = [threading.Thread(target=in_thread(start)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["busy", "busy", "busy", "started"]


def test_start_is_limited_per_user(alice: User, bob: User, stored: UserCredential, set_rate: Any) -> None:
    set_rate("test", "user", "2/m")
    services.credential_save(user=bob, provider="sandbox", api_key=GOOD)
    for _ in range(2):
        run(connection_tests.test_start(user=alice, provider="sandbox"))
    with pytest.raises(TestLimited) as limited:
        connection_tests.test_start(user=alice, provider="sandbox")
    assert 1 <= limited.value.retry_after_s <= 60
    assert connection_tests.test_start(user=bob, provider="sandbox")


def test_start_is_limited_per_provider(alice: User, bob: User, stored: UserCredential, set_rate: Any) -> None:
    set_rate("test", "provider", "1/m")
    services.credential_save(user=bob, provider="sandbox", api_key=GOOD)
    connection_tests.test_start(user=alice, provider="sandbox")
    with pytest.raises(TestLimited):
        connection_tests.test_start(user=bob, provider="sandbox")


def test_start_without_a_key_says_so(alice: User, sandbox_url: str) -> None:
    with pytest.raises(UserCredential.DoesNotExist):
        connection_tests.test_start(user=alice, provider="sandbox")
    with pytest.raises(ValidationError, match="key"):
        connection_tests.test_start(user=alice, provider="sandbox", unsaved=Draft(model="sandbox-chat"))


def test_start_with_another_users_key_name_finds_nothing(alice: User, bob: User, stored: UserCredential) -> None:
    with pytest.raises(UserCredential.DoesNotExist):
        connection_tests.test_start(user=bob, provider="sandbox")


def test_start_with_another_address_asks_for_the_key_again(alice: User, sandbox_url: str) -> None:
    services.credential_save(
        user=alice, provider="openai_compatible", api_key=GOOD, base_url=f"{sandbox_url}/v1", model="sandbox-chat"
    )
    with pytest.raises(ValidationError, match="Enter the key again"):
        connection_tests.test_start(
            user=alice, provider="openai_compatible", unsaved=Draft(base_url="https://example.com/v1")
        )


@pytest.mark.parametrize("provider", ["nobody", "", "../openai"])
def test_start_refuses_unknown_providers(alice: User, sandbox_url: str, provider: str) -> None:
    with pytest.raises(ValidationError):
        connection_tests.test_start(user=alice, provider=provider)


def test_abandoned_tests_lose_their_key(alice: User, sandbox_url: str) -> None:
    test = connection_tests.test_start(user=alice, provider="sandbox", unsaved=Draft(api_key=CANARY))
    ConnectionTest.objects.update(created_at=timezone.now() - timedelta(seconds=61))
    assert connection_tests.expire_abandoned() == 1
    test.refresh_from_db()
    assert test.state == "expired"
    assert not test.has_key
    assert connection_tests.test_start(user=alice, provider="sandbox", unsaved=Draft(api_key=CANARY))


def test_a_waiting_key_is_destroyed_by_the_clock_alone(
    alice: User, sandbox_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiring, "UNSAVED_KEY_TTL_S", 0)
    monkeypatch.setattr(expiring, "ABANDONED_AFTER_S", 0)
    test = connection_tests.test_start(user=alice, provider="sandbox", unsaved=Draft(api_key=CANARY))
    wait_until(lambda: not ConnectionTest.objects.get(pk=test.pk).has_key, "the test to get there")


def test_a_worker_runs_what_is_enqueued(alice: User, stored: UserCredential, celery_worker_thread: Any) -> None:
    test = connection_tests.test_start(user=alice, provider="sandbox")
    enqueue_connection_test(test)
    wait_until(lambda: ConnectionTest.objects.get(pk=test.pk).state == "valid", "the test to get there")


def test_the_message_carries_an_id_alone(alice: User, sandbox_url: str, valkey_url: str, _valkey: Any) -> None:
    test = connection_tests.test_start(user=alice, provider="sandbox", unsaved=Draft(api_key=CANARY))
    enqueue_connection_test(test)
    message = b"".join(_valkey.lrange("celery", 0, -1))
    assert str(test.pk).encode() not in CANARY.encode()
    assert CANARY.encode() not in message
    assert message


@pytest.fixture
def no_broker(valkey_url: str) -> Iterator[None]:
    """The queue's address leads nowhere."""
    from project.celery import app

    def move(url: str) -> None:
        app.conf.broker_url = app.conf.broker_write_url = app.conf.broker_read_url = url
        app._pool = app.amqp._producer_pool = None

    here = app.conf.broker_url
    move("redis://127.0.0.1:1/0")
    yield
    move(here)


def test_enqueue_without_a_broker_is_a_clear_error(alice: User, stored: UserCredential, no_broker: None) -> None:
    test = connection_tests.test_start(user=alice, provider="sandbox")
    with pytest.raises(QueueUnavailable):
        enqueue_connection_test(test)
    assert not ConnectionTest.objects.filter(pk=test.pk).exists()


def test_enqueue_to_a_broker_that_can_keep_nothing_is_a_clear_error(
    alice: User, stored: UserCredential, valkey_url: str, _valkey: Any
) -> None:
    test = connection_tests.test_start(user=alice, provider="sandbox")
    _valkey.config_set("min-replicas-to-write", 1)
    try:
        with pytest.raises(QueueUnavailable):
            enqueue_connection_test(test)
    finally:
        _valkey.config_set("min-replicas-to-write", 0)
    assert not ConnectionTest.objects.filter(pk=test.pk).exists()


def test_models_come_from_the_provider(alice: User, stored: UserCredential) -> None:
    found = connection_tests.models_available(user=alice, provider="sandbox")
    assert found.source == "provider"
    assert "sandbox-chat" in {info.id for info in found.models}


def test_models_come_from_the_catalogue_without_a_key(alice: User, sandbox_url: str) -> None:
    assert connection_tests.models_available(user=alice, provider="openai").source == "catalogue"


def test_models_come_from_the_catalogue_when_the_provider_refuses(alice: User, sandbox_url: str) -> None:
    services.credential_save(user=alice, provider="sandbox", api_key="sbx-bad-0123456789")
    found = connection_tests.models_available(user=alice, provider="sandbox")
    assert found.source == "catalogue"


def test_models_are_kept_per_version_of_one_users_key(
    alice: User, bob: User, stored: UserCredential, set_rate: Any
) -> None:
    set_rate("models", "user", "1/m")
    connection_tests.models_available(user=alice, provider="sandbox")
    assert connection_tests.models_available(user=alice, provider="sandbox").source == "provider"
    services.credential_save(user=alice, provider="sandbox", api_key="sbx-good-another-0123")
    with pytest.raises(TestLimited):
        connection_tests.models_available(user=alice, provider="sandbox")
    services.credential_save(user=bob, provider="sandbox", api_key="sbx-bad-0123456789")
    assert connection_tests.models_available(user=bob, provider="sandbox").source == "catalogue"


def asked_with(sandbox_url: str, last4: str) -> bool:
    """Whether the sandbox has been asked with a key that ends so."""
    return bool(httpx2.get(f"{sandbox_url}/_sandbox/requests", params={"key_last4": last4}).json()["count"])


def in_thread(work: Callable[[], object]) -> Callable[[], None]:
    """The work with this thread's database connections closed after it."""

    def wrapped() -> None:
        try:
            work()
        finally:
            connections.close_all()

    return wrapped
