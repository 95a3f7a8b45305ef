"""Ten seconds in which a removed key can come back, and no longer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.db import connections
from django.test import Client
from django.utils import timezone
from kombu.exceptions import OperationalError

from llm_credentials import leaving, removal, services, tasks, timers
from llm_credentials.audit.verify import verify
from llm_credentials.connection_tests import test_run as run_test
from llm_credentials.connection_tests import test_start as start_test
from llm_credentials.factory import client_for, explain_route
from llm_credentials.models import AuditEvent, ConnectionTest, LLMSettings, TaskOverride, UserCredential
from llm_credentials.providers import LLMMessage, NotConfigured
from llm_credentials.tests.factories import UserCredentialFactory
from project.tests.servers import wait_until

pytestmark = pytest.mark.django_db

KEY = "sbx-good-removal-0001"
HTMX = {"HX-Request": "true"}
LIST = "/settings/llm/"


@pytest.fixture(autouse=True)
def no_clock(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, Callable[[], object]]]:
    """The process's own clock is set to nothing: each test says who destroys."""
    set_for: list[tuple[float, Callable[[], object]]] = []
    monkeypatch.setattr(timers, "after", lambda seconds, purpose, work: set_for.append((seconds, work)))
    return set_for


@pytest.fixture
def key(alice: User, sandbox_url: str) -> UserCredential:
    made: UserCredential = UserCredentialFactory(
        user=alice, provider="sandbox", key=KEY, model="sandbox-instant", priority=7
    )
    return made


def _remove(user: User) -> UserCredential:
    return removal.remove(user=user, provider="sandbox")


def _grow_old(row: UserCredential, seconds: float = removal.UNDO_S + 1) -> None:
    removed_at = timezone.now() - timedelta(seconds=seconds)
    UserCredential.with_removed.filter(pk=row.pk).update(removed_at=removed_at)


def _sealed_rows(row: UserCredential) -> int:
    return UserCredential.with_removed.filter(pk=row.pk, api_key__isnull=False).count()


def _actions(user: User) -> list[str]:
    return list(AuditEvent.objects.for_user(user).order_by("at", "seq").values_list("action", flat=True))


# Out of use


@pytest.mark.django_db(transaction=True)
def test_removed_key_is_met_by_nobody(alice: User, key: UserCredential) -> None:
    TaskOverride.objects.create(user=alice, task="chat", credential=key)
    _remove(alice)
    assert not UserCredential.objects.for_user(alice).exists()
    assert not alice.llm_credentials.exists()
    assert not explain_route(alice, task="chat").candidates
    with pytest.raises(NotConfigured):
        async_to_sync(client_for(alice, credential=key.pk).complete)([LLMMessage.user("Hello")])
    with pytest.raises(UserCredential.DoesNotExist):
        start_test(user=alice, provider="sandbox")
    assert key.pk not in {row["id"] for row in leaving.account_export(user=alice)["credentials"]}


def test_removal_ends_a_test_that_waits(alice: User, key: UserCredential) -> None:
    test = start_test(user=alice, provider="sandbox")
    _remove(alice)
    run_test(test.pk)
    test = ConnectionTest.objects.get(pk=test.pk)
    assert (test.state, test.started_at) == ("expired", None)


def test_removal_is_of_ones_own_keys(bob: User, key: UserCredential) -> None:
    for name in ("default", "nul\0"):
        with pytest.raises(UserCredential.DoesNotExist):
            removal.remove(user=bob, provider="sandbox", name=name)
    assert UserCredential.objects.filter(pk=key.pk).exists()


# Undo


@pytest.mark.django_db(transaction=True)
def test_undo_brings_everything_back(alice: User, key: UserCredential) -> None:
    override = TaskOverride.objects.create(user=alice, task="chat", credential=key)
    services.settings_update(user=alice, default_provider="sandbox")
    _remove(alice)
    removal.undo(user=alice, credential_id=key.pk)
    row = UserCredential.objects.get(pk=key.pk)
    assert (row.reveal(), row.priority, row.removed_at, row.version) == (KEY, 7, None, key.version + 2)
    override.refresh_from_db()
    assert override.credential_id == key.pk
    assert LLMSettings.of(alice).default_provider == "sandbox"
    assert async_to_sync(client_for(alice).complete)([LLMMessage.user("Hello")]).text
    assert _actions(alice)[1:3] == ["credential.delete", "credential.restore"]


