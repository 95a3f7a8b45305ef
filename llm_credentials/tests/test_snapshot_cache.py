from __future__ import annotations

from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.db import OperationalError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils.functional import SimpleLazyObject

from llm_credentials.factory import client_for, explain_route
from llm_credentials.live import listener
from llm_credentials.models import LLMSettings, SystemConfig, TaskOverride, UserCredential
from llm_credentials.providers import LLMMessage, NotConfigured
from llm_credentials.routing import snapshot, snapshot_cache
from llm_credentials.tests.clocks import move_on
from llm_credentials.tests.factories import SystemCredentialFactory, UserCredentialFactory

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("live_as_in_production")]

ASK = [LLMMessage.user("What is 17 * 23?")]


@pytest.fixture
def credential(alice: User, sandbox_url: str) -> UserCredential:
    made: UserCredential = UserCredentialFactory(user=alice, provider="sandbox", key="sbx-good-0123456789")
    return made


@pytest.fixture
def sure(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last look at the database counts as recent on a busy machine, too."""
    monkeypatch.setattr(listener, "is_sure", lambda read_at: True)


@pytest.mark.usefixtures("sure")
def test_kept_snapshot_asks_no_database(alice: User, credential: UserCredential) -> None:
    first = explain_route(alice)
    with CaptureQueriesContext(connection) as queries:
        assert explain_route(alice) == first
    assert len(queries) == 0


@pytest.mark.usefixtures("sure")
def test_kept_snapshot_routes_without_leaving_the_loop(
    alice: User, credential: UserCredential, monkeypatch: pytest.MonkeyPatch
) -> None:
    explain_route(alice)
    monkeypatch.setattr(snapshot, "load", None)
    route = async_to_sync(client_for(alice).route)()
    assert route.chosen is not None and route.chosen.key.id == credential.pk


def test_kept_snapshot_is_one_users_alone(alice: User, bob: User, credential: UserCredential) -> None:
    assert explain_route(alice).chosen is not None
    assert explain_route(bob).chosen is None


@pytest.mark.usefixtures("sure")
def test_kept_snapshot_is_read_again_after_its_time(
    alice: User, credential: UserCredential, monkeypatch: pytest.MonkeyPatch
) -> None:
    explain_route(alice)
    assert snapshot_cache.find(alice) is not None
    move_on(monkeypatch, snapshot_cache, 601.0)
    assert snapshot_cache.find(alice) is None


def test_kept_snapshot_is_sure_for_less_than_a_second_and_for_longer_than_looks_take() -> None:
    assert listener.POLL_S < listener.SURE_S < 1


def test_snapshot_of_another_user_takes_three_queries(
    alice: User, bob: User, credential: UserCredential, django_assert_max_num_queries: Any
) -> None:
    explain_route(bob)
    with django_assert_max_num_queries(3):
        assert explain_route(alice).chosen is not None


def _turn_off(credential: UserCredential) -> None:
    credential.is_active = False
    credential.save()


def _delete(credential: UserCredential) -> None:
    credential.delete()


def _deactivate(credential: UserCredential) -> None:
    credential.user.is_active = False
    credential.user.save()


@pytest.mark.parametrize("change", [_turn_off, _delete, _deactivate])
def test_kept_snapshot_goes_at_once_with_a_change_here(alice: User, credential: UserCredential, change: Any) -> None:
    assert explain_route(alice).chosen is not None
    change(credential)
    with pytest.raises(NotConfigured):
        async_to_sync(client_for(alice).complete)(ASK)


def test_kept_snapshot_goes_with_settings_overrides_and_the_sites_keys(alice: User, credential: UserCredential) -> None:
    def seen() -> tuple[Any, ...]:
        loaded = snapshot_cache.load(alice)
        shot = loaded.snapshot
        return shot.preferences.temperature, len(shot.overrides), len(shot.system_keys), shot.completions.provider

    assert seen() == (None, 0, 0, "")
    LLMSettings.objects.create(user=alice, temperature=0.9)
    TaskOverride.objects.create(user=alice, task="mail")
    SystemCredentialFactory(provider="sandbox")
    SystemConfig.objects.create(category="llm", key="completions_config", value={"provider": "sandbox"})
    assert seen() == (0.9, 1, 1, "sandbox")


def test_kept_snapshot_is_not_one_read_before_a_change(
    alice: User, credential: UserCredential, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = snapshot.load

    def changed_meanwhile(*args: Any) -> Any:
        loaded = original(*args)
        _turn_off(credential)
        return loaded

    monkeypatch.setattr(snapshot, "load", changed_meanwhile)
    snapshot_cache.load(alice)
    monkeypatch.setattr(snapshot, "load", original)
    assert explain_route(alice).chosen is None


@pytest.mark.usefixtures("sure")
def test_kept_snapshots_are_bounded(alice: User, bob: User, charlie: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_cache, "USERS_MAX", 2)
    for user in (alice, bob, charlie):
        snapshot_cache.load(user)
    assert snapshot_cache.find(alice) is None
    assert snapshot_cache.find(bob) is not None and snapshot_cache.find(charlie) is not None


def test_kept_snapshot_does_not_look_into_a_user_not_loaded_yet(alice: User) -> None:
    snapshot_cache.load(alice)
    assert snapshot_cache.find(SimpleLazyObject(lambda: alice)) is None  # type: ignore[arg-type]


@pytest.mark.usefixtures("sure")
def test_snapshot_is_read_at_login_and_let_go_at_logout(client: Client, alice: User, bob: User) -> None:
    snapshot_cache.load(bob)
    client.force_login(alice)
    assert snapshot_cache.find(alice) is not None
    client.logout()
    assert snapshot_cache.find(alice) is None
    assert bob.pk in snapshot_cache._kept


def test_login_goes_on_when_nothing_can_be_read(client: Client, alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*args: Any) -> None:
        raise OperationalError

    monkeypatch.setattr(snapshot, "load", away)
    client.force_login(alice)
    assert snapshot_cache.find(alice) is None
