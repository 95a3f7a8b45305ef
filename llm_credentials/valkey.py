"""The connection to Valkey of whoever can do without it: short timeouts, no retries."""

from __future__ import annotations

from functools import lru_cache

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

TIMEOUT_S = 0.25


@lru_cache(maxsize=4)
def client(url: str) -> redis.Redis:
    # No retries: whoever calls waits for this.
    return redis.Redis.from_url(
        url,
        socket_timeout=TIMEOUT_S,
        socket_connect_timeout=TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    )
