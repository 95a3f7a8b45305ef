"""Whose connection test is next."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from llm_credentials import connection_tests, tasks
from llm_credentials.connection_tests import turns
from llm_credentials.models import ConnectionTest

pytestmark = pytest.mark.django_db(transaction=True)


def waiting(user: User, count: int) -> list[ConnectionTest]:
    """Without a key: they end before anybody is asked."""
    return [ConnectionTest.objects.create(user=user, provider="openai", name=f"{number}") for number in range(count)]


def owners_in_order() -> list[str]:
    tests = ConnectionTest.objects.filter(started_at__isnull=False).select_related("user").order_by("started_at")
    return [test.user.username for test in tests]


def test_one_users_many_tests_delay_anothers_by_one_turn(alice: User, bob: User, charlie: User) -> None:
    many = waiting(alice, 6)
    for user in (bob, charlie):
        waiting(user, 1)
    for test in many[:4]:
        tasks.connection_test(str(test.pk))
    assert owners_in_order() == ["alice", "bob", "charlie", "alice"]


def test_a_users_own_tests_keep_their_order(alice: User, bob: User) -> None:
    first, second = waiting(alice, 2)
    (other,) = waiting(bob, 1)
    seen = []
    for _turn in range(3):
        seen.append(connection_tests.next_test())
        connection_tests.run_next()
    assert seen == [first.pk, other.pk, second.pk]


def test_a_turn_that_is_under_way_counts(alice: User, bob: User) -> None:
    waiting(alice, 2)
    ConnectionTest.objects.filter(user=alice, name="0").update(state="running", started_at=timezone.now())
    (other,) = waiting(bob, 1)
    assert connection_tests.next_test() == other.pk


def test_a_second_ticket_for_the_last_test_does_nothing(alice: User) -> None:
    (test,) = waiting(alice, 1)
    tasks.connection_test(str(test.pk))
    tasks.connection_test(str(test.pk))
    assert connection_tests.next_test() is None
    assert len(owners_in_order()) == 1


def test_a_test_that_waited_too_long_is_closed_and_the_next_runs(alice: User, bob: User) -> None:
    (old,) = waiting(alice, 1)
    ConnectionTest.objects.update(created_at=timezone.now() - timedelta(seconds=61))
    waiting(bob, 1)
    connection_tests.run_next()
    old.refresh_from_db()
    assert old.state == "expired"
    assert owners_in_order() == ["bob"]


def test_a_ticket_whose_test_another_worker_takes_is_good_for_the_next(
    alice: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting(alice, 1)
    waiting(bob, 1)
    whose = turns._longest_without

    def taken_meanwhile(found: dict[Any, datetime]) -> Any:
        user_id = whose(found)
        ConnectionTest.objects.filter(user_id=user_id).update(state="running", started_at=timezone.now())
        return user_id

    monkeypatch.setattr(turns, "_longest_without", taken_meanwhile)
    tasks.connection_test("a ticket")
    assert ConnectionTest.objects.get(user=alice).state == "running"
    assert ConnectionTest.objects.get(user=bob).state in ("valid", "invalid", "error")