def test_undo_twice_is_the_same_as_once(alice: User, key: UserCredential) -> None:
    _remove(alice)
    first = removal.undo(user=alice, credential_id=key.pk)
    again = removal.undo(user=alice, credential_id=key.pk)
    assert first.version == again.version
    assert _actions(alice).count("credential.restore") == 1


@pytest.mark.parametrize("destroyed", [False, True])
def test_undo_after_its_time_says_so(alice: User, bob: User, key: UserCredential, destroyed: bool) -> None:
    _grow_old(_remove(alice))
    if destroyed:
        assert removal.destroy_due() == 1
    with pytest.raises(removal.TooLate, match="Add it again"):
        removal.undo(user=alice, credential_id=key.pk)
    for user, pk in ((bob, key.pk), (alice, uuid4())):
        with pytest.raises(UserCredential.DoesNotExist):
            removal.undo(user=user, credential_id=pk)


def test_new_key_may_take_the_name_and_undo_says_so(alice: User, key: UserCredential) -> None:
    _remove(alice)
    services.credential_save(user=alice, provider="sandbox", api_key="sbx-good-removal-0002")
    with pytest.raises(removal.NameTaken, match="Remove the new one first"):
        removal.undo(user=alice, credential_id=key.pk)
    assert UserCredential.objects.get().reveal() == "sbx-good-removal-0002"
    removal.remove(user=alice, provider="sandbox")
    removal.undo(user=alice, credential_id=key.pk)
    assert UserCredential.objects.get().reveal() == KEY


# Destruction


def test_nothing_is_destroyed_before_its_time(alice: User, key: UserCredential) -> None:
    _grow_old(_remove(alice), removal.UNDO_S - 3)
    assert removal.destroy_due() == 0
    assert _sealed_rows(key) == 1


@pytest.mark.parametrize("who", ["task", "page", "htmx", "api"])
def test_whoever_comes_next_destroys_what_is_due(visitor: Client, alice: User, key: UserCredential, who: str) -> None:
    TaskOverride.objects.create(user=alice, task="chat", credential=key)
    _grow_old(_remove(alice))
    match who:
        case "task":
            tasks.removal_sweep()
        case "page":
            visitor.get(LIST)
        case "htmx":
            visitor.get(f"{LIST}removed/", headers=HTMX)
        case "api":
            visitor.get("/api/user/llm-credentials")
    assert not UserCredential.with_removed.filter(pk=key.pk).exists()
    assert TaskOverride.objects.get().credential_id is None
    assert _actions(alice)[-1] == "credential.destroy"
    assert verify().holds


@pytest.mark.django_db(transaction=True)
def test_process_sets_its_own_clock(
    alice: User, key: UserCredential, no_clock: list[tuple[float, Callable[[], object]]]
) -> None:
    _remove(alice)
    ((seconds, destroy),) = no_clock
    assert seconds == removal.UNDO_S
    _grow_old(key)
    destroy()
    assert _sealed_rows(key) == 0


@pytest.mark.django_db(transaction=True)
def test_worker_destroys_though_nobody_looks(
    alice: User, key: UserCredential, celery_worker_thread: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "UNDO_S", 1)
    _remove(alice)
    wait_until(lambda: _sealed_rows(key) == 0, "the worker to destroy the key", limit_s=15)


@pytest.mark.django_db(transaction=True)
def test_removal_without_a_broker_is_a_removal(
    alice: User, key: UserCredential, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*args: Any, **options: Any) -> None:
        raise OperationalError("no broker")

    monkeypatch.setattr(removal.current_app, "send_task", away)
    _remove(alice)
    assert not UserCredential.objects.exists()


def test_api_destroys_at_once(visitor: Client, key: UserCredential) -> None:
    assert visitor.delete("/api/user/llm-credentials/sandbox").status_code == 204
    assert not UserCredential.with_removed.exists()


def test_leaving_destroys_at_once(alice: User, key: UserCredential) -> None:
    _remove(alice)
    leaving.account_delete(user=alice)
    assert not UserCredential.with_removed.exists()


# Races


