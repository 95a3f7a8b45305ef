"""Liveness and readiness endpoints."""

from __future__ import annotations

import time
from typing import Any

import redis
from django.conf import settings
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from redis.backoff import NoBackoff
from redis.retry import Retry

from llm_credentials import canary
from llm_credentials.keyring import KeyringError

PROBE_LIMIT_S = 1.0
WORKER_SEEN_WITHIN_S = 10.0
WORKERS = "keyswitch:workers"
"""Sorted set in Valkey: worker name → time of its last heartbeat, in seconds since the epoch."""

CLOCK = "keyswitch:clock"
"""In Valkey: when the scheduler last sent a job, in seconds since the epoch."""
CLOCK_SEEN_WITHIN_S = 60.0
"""The schedule has a job every 15 s."""

_migrated = False


@never_cache
@require_safe
def healthz(request: HttpRequest) -> HttpResponse:
    """Liveness: the process responds; checks nothing else."""
    return HttpResponse("ok\n", content_type="text/plain")


@never_cache
@require_safe
def readyz(request: HttpRequest) -> JsonResponse:
    """503 without a usable database. Without broker or worker the pages still work: 200, but ``degraded``."""
    database = database_state()
    broker, worker = _broker_and_worker()
    ready = database == "ok"
    parts = {"database": database, "keys": _keys() if ready else "unknown", "broker": broker, "worker": worker}
    degraded = ready and not all(state == "ok" for state in parts.values())
    return JsonResponse({"ready": ready, "degraded": degraded, **parts}, status=200 if ready else 503)


def database_state() -> str:
    global _migrated
    try:
        if not _migrated:
            executor = MigrationExecutor(connection)
            if executor.migration_plan(executor.loader.graph.leaf_nodes()):
                return "migrations missing: run manage.py migrate"
            _migrated = True
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError:
        return "down"
    return "ok"


def _keys() -> str:
    """As a side effect, this process learns whose keys are lost, so that its pages say so."""
    try:
        return "wrong: run manage.py check --database default" if canary.examine() else "ok"
    except KeyringError:
        return "missing or unreadable: run manage.py check"
    except DatabaseError:
        return "unknown"


def valkey(**options: Any) -> redis.Redis:
    """A client that gives up within ``PROBE_LIMIT_S``; the caller closes it."""
    return redis.Redis.from_url(
        settings.REDIS_URL, socket_timeout=PROBE_LIMIT_S, retry=Retry(NoBackoff(), 0), **options
    )


def _broker_and_worker() -> tuple[str, str]:
    try:
        with valkey() as client:
            seen = client.zcount(WORKERS, time.time() - WORKER_SEEN_WITHIN_S, "+inf")
    except (redis.RedisError, OSError):
        return "down", "unknown"
    return "ok", "ok" if seen else "none seen"


def worker_alive(name: str) -> None:
    """Record a worker's heartbeat; failures of Valkey are ignored, so that they do not stop the worker."""
    now = time.time()
    try:
        with valkey() as client, client.pipeline(transaction=False) as pipe:
            pipe.zadd(WORKERS, {name: now})
            pipe.zremrangebyscore(WORKERS, "-inf", now - 60)
            pipe.execute()
    except (redis.RedisError, OSError):
        pass


def worker_gone(name: str) -> None:
    try:
        with valkey() as client:
            client.zrem(WORKERS, name)
    except (redis.RedisError, OSError):
        pass


def clock_alive() -> None:
    """Record that the scheduler has just sent a job."""
    try:
        with valkey() as client:
            client.set(CLOCK, time.time())
    except (redis.RedisError, OSError):
        pass
