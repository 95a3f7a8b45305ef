"""Valkey connections for callers that can do without it: short timeouts, no retries."""

from __future__ import annotations

from functools import lru_cache

import redis
from kombu.exceptions import OperationalError
from redis.backoff import NoBackoff
from redis.retry import Retry

TIMEOUT_S = 0.25
QUEUE_AWAY = (OperationalError, OSError, redis.RedisError)
"""What enqueueing a job raises while the server is down or cannot write."""


def refuses_writes(problem: redis.RedisError) -> bool:
    """Whether the server is up but rejects writes: its disk is full, or its replicas are down."""
    # In a pipeline the client puts the command before the server's message.
    said = str(problem).rpartition(" of pipeline caused error: ")[2]
    return said.startswith(("MISCONF", "NOREPLICAS"))


@lru_cache(maxsize=4)
def client(url: str) -> redis.Redis:
    # No retries, because the caller waits.
    return redis.Redis.from_url(
        url,
        socket_timeout=TIMEOUT_S,
        socket_connect_timeout=TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    )