def _together(*calls: Any) -> list[Any]:
    """What each came to: its result or its exception."""
    found: list[Any] = [None] * len(calls)
    barrier = threading.Barrier(len(calls))

    def run(place: int) -> None:
        try:
            barrier.wait()
            found[place] = calls[place]()
        except Exception as error:
            found[place] = error
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.django_db(transaction=True)
def test_undo_and_sweep_agree_on_who_was_first(alice: User, key: UserCredential) -> None:
    """Whatever undo says holds: back for good, or gone for good."""
    for _ in range(6):
        row = _remove(alice)
        _grow_old(row, removal.UNDO_S - 0.05)
        end = time.monotonic() + 0.15

        def sweep(end: float = end) -> None:
            while time.monotonic() < end:
                removal.destroy_due()

        undone, _swept = _together(lambda row=row: removal.undo(user=alice, credential_id=row.pk), sweep)
        back = UserCredential.objects.filter(pk=row.pk).exists()
        assert back == isinstance(undone, UserCredential), undone
        assert back or isinstance(undone, removal.TooLate)
        if not back:
            UserCredentialFactory(user=alice, provider="sandbox", key=KEY)


@pytest.mark.django_db(transaction=True)
def test_undo_and_a_new_key_of_the_same_name_leave_one(alice: User, key: UserCredential) -> None:
    _remove(alice)
    new = "sbx-good-removal-0003"
    undone, saved = _together(
        lambda: removal.undo(user=alice, credential_id=key.pk),
        lambda: services.credential_save(user=alice, provider="sandbox", api_key=new),
    )
    row = UserCredential.objects.get()
    assert isinstance(saved, services.SavedCredential)
    # Either the new key came first and stays, or the old one is back and was replaced.
    assert row.reveal() == new
    assert row.pk == key.pk if isinstance(undone, UserCredential) else isinstance(undone, removal.NameTaken)


@pytest.mark.django_db(transaction=True)
def test_two_undos_make_one_event(alice: User, key: UserCredential) -> None:
    _remove(alice)
    both = _together(*[lambda: removal.undo(user=alice, credential_id=key.pk)] * 2)
    assert all(isinstance(each, UserCredential) for each in both)
    assert _actions(alice).count("credential.restore") == 1


# The page


def test_page_offers_undo_without_scripts(visitor: Client, key: UserCredential) -> None:
    response = visitor.post(f"{LIST}sandbox/delete/", follow=True)
    text = response.content.decode()
    assert "Removed the Sandbox key ending 0001. In 10 seconds it is destroyed." in text
    assert f'action="{LIST}removed/{key.pk}/undo/"' in text
    response = visitor.post(f"{LIST}removed/{key.pk}/undo/", follow=True)
    assert "The Sandbox key ending 0001 is back." in response.content.decode()
    assert UserCredential.objects.get().reveal() == KEY


def test_htmx_gets_the_button_and_the_keyboard_goes_there(visitor: Client, key: UserCredential) -> None:
    response = visitor.post(f"{LIST}sandbox/delete/", headers=HTMX)
    text = response.content.decode()
    assert "<html" not in text
    assert response["HX-Retarget"] == "#providers"
    assert text.count("autofocus") == 1 and 'type="submit" autofocus' in text
    back = visitor.post(f"{LIST}removed/{key.pk}/undo/", headers=HTMX).content.decode()
    assert "is back" in back and 'id="card-sandbox-default"' in back and "undo/" not in back


def test_page_that_looks_again_finds_nothing_left(visitor: Client, key: UserCredential, alice: User) -> None:
    _remove(alice)
    assert "load delay:11s" in visitor.get(f"{LIST}removed/", headers=HTMX).content.decode()
    _grow_old(key)
    text = visitor.get(f"{LIST}removed/", headers=HTMX).content.decode()
    assert 'id="removed"' in text and "hx-trigger" not in text and "Undo" not in text


@pytest.mark.parametrize("headers", [{}, HTMX], ids=["page", "htmx"])
def test_late_undo_is_answered_in_words(
    visitor: Client, alice: User, key: UserCredential, headers: dict[str, str]
) -> None:
    _grow_old(_remove(alice))
    response = visitor.post(f"{LIST}removed/{key.pk}/undo/", headers=headers, follow=True)
    assert response.status_code == 200
    assert "It is too late: the key is destroyed." in response.content.decode()
    assert _sealed_rows(key) == 0
