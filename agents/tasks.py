"""What workers do for agents. A task takes an id, reads the row afresh and does that one run."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any
from uuid import UUID

from billiard.exceptions import SoftTimeLimitExceeded
from celery import shared_task
from celery.signals import worker_ready
from django.utils.translation import gettext_noop
from kombu.exceptions import OperationalError

from agents import running, services
from agents.models import STALE_AFTER, AgentRun
from agents.receipts import site_error
from agents.running import Outcome
from llm_credentials import bridge
from llm_credentials.wall import acting_for, open_for, owner_of

logger = logging.getLogger(__name__)

TOOK_TOO_LONG = site_error("LimitReached", gettext_noop("The run took as long as a run may, and was ended there."))


class QueueUnavailable(Exception):
    """The queue cannot be reached, so no worker would hear of the run."""

    user_message = gettext_noop(
        "Background runs cannot be started just now: the queue is away. Nothing was lost; try again in a minute."
    )


@shared_task(bind=True, name="agents.run_agent", max_retries=None, acks_late=True, reject_on_worker_lost=True)
def run_agent(self: Any, run_id: str) -> None:
    """Safe to deliver twice: only the holder of the claim writes."""
    try:
        key = UUID(run_id)
    except (ValueError, AttributeError, TypeError):
        logger.error("a run was queued under something that is no id")
        return
    user_id = owner_of(AgentRun.objects.filter(pk=key).values_list("user_id", flat=True))
    try:
        with acting_for(user_id):
            outcome = bridge.run(running.run_execute, key)
    except SoftTimeLimitExceeded:
        with acting_for(user_id):
            services.run_give_up(key, error=TOOK_TOO_LONG)
        return
    if outcome is Outcome.HELD_BY_ANOTHER:
        # Given out again while its worker seemed alive: look again once a dead one would have been noticed.
        raise self.retry(countdown=STALE_AFTER.total_seconds() + 1)


@shared_task(name="agents.resume_runs")
def resume_runs() -> None:
    """Queue again what a dead worker or a lost queue left behind; a run that has its message still is done once all the
    same."""
    with open_for("queueing again what nobody works on"):
        orphans = list(AgentRun.objects.orphaned().order_by("created_at"))
    for run in orphans:
        run_agent.apply_async(args=(str(run.pk),))


@worker_ready.connect
def resume_soon(**_: Any) -> None:
    """A worker that starts takes up what its predecessor held, as soon as that one must be dead."""
    with suppress(OperationalError, OSError):
        resume_runs.apply_async(countdown=STALE_AFTER.total_seconds() + 3)


def enqueue_run(run: AgentRun) -> None:
    """Hand a committed run to a worker. Raises QueueUnavailable."""
    try:
        run_agent.apply_async(args=(str(run.pk),), retry=False)
    except (OperationalError, OSError):
        raise QueueUnavailable from None
