"""Writers that meet at the same rows wait for one another, and never each for the other."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import close_old_connections, connection, connections

from llm_credentials import connection_tests, preferences, services
from llm_credentials.audit import chain
from llm_credentials.connection_tests import starting
from llm_credentials.models import ConnectionTest, TaskOverride, UserCredential
from project.tests.servers import wait_until

KEY = "sbx-good-locks-0123456789"

pytestmark = pytest.mark.django_db(transaction=True)


def _somebody_waits() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return bool(cursor.fetchone()[0])


def _save(user: User) -> None:
    services.credential_save(user=user, provider="sandbox", api_key=f"{KEY}-new")


def _delete(user: User) -> None:
    services.credential_delete(user=user, provider="sandbox")


@pytest.mark.skipif("connection.vendor == 'sqlite'", reason="it has one writer at a time")
@pytest.mark.parametrize("change", [_save, _delete])
def test_test_of_a_key_that_is_just_changed_waits_for_it(
    alice: User, sandbox_url: str, monkeypatch: pytest.MonkeyPatch, change: Callable[[User], None]
) -> None:
    """Each writes an event; the changer holds the key before that, the test refers to it."""
    services.credential_save(user=alice, provider="sandbox", api_key=KEY)
    monkeypatch.setattr(chain, "_shard", lambda: 0)
    begun: list[Any] = []
    note = services._note

    def start_test() -> ConnectionTest | None:
        try:
            return connection_tests.test_start(user=alice, provider="sandbox")
        except UserCredential.DoesNotExist:
            return None
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:

        def note_when_both_are_there(*args: Any) -> None:
            if not begun:
                begun.append(pool.submit(start_test))
                wait_until(lambda: begun[0].done() or _somebody_waits(), "the test at the key")
            note(*args)

        monkeypatch.setattr(services, "_note", note_when_both_are_there)
        change(alice)
        started = begun[0].result(timeout=20)
    close_old_connections()
    assert (started is not None) == (change is _save)
    assert ConnectionTest.objects.filter(user=alice).count() == (change is _save)


def test_override_with_a_key_that_was_just_removed_is_refused_in_words(
    alice: User, sandbox_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = services.credential_save(user=alice, provider="sandbox", api_key=KEY)
    check = preferences._override

    def check_and_be_overtaken(*args: Any) -> dict[str, Any]:
        found = check(*args)
        _delete(alice)
        return found

    monkeypatch.setattr(preferences, "_override", check_and_be_overtaken)
    with pytest.raises(ValidationError, match="no such key"):
        preferences.task_override_set(user=alice, task="code", credential=key.credential.pk)
    assert not TaskOverride.objects.filter(user=alice).exists()


def test_test_of_a_key_that_was_just_removed_is_not_found(
    alice: User, sandbox_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    services.credential_save(user=alice, provider="sandbox", api_key=KEY)
    check = starting.check_own_key

    def check_and_be_overtaken(*args: Any, **kwargs: Any) -> None:
        check(*args, **kwargs)
        _delete(alice)

    monkeypatch.setattr(starting, "check_own_key", check_and_be_overtaken)
    with pytest.raises(UserCredential.DoesNotExist):
        connection_tests.test_start(user=alice, provider="sandbox")
    assert not ConnectionTest.objects.filter(user=alice).exists()
