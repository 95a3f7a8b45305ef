"""Celery tasks of agents. A task takes an id, reads the row afresh and does that one run."""

from __future__ import annotations

import logging
from contextlib import suppress
from datetime import timedelta
from itertools import groupby
from typing import Any
from uuid import UUID

from billiard.exceptions import SoftTimeLimitExceeded
from celery import shared_task
from celery.signals import worker_ready
from django.conf import settings
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_noop

from agents import indexing, run_notices, running, runs  # noqa: F401 - the tasks of the first, for Celery to find
from agents.models import STALE_AFTER, AgentRun, RunState
from agents.receipts import site_error
from agents.running import Outcome
from agents.schedules import ScheduledRun, schedule_start
from llm_credentials import bridge
from llm_credentials.valkey import QUEUE_AWAY
from llm_credentials.wall import acting_for, open_for, owner_of

SCHEDULES_A_TICK = 200
MESSAGE_LOST_AFTER = timedelta(minutes=20)
"""Longer than the user's other runs before it may take; after this its message is considered lost."""

logger = logging.getLogger(__name__)

TOOK_TOO_LONG = site_error("LimitReached", gettext_noop("The run took as long as a run may, and was ended there."))


class QueueUnavailable(Exception):
    """The queue is unreachable, so no worker would learn of the run."""

    user_message = gettext_noop(
        "Background runs cannot be started just now: the queue is away. Nothing was lost; try again in a minute."
    )


@shared_task(bind=True, name="agents.run_agent", max_retries=None, acks_late=True, reject_on_worker_lost=True)
def run_agent(self: Any, run_id: str) -> None:
    """Idempotent: only the holder of the claim writes."""
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
            runs.run_give_up(key, error=TOOK_TOO_LONG)
        outcome = Outcome.ENDED
    if outcome is Outcome.ENDED:
        with acting_for(user_id):
            _after(key)
        return
    if outcome in (Outcome.HELD_BY_ANOTHER, Outcome.LEFT):
        # Delivered again while its worker seemed alive: check again once a dead worker would have been noticed.
        raise self.retry(countdown=STALE_AFTER.total_seconds() + 1)


def _after(run_id: UUID) -> None:
    """After a run has ended: hand over the user's next one, and notify the user."""
    run = AgentRun.objects.filter(pk=run_id).first()
    if run is None:
        return
    with suppress(*QUEUE_AWAY):  # the periodic task retries it
        _send_next(run.user_id, run.weight)
    if run.is_waiting:
        run_notices.tell_waiting(run)
    run_notices.tell(run.pk)


@shared_task(name="agents.resume_runs")
def resume_runs() -> None:
    """Queue again runs lost by a dead worker or queue, and those held back that may start now. A run whose message
    still exists is nevertheless done once.
    """
    with open_for("queueing again what nobody works on"):
        lost = list(AgentRun.objects.orphaned().order_by("created_at"))
        held = list(AgentRun.objects.held_back().order_by("user_id", "weight", "created_at"))
        for run in lost:
            _send(run, asked_for=False)
        for (user_id, weight), _runs in groupby(held, lambda run: (run.user_id, run.weight)):
            _send_next(user_id, weight)


@shared_task(name="agents.tend_runs")
def tend_runs() -> None:
    """Periodic task: runs of dead workers, runs that were held back, and notifications not yet sent."""
    with open_for("runs that nobody works on, and schedules that are due"):
        lost = Q(state=RunState.RUNNING) | Q(enqueued_at__lt=timezone.now() - MESSAGE_LOST_AFTER)
        dead = list(AgentRun.objects.orphaned().filter(lost))
        held = list(AgentRun.objects.held_back().values_list("user_id", "weight").distinct())
        for run in dead:
            _send(run, asked_for=False)
        for user_id, weight in held:
            _send_next(user_id, weight)
        for schedule in ScheduledRun.objects.due().select_related("user").order_by("next_at")[:SCHEDULES_A_TICK]:
            _start(schedule)
        untold = list(AgentRun.objects.untold().values_list("pk", flat=True)[:100])
        for run_id in untold:
            run_notices.tell(run_id)


@worker_ready.connect
def resume_soon(**_: Any) -> None:
    """A starting worker takes over its predecessor's runs as soon as that one must be dead."""
    with suppress(*QUEUE_AWAY):
        resume_runs.apply_async(countdown=STALE_AFTER.total_seconds() + 3)


def _start(schedule: ScheduledRun) -> None:
    try:
        run = schedule_start(schedule)
    except Exception:
        logger.exception("a schedule could not be started")
        return
    if run is not None:
        with suppress(QueueUnavailable):  # it stays held back until the next tick
            enqueue_run(run)


def enqueue_run(run: AgentRun) -> None:
    """Hand a committed run to a worker, or hold it back behind the user's other runs. Raises QueueUnavailable."""
    if run.enqueued_at is None and _in_flight(run.user_id, run.weight) >= settings.RUNS_IN_FLIGHT:
        return
    try:
        _send(run, asked_for=True)
    except QUEUE_AWAY:
        raise QueueUnavailable from None


def _send(run: AgentRun, *, asked_for: bool) -> None:
    """``asked_for``: triggered by the current request, whose id the job's log lines then carry."""
    runs.run_hand_over(run, at=timezone.now())
    headers: dict[str, str] = {} if asked_for else {"request_id": ""}
    try:
        run_agent.apply_async(args=(str(run.pk),), queue=queue_of(run.weight), retry=False, headers=headers)
    except QUEUE_AWAY:
        runs.run_hand_over(run, at=None)
        raise


def _send_next(user_id: int, weight: str) -> None:
    """Hand over runs that were held back, oldest first, as far as the user's limit allows."""
    room = settings.RUNS_IN_FLIGHT - _in_flight(user_id, weight)
    if room <= 0:
        return
    for run in AgentRun.objects.held_back().filter(user_id=user_id, weight=weight).order_by("created_at")[:room]:
        _send(run, asked_for=False)


def _in_flight(user_id: int, weight: str) -> int:
    return AgentRun.objects.in_flight().filter(user_id=user_id, weight=weight).count()


def queue_of(weight: str) -> str:
    return f"runs.{weight}"
