"""Celery tasks. A task takes an id, reads the row afresh and calls one service."""

from __future__ import annotations

from typing import Any

from celery import shared_task
from celery.signals import task_postrun, task_prerun
from django.db import transaction
from django.utils.translation import gettext as _

from llm_credentials import audit, connection_tests, removal, webhooks
from llm_credentials.connection_tests import QueueUnavailable
from llm_credentials.ledger import books, rollups, writer
from llm_credentials.live import changes
from llm_credentials.models import Alert, ConnectionTest, WebhookDelivery
from llm_credentials.notices import Kind, alerts, deliver
from llm_credentials.notices import budget_watch as budget_watching
from llm_credentials.notices.sending import MAIL_FAILURES
from llm_credentials.notices.sending import TASK as NOTICE
from llm_credentials.valkey import QUEUE_AWAY
from llm_credentials.wall import acting_for, owner_of


@task_prerun.connect
def _begin_audited_job(task_id: str = "", **kwargs: Any) -> None:
    """Marks audit events of every task in every app as made by a job."""
    audit.begin_job(task_id)


@task_postrun.connect
def _end_audited_job(**kwargs: Any) -> None:
    audit.end_job()
    writer.flush()  # a pool process may exit without notice


@shared_task(name="llm_credentials.connection_test", soft_time_limit=20, time_limit=25)
def connection_test(test_id: str) -> None:
    """``test_id`` only identifies the message; the worker runs whichever test is next in turn."""
    connection_tests.run_next()


@shared_task(name="llm_credentials.ledger_sweep", soft_time_limit=50, time_limit=55)
def ledger_sweep() -> None:
    books.sweep()


@shared_task(name="llm_credentials.usage_rollup")
def usage_rollup() -> None:
    rollups.roll_up()


@shared_task(name=removal.TASK, soft_time_limit=50, time_limit=55)
def removal_sweep() -> None:
    removal.destroy_due()


@shared_task(name="llm_credentials.changes_prune", soft_time_limit=50, time_limit=55)
def changes_prune() -> None:
    changes.prune()


@shared_task(name=alerts.TASK, soft_time_limit=30, time_limit=35)
def alert(alert_id: str) -> None:
    with acting_for(owner_of(Alert.objects.filter(pk=alert_id).values_list("user_id", flat=True))):
        alerts.tell(alert_id)


@shared_task(name="llm_credentials.budget_watch", soft_time_limit=100, time_limit=110)
def budget_watch() -> None:
    budget_watching.watch_budgets()


@shared_task(name=webhooks.TASK, soft_time_limit=30, time_limit=35)
def webhook_delivery(delivery_id: str) -> None:
    owner = owner_of(WebhookDelivery.objects.filter(pk=delivery_id).values_list("webhook__user_id", flat=True))
    with acting_for(owner):
        webhook = webhooks.attempt(delivery_id)
        if webhook is not None:
            alerts.webhook_off(
                webhook.user_id,
                _("%(failures)s messages in a row could not be delivered.") % {"failures": webhook.failures},
            )


@shared_task(
    name=NOTICE,
    soft_time_limit=30,
    time_limit=35,
    autoretry_for=MAIL_FAILURES,
    retry_backoff=10,
    retry_backoff_max=600,
    max_retries=6,
)
def notice(user_id: Any, kind: str, facts: dict[str, str]) -> None:
    """Retried while the mail server is down."""
    with acting_for(user_id):
        deliver(user_id, Kind(kind), facts)


def enqueue_connection_test(test: ConnectionTest) -> None:
    """Send the test to a worker; call it after commit. On QueueUnavailable the row has been deleted."""
    try:
        connection_test.apply_async(args=(str(test.pk),), retry=False, expires=connection_tests.ABANDONED_AFTER_S)
    except QUEUE_AWAY:
        with transaction.atomic():
            test.delete()
        raise QueueUnavailable from None
