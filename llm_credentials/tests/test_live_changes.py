"""Changes made where no signal of this process tells of them: only the tables' own triggers do."""

from __future__ import annotations

import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as site_settings
from django.contrib.auth.models import Group, User
from django.db import connection, connections, transaction
from django.utils import timezone

from llm_credentials.checks import changes_are_noted
from llm_credentials.live import changes, listener, watched
from llm_credentials.models import (
    Change,
    GroupPolicy,
    LLMSettings,
    PersonalAccessToken,
    SystemConfig,
    SystemCredential,
    TaskOverride,
    UserAllowance,
    UserCredential,
)
from llm_credentials.routing import snapshot_cache
from llm_credentials.services import settings_update
from llm_credentials.tests.factories import SystemCredentialFactory, UserCredentialFactory
from project.embedded import valkey_command
from project.tests.servers import valkey_answers, wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("live_as_in_production")]


@pytest.fixture
def credential(alice: User) -> UserCredential:
    made: UserCredential = UserCredentialFactory(user=alice, provider="sandbox", key="sbx-good-0123456789")
    return made


def elsewhere(change: Callable[[], Any]) -> None:
    """In another thread, with another connection, and without this process being told."""

    def work() -> None:
        try:
            change()
        finally:
            connections.close_all()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(20)


def dropped(user: User) -> bool:
    return wait_until(lambda: user.pk not in snapshot_cache._kept, "the snapshot to be let go")


