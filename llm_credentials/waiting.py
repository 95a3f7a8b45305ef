"""Waits for a connection test that a worker runs: Valkey announces its end, and the row is polled every second."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Final
from uuid import UUID

import redis
import structlog
from django.conf import settings
from django.utils.translation import gettext as _

from llm_credentials import valkey
from llm_credentials.models import ConnectionTest

log = structlog.get_logger(__name__)

LOOK_EVERY_S: Final = 1.0
"""Poll interval, for an end that was not announced."""


class NoWorker(Exception):
    """No worker took the test while the caller waited."""

    def __init__(self, test: ConnectionTest) -> None:
        super().__init__(
            _("No worker has taken this test yet: the site's background jobs seem to be away. It stays queued.")
        )
        self.test = test


def announce(test_id: UUID) -> None:
    """Announce that the test has ended, after its row is written. Never raises, because waiters also poll."""
    try:
        valkey.client(settings.REDIS_URL).publish(_channel(test_id), "ended")
    except redis.RedisError:
        log.warning("test_end_not_told", test=str(test_id))


def wait_finished(test: ConnectionTest, wait_s: float) -> None:
    """Return when the test has ended or the time is over, with the row refreshed. Raises NoWorker."""
    try:
        _wait(test, time.monotonic() + wait_s)
    except redis.RedisError:
        log.warning("test_end_not_heard", test=str(test.pk))
    if test.state == ConnectionTest.State.QUEUED:
        raise NoWorker(test)


def _wait(test: ConnectionTest, deadline: float) -> None:
    subscription = valkey.client(settings.REDIS_URL).pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    with closing(subscription) as told:
        told.subscribe(_channel(test.pk))
        while True:
            test.refresh_from_db()
            left_s = deadline - time.monotonic()
            if test.is_finished or left_s <= 0:
                return
            told.get_message(timeout=min(left_s, LOOK_EVERY_S))


def _channel(test_id: UUID) -> str:
    return f"keyswitch:tests:{test_id}"
