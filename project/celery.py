"""The Celery app; it discovers the ``tasks`` module of every installed app."""

from __future__ import annotations

from typing import Any

from project.env import use_settings

use_settings("project.settings")

import structlog  # noqa: E402
from celery import Celery  # noqa: E402
from celery.signals import (  # noqa: E402
    after_task_publish,
    beat_embedded_init,
    beat_init,
    before_task_publish,
    heartbeat_sent,
    setup_logging,
    task_postrun,
    task_prerun,
    worker_init,
    worker_process_init,
    worker_ready,
    worker_shutting_down,
)

from project import broker  # noqa: E402

broker.install()
app = Celery("keyswitch")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()

_bound: dict[str, Any] = {}
"""Logging context to reset when a job ends, by task id."""


@setup_logging.connect
def leave_logging_to_django(**kwargs: Any) -> None:
    """A connected receiver keeps Celery from installing its own log handlers, which would not redact."""


@before_task_publish.connect
def send_request_id(headers: dict[str, Any] | None = None, **kwargs: Any) -> None:
    """Pass the current request's id to the job's log lines. Jobs without a request pass none."""
    from project.logging import current_request_id

    if headers is not None and (current := current_request_id()):
        headers.setdefault("request_id", current)


@task_prerun.connect
def take_request_id(task_id: str, task: Any, **kwargs: Any) -> None:
    given = str(task.request.get("request_id") or "")
    _bound[task_id] = structlog.contextvars.bind_contextvars(request_id=given or task_id)


@task_postrun.connect
def leave_request_id(task_id: str, **kwargs: Any) -> None:
    if (tokens := _bound.pop(task_id, None)) is not None:
        structlog.contextvars.reset_contextvars(**tokens)


@beat_embedded_init.connect
@worker_process_init.connect
def end_with_the_worker(**kwargs: Any) -> None:
    """If a worker is killed, end its scheduler, and its pool processes, whose tasks will be redelivered."""
    from project.processes import die_with_parent, parent_id

    die_with_parent(parent_id())


@beat_init.connect
@beat_embedded_init.connect
def note_clock(**kwargs: Any) -> None:
    """Runs in the scheduler's own process, which only sends a job every few seconds."""
    from project.health import clock_alive

    clock_alive()
    after_task_publish.connect(_note_tick)


def _note_tick(**kwargs: Any) -> None:
    from project.health import clock_alive

    clock_alive()


@worker_ready.connect
@heartbeat_sent.connect
def note_worker(sender: Any, **kwargs: Any) -> None:
    from project.health import worker_alive

    worker_alive(_name(sender))


@worker_init.connect
def answer_for_the_worker(**kwargs: Any) -> None:
    """Serve metrics of jobs on a machine without a web process."""
    from django.conf import settings

    if settings.METRICS_PORT:
        from prometheus_client import start_http_server

        from project.metrics import counted

        start_http_server(settings.METRICS_PORT, registry=counted())


@worker_shutting_down.connect
def note_worker_gone(sender: Any, **kwargs: Any) -> None:
    from project.health import worker_gone

    worker_gone(str(sender))


def _name(sender: Any) -> str:
    """The signals send the worker's consumer, or its heartbeat, whose dispatcher knows the name."""
    dispatcher = getattr(sender, "eventer", sender)
    return str(getattr(dispatcher, "hostname", "worker"))