CHANGES: dict[str, Callable[[User], Any]] = {
    "key turned off": lambda user: UserCredential.objects.update(is_active=False),
    "key replaced by hand": lambda user: UserCredential.objects.update(api_key=None),
    "key deleted": lambda user: UserCredential.objects.all()._raw_delete("default"),
    "key added": lambda user: UserCredential.objects.bulk_create([UserCredential(user=user, provider="x", name="y")]),
    "settings": lambda user: LLMSettings.objects.update(strategy="cheapest"),
    "override": lambda user: TaskOverride.objects.update(model="another"),
    "account": lambda user: User.objects.filter(pk=user.pk).update(is_active=False),
    "token": lambda user: PersonalAccessToken.objects.update(name="another"),
    "site key": lambda user: SystemCredential.objects.update(is_active=False),
    "policy": lambda user: GroupPolicy.objects.bulk_create([GroupPolicy(own_keys=False)]),
    "group": lambda user: Group.objects.create(name="Interns").user_set.add(user),
    "allowance": lambda user: UserAllowance.objects.bulk_create([UserAllowance(user=user, daily_usd=1)]),
    "site config": lambda user: SystemConfig.objects.update(value={"provider": "sandbox"}),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_change_by_update_lets_go_of_what_was_read(
    alice: User, bob: User, credential: UserCredential, change: Callable[[User], Any]
) -> None:
    LLMSettings.objects.create(user=alice)
    TaskOverride.objects.create(user=alice, task="mail")
    PersonalAccessToken.objects.create(user=alice, hash="0" * 64, prefix="0" * 8)
    SystemCredentialFactory(provider="sandbox")
    SystemConfig.objects.create(category="llm", key="completions_config", value={})
    snapshot_cache.load(alice)
    assert snapshot_cache.find(alice) is not None
    elsewhere(lambda: change(alice))
    assert dropped(alice)


def test_counters_of_a_key_are_no_change(alice: User, credential: UserCredential) -> None:
    before = Change.objects.count()
    UserCredential.objects.update(request_count=7, last_used_at=alice.date_joined)
    User.objects.update(last_login=alice.date_joined)
    assert Change.objects.count() == before
    UserCredential.objects.update(request_count=8, priority=3)
    assert Change.objects.count() == before + 1


def test_change_of_one_user_leaves_the_others_alone(alice: User, bob: User, credential: UserCredential) -> None:
    snapshot_cache.load(alice)
    snapshot_cache.load(bob)
    elsewhere(lambda: UserCredential.objects.update(is_active=False))
    assert dropped(alice)
    assert bob.pk in snapshot_cache._kept


def test_change_that_is_rolled_back_is_never_seen(alice: User, credential: UserCredential) -> None:
    class Oops(Exception):
        pass

    snapshot_cache.load(alice)
    count = Change.objects.count()
    with pytest.raises(Oops), transaction.atomic():
        settings_update(user=alice, temperature=0.9)
        assert snapshot_cache.load(alice).snapshot.preferences.temperature == 0.9, "its own transaction sees it"
        raise Oops
    assert Change.objects.count() == count
    assert snapshot_cache.load(alice).snapshot.preferences.temperature is None


def test_change_is_not_kept_as_it_was_before_its_commit(alice: User, credential: UserCredential) -> None:
    """Read by another thread after the change was made and before it was committed."""
    snapshot_cache.load(alice)
    with transaction.atomic():
        settings_update(user=alice, temperature=0.9)
        if connection.vendor == "postgresql":
            elsewhere(lambda: snapshot_cache.load(alice))
    assert snapshot_cache.load(alice).snapshot.preferences.temperature == 0.9


def test_change_that_is_committed_late_is_found(alice: User, bob: User, credential: UserCredential) -> None:
    """The number of its row is smaller than that of one that was seen long before."""
    if connection.vendor != "postgresql":
        pytest.skip("only where writers do not wait for each other")
    changed, commit = threading.Event(), threading.Event()

    def late() -> None:
        with transaction.atomic():
            UserCredential.objects.update(is_active=False)
            changed.set()
            commit.wait(20)

    thread = threading.Thread(target=lambda: elsewhere(late))
    thread.start()
    changed.wait(20)
    snapshot_cache.load(alice)
    snapshot_cache.load(bob)
    elsewhere(lambda: LLMSettings.objects.bulk_create([LLMSettings(user=bob)]))
    dropped(bob)
    assert snapshot_cache.find(alice) is not None
    commit.set()
    thread.join(20)
    assert dropped(alice)
    assert explain_off(alice)


def explain_off(user: User) -> bool:
    return not any(key.is_active for key in snapshot_cache.load(user).snapshot.keys)


def test_nothing_is_sure_while_nobody_looks(
    alice: User, credential: UserCredential, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database answers others, but the thread that looks is stuck."""
    snapshot_cache.load(alice)
    stuck = threading.Event()
    monkeypatch.setattr(listener._Log, "read", lambda self: stuck.wait(20) and None)
    wait_until(lambda: snapshot_cache.find(alice) is None, "the promise to run out")
    UserCredential.objects.update(is_active=False)
    assert explain_off(alice)
    stuck.set()


def test_nothing_is_sure_without_triggers(alice: User, credential: UserCredential) -> None:
    watched.remove()
    try:
        snapshot_cache.load(alice)
        wait_until(lambda: snapshot_cache.find(alice) is None, "the promise to run out")
        UserCredential.objects.update(is_active=False)
        assert explain_off(alice)
    finally:
        watched.install()


def test_migrate_puts_the_triggers_up_again(alice: User, credential: UserCredential) -> None:
    from django.core.management import call_command

    assert changes_are_noted(None, databases=["default"]) == []
    watched.remove()
    assert not watched.is_installed()
    assert [found.id for found in changes_are_noted(None, databases=["default"])] == ["llm_credentials.W010"]
    call_command("migrate", verbosity=0)
    assert watched.is_installed()


def test_noted_changes_are_removed_when_nobody_needs_them(alice: User) -> None:
    Change.objects.update(at=timezone.now() - timedelta(hours=1))
    kept_row = Change.objects.create(subject="1")
    changes.prune()
    assert list(Change.objects.all()) == [kept_row]
    assert changes.KEPT_FOR.total_seconds() > listener.GAP_MAX_S


# Valkey


@pytest.fixture
def valkey_of_ours(settings: Any) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts the Valkey at the address that the site knows, again and again."""
    with tempfile.TemporaryDirectory(prefix="ks-") as directory:
        path = Path(directory) / "v.sock"
        settings.REDIS_URL = f"unix://{path}"
        running: list[subprocess.Popen[bytes]] = []

        def start() -> subprocess.Popen[bytes]:
            command = valkey_command(Path(directory), socket=path, durable=False)
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            running.append(process)
            wait_until(lambda: valkey_answers(path), "Valkey's first answer")
            return process

        yield start
        listener.close()
        for process in running:
            process.kill()
            process.wait(10)


def listening(settings: Any) -> int:
    from llm_credentials import valkey

    return int(valkey.client(settings.REDIS_URL).pubsub_numsub(changes.CHANNEL)[0][1])


def test_change_is_heard_before_the_database_is_looked_at(
    alice: User, credential: UserCredential, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot_cache.load(alice)
    wait_until(lambda: listening(site_settings), "the listener to subscribe")
    monkeypatch.setattr(listener._Log, "read", lambda self: [])
    from llm_credentials import valkey

    valkey.client(site_settings.REDIS_URL).publish(changes.CHANNEL, str(alice.pk))
    assert dropped(alice)


def test_change_is_seen_while_valkey_is_killed_and_heard_again_after(
    alice: User,
    credential: UserCredential,
    valkey_of_ours: Callable[[], subprocess.Popen[bytes]],
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process = valkey_of_ours()
    snapshot_cache.load(alice)
    wait_until(lambda: listening(settings), "the listener to subscribe")
    process.kill()
    process.wait(10)
    elsewhere(lambda: settings_update(user=alice, temperature=0.9))
    assert snapshot_cache.load(alice).snapshot.preferences.temperature == 0.9
    elsewhere(lambda: LLMSettings.objects.update(temperature=0.5))
    assert dropped(alice)
    assert snapshot_cache.load(alice).snapshot.preferences.temperature == 0.5
    valkey_of_ours()
    wait_until(lambda: listening(settings), "the listener to come back")


def test_message_that_is_no_user_lets_go_of_everything() -> None:
    assert changes.subject_of("12") == 12
    assert changes.subject_of("") is None
    assert changes.subject_of("' OR 1=1") is None


def test_listener_rests_when_nobody_remembers_anything(
    alice: User, credential: UserCredential, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener.close()
    monkeypatch.setattr(listener, "LINGER_S", 1.0)
    snapshot_cache.load(alice)
    running = listener._listener
    assert running is not None
    changes.apply([None])
    wait_until(lambda: not running.ready.is_set(), "the listener to rest")
    elsewhere(lambda: UserCredential.objects.update(is_active=False))
    assert explain_off(alice)
    wait_until(lambda: explain_off(alice) and snapshot_cache.find(alice) is not None, "it to be remembered again")
