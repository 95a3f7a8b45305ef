"""What workers do. A task takes an id, reads the row afresh and calls one service."""

from __future__ import annotations

from celery import shared_task
from django.db import transaction
from kombu.exceptions import OperationalError

from llm_credentials import connection_tests
from llm_credentials.connection_tests import QueueUnavailable
from llm_credentials.ledger import books
from llm_credentials.models import ConnectionTest


@shared_task(name="llm_credentials.connection_test", soft_time_limit=20, time_limit=25)
def connection_test(test_id: str) -> None:
    connection_tests.test_run(test_id)


@shared_task(name="llm_credentials.ledger_sweep", soft_time_limit=50, time_limit=55)
def ledger_sweep() -> None:
    books.sweep()


def enqueue_connection_test(test: ConnectionTest) -> None:
    """Hand the test to a worker; call it after commit. Raises QueueUnavailable, and the row is gone then."""
    try:
        connection_test.apply_async(args=(str(test.pk),), retry=False, expires=connection_tests.ABANDONED_AFTER_S)
    except (OperationalError, OSError):
        with transaction.atomic():
            test.delete()
        raise QueueUnavailable from None
