"""A cache on Valkey that keeps working while Valkey is away."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import structlog
from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.core.cache.backends.locmem import LocMemCache
from django.core.cache.backends.redis import RedisCache
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as ServerAway
from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError
from redis.exceptions import TimeoutError as ServerSlow
from redis.retry import Retry

from llm_credentials.valkey import refuses_writes

log = structlog.get_logger(__name__)

AWAY = (ServerAway, ServerSlow, ReadOnlyError, OutOfMemoryError)
ASK_AGAIN_AFTER_S = 2.0
"""Retry interval while the server is away; other calls use the process's own memory at once."""

CLEAR_BATCH = 500


class _Outage:
    """Whether the server is away; shared by all threads of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._away = False
        self._ask_at = 0.0

    def worth_asking(self) -> bool:
        if not self._away:
            return True
        with self._lock:
            now = time.monotonic()
            if now < self._ask_at:
                return False
            self._ask_at = now + ASK_AGAIN_AFTER_S
            return True

    def begin(self, problem: Exception) -> None:
        with self._lock:
            self._ask_at = time.monotonic() + ASK_AGAIN_AFTER_S
            first, self._away = not self._away, True
        if first:
            log.warning("cache_away", error=type(problem).__name__, instead="memory of this process")

    def end(self) -> None:
        if self._away:
            self._away = False
            log.warning("cache_back")


_outages: dict[str, _Outage] = {}


class DataSerializer:
    """JSON, with integers in the server's own format. Django's serializer would unpickle, so anybody who can write to
    Valkey could run code in a process that holds the key ring.
    """

    def dumps(self, value: Any) -> int | bytes:
        return value if type(value) is int else json.dumps(value, separators=(",", ":")).encode()

    def loads(self, data: Any) -> Any:
        """None for invalid data."""
        try:
            return int(data)
        except ValueError:
            pass
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            return None


class ResilientRedisCache(RedisCache):
    """Django's Redis cache with JSON values; while the server is away, an in-memory cache of this process replaces it.

    Limits then count per process. Values written meanwhile are lost when the server is back. An unreadable value counts
    as missing.
    """

    def __init__(self, server: Any, params: dict[str, Any]) -> None:
        options = {
            # One immediate retry, for a pooled connection that the server closed; the default waits for seconds.
            "retry": Retry(NoBackoff(), 1),
            "socket_timeout": 1.0,
            "serializer": DataSerializer,
            **params.get("OPTIONS", {}),
        }
        if not str(server).startswith("unix:"):
            options.setdefault("socket_connect_timeout", 0.5)
        super().__init__(server, {**params, "OPTIONS": options})
        self._outage = _outages.setdefault(str(server), _Outage())
        self._memory = LocMemCache(f"instead of {server}", {**params, "OPTIONS": {}})

    def _ask(self, server: Callable[..., Any], memory: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self._outage.worth_asking():
            return memory(*args, **kwargs)
        try:
            answer = server(*args, **kwargs)
        except ResponseError as problem:
            if not isinstance(problem, AWAY) and not refuses_writes(problem):
                raise
            self._outage.begin(problem)
            return memory(*args, **kwargs)
        except AWAY as problem:
            self._outage.begin(problem)
            return memory(*args, **kwargs)
        self._outage.end()
        return answer

    def add(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        return bool(self._ask(super().add, self._memory.add, key, value, timeout, version))

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        found = self._ask(super().get, self._memory.get, key, default, version)
        return default if found is None else found

    def set(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        self._ask(super().set, self._memory.set, key, value, timeout, version)

    def touch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        return bool(self._ask(super().touch, self._memory.touch, key, timeout, version))

    def delete(self, key: Any, version: int | None = None) -> bool:
        return bool(self._ask(super().delete, self._memory.delete, key, version))

    def get_many(self, keys: Any, version: int | None = None) -> dict[Any, Any]:
        answer: dict[Any, Any] = self._ask(super().get_many, self._memory.get_many, list(keys), version)
        return {key: value for key, value in answer.items() if value is not None}

    def has_key(self, key: Any, version: int | None = None) -> bool:
        return bool(self._ask(super().has_key, self._memory.has_key, key, version))

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        return int(self._ask(super().incr, self._memory.incr, key, delta, version))

    def set_many(self, data: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> list[Any]:
        answer: list[Any] = self._ask(super().set_many, self._memory.set_many, data, timeout, version)
        return answer

    def delete_many(self, keys: Any, version: int | None = None) -> None:
        self._ask(super().delete_many, self._memory.delete_many, list(keys), version)

    def clear(self) -> None:
        """Clear this cache only: the same server holds the task queue and other counters."""
        self._ask(self._clear_own, self._memory.clear)

    def _clear_own(self) -> None:
        client = self._cache.get_client(write=True)
        batch: list[Any] = []
        for key in client.scan_iter(match=f"{self.key_prefix}:*", count=CLEAR_BATCH):
            batch.append(key)
            if len(batch) == CLEAR_BATCH:
                client.unlink(*batch)
                batch.clear()
        if batch:
            client.unlink(*batch)
