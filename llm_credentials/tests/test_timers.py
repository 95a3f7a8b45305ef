"""What a process does later by itself."""

from __future__ import annotations

from threading import Event

import pytest
import structlog
from django.contrib.auth.models import User

from llm_credentials import timers
from llm_credentials.models import UserCredential
from project.tests.servers import wait_until


@pytest.mark.django_db(transaction=True)
def test_work_is_done_with_everybodys_rows_open(alice: User) -> None:
    done: list[int] = []
    timers.after(0, "counting keys", lambda: done.append(UserCredential.objects.count()))
    wait_until(lambda: done == [0] and not timers._set, "the thread to count and to be forgotten")


def test_what_work_raises_goes_to_the_log() -> None:
    with structlog.testing.capture_logs() as logs:
        timers.after(0, "dividing", lambda: 1 / 0)
        wait_until(lambda: not timers._set, "the thread to end")
    assert [(line["event"], line["purpose"], line["error"]) for line in logs] == [
        ("timer_failed", "dividing", "ZeroDivisionError")
    ]


def test_what_was_forgotten_is_not_done_and_what_has_begun_is_waited_for() -> None:
    begun, goes_on, ended, never = Event(), Event(), Event(), Event()

    def work() -> None:
        begun.set()
        goes_on.wait(20)
        ended.set()

    timers.after(3600, "nothing", never.set)
    timers.after(0, "waiting", work)
    assert begun.wait(20)
    goes_on.set()
    timers.forget()
    assert (ended.is_set(), never.is_set(), timers._set) == (True, False, set())
