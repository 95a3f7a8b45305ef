"""Schedules connection tests fairly: users take turns, however many tests each has waiting.

A queue message is a ticket: it says that a test waits, not which. The worker that takes it runs the oldest test of the
user whose last turn is longest ago, so one user's nine hundred tests delay another user's by one turn instead of the
whole queue. A redelivered ticket finds one test fewer; a test left by a lost ticket is closed when it is too old.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Max, Min
from django.utils import timezone

from llm_credentials.connection_tests.expiring import ABANDONED_AFTER_S
from llm_credentials.connection_tests.running import test_run
from llm_credentials.models import ConnectionTest
from llm_credentials.wall import open_for

REMEMBERED = timedelta(seconds=2 * ABANDONED_AFTER_S)
"""No older test is still waiting or in progress."""
_NEVER = datetime.min.replace(tzinfo=UTC)


def run_next() -> None:
    """In a worker: run one waiting test to its end. Does nothing if none waits."""
    while (test_id := next_test()) is not None:
        if test_run(test_id):
            return


def next_test() -> UUID | None:
    """The waiting test whose turn it is; None if none waits. Another worker may claim it first."""
    with open_for("whose test is next"):
        queued = ConnectionTest.objects.unfinished().filter(state=ConnectionTest.State.QUEUED)
        while waiting := dict(queued.order_by().values_list("user_id").annotate(Min("created_at"))):
            user_id = next(iter(waiting)) if len(waiting) == 1 else _longest_without(waiting)
            test_id = queued.filter(user_id=user_id).order_by("created_at").values_list("pk", flat=True).first()
            if test_id is not None:
                return test_id
            # Another worker has just taken this user's last test; other users' tests still wait for this ticket.
    return None


def _longest_without(waiting: dict[Any, datetime]) -> Any:
    """The user whose last turn is longest ago; among users without a turn, the first to ask."""
    turns = ConnectionTest.objects.filter(
        user_id__in=list(waiting), created_at__gte=timezone.now() - REMEMBERED, started_at__isnull=False
    )
    last = dict(turns.order_by().values_list("user_id").annotate(Max("started_at")))
    return min(waiting, key=lambda user_id: (last.get(user_id, _NEVER), waiting[user_id]))
