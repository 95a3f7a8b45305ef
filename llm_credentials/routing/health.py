"""Circuit breakers for destinations and cooldowns for keys.

Shared by all processes through Valkey; while Valkey is down each process uses its own observations. A mark set by
another process takes effect within ``SEEN_FOR_S``.

A destination's breaker opens for ``OPEN_S`` after ``FAILURES`` failures without a success in between; the first failure
after that opens it again. A key's cooldown affects only that key.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Collection

import redis
import structlog
from django.conf import settings

from llm_credentials.valkey import client

log = structlog.get_logger(__name__)

FAILURES = 5
OPEN_S = 15.0
COUNTED_FOR_S = 60
COOLDOWN_MAX_S = 60.0
COOLDOWN_UNSAID_S = 5.0
"""For a rate limit without a retry time from the provider."""
SEEN_FOR_S = 0.5
AHEAD_S = 0.2
"""While calls are made, Valkey is queried this long before the cached state expires, so that no call waits for it."""
AWAY_FOR_S = 1.0
"""How long an unreachable Valkey is not tried again."""
RESTING = "llm:resting"
"""Sorted set in Valkey: target → end of its cooldown, in seconds since the epoch."""
_FAILED = "llm:failed:"
_LOCAL_MAX = 10_000


class _Local:
    """This process's view."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.until: dict[str, float] = {}
        """Target → end of its cooldown, in seconds since the epoch."""
        self.failures: dict[str, int] = {}
        self.seen: dict[str, float] = {}
        """Target → when Valkey was last queried for it, on the monotonic clock."""
        self.away_until = 0.0
        self.calm: dict[frozenset[str], float] = {}
        """Sets of targets with nothing cooling down → how long that is known, on the monotonic clock."""

    def disturbed(self) -> None:
        """Call under the lock when a target starts cooling down."""
        self.calm = {}


_local = _Local()


def cooling(targets: Collection[str]) -> dict[str, float]:
    """Those of the targets that are cooling down, with the seconds left. Blocks for at most one round trip."""
    now = time.monotonic()
    stale = [target for target in targets if now - _local.seen.get(target, -SEEN_FOR_S) >= SEEN_FOR_S]
    if stale:
        _refresh(stale, now)
    clock = time.time()
    return {target: until - clock for target in targets if (until := _local.until.get(target, 0.0)) > clock}


def known(targets: Collection[str]) -> dict[str, float] | None:
    """The same without I/O; None if the cached state is too old."""
    now = time.monotonic()
    targets = frozenset(targets)
    if now < _local.calm.get(targets, 0.0):
        return {}
    with _local.lock:
        seen_at = min((_local.seen.get(target, -SEEN_FOR_S) for target in targets), default=now)
        if now - seen_at >= SEEN_FOR_S:
            return None
        clock = time.time()
        found = {target: until - clock for target in targets if (until := _local.until.get(target, 0.0)) > clock}
        if not found:
            if len(_local.calm) >= _LOCAL_MAX:
                _local.calm.clear()
            _local.calm[targets] = seen_at + SEEN_FOR_S
    return found


async def look(targets: frozenset[str]) -> dict[str, float]:
    """``cooling`` for event loops: queries in a thread, once for all concurrent callers with the same targets."""
    found = known(targets)
    if found is None:
        await asyncio.shield(_asking(targets))
        clock = time.time()
        return {target: until - clock for target in targets if (until := _local.until.get(target, 0.0)) > clock}
    if _local.calm.get(targets, float("inf")) - time.monotonic() < AHEAD_S:
        _asking(targets)
    return found


_under_way: dict[tuple[asyncio.AbstractEventLoop, frozenset[str]], asyncio.Future[None]] = {}


def _asking(targets: frozenset[str]) -> asyncio.Future[None]:
    loop = asyncio.get_running_loop()
    asking = _under_way.get((loop, targets))
    if asking is None:
        asking = loop.run_in_executor(None, _refresh, list(targets), time.monotonic())
        _under_way[loop, targets] = asking

        def done(_: asyncio.Future[None]) -> None:
            del _under_way[loop, targets]
            _local.calm.pop(targets, None)  # the next ``known`` computes a later expiry

        asking.add_done_callback(done)
    return asking


def rest(target: str, seconds: float | None) -> None:
    """Cool a key down for this long, at most ``COOLDOWN_MAX_S``."""
    pause_s = COOLDOWN_UNSAID_S if seconds is None else min(max(seconds, 0.0), COOLDOWN_MAX_S)
    _rest(target, pause_s)


def failed(destination: str) -> None:
    """Record a failure that says something about the destination."""
    count = _shared_failure(destination)
    with _local.lock:
        mine = _local.failures.get(destination, 0) + 1
        _local.failures[destination] = mine = max(mine, count or 0)
    if mine >= FAILURES:
        log.warning("llm_destination_resting", destination=destination, failures=mine, seconds=OPEN_S)
        _rest(destination, OPEN_S)


def has_failed(destination: str) -> bool:
    """Whether a success would change anything. No I/O."""
    return destination in _local.failures


def succeeded(destination: str) -> None:
    """Free unless the destination failed before."""
    with _local.lock:
        if not _local.failures.pop(destination, 0):
            return
    if (server := _server()) is not None:
        try:
            server.delete(_FAILED + destination)
        except redis.RedisError as error:
            _away(error)


def forget_here() -> None:
    """Clear this process's view: for tests, which empty Valkey in between."""
    global _local
    _local = _Local()


# Valkey


def _server() -> redis.Redis | None:
    """None while Valkey is known to be down."""
    return None if time.monotonic() < _local.away_until else client(settings.REDIS_URL)


def _away(error: redis.RedisError) -> None:
    _local.away_until = time.monotonic() + AWAY_FOR_S
    log.warning("llm_health_store_away", error=type(error).__name__)


def _refresh(targets: list[str], now: float) -> None:
    destinations = [target for target in targets if target.startswith("to:")]
    scores: list[float | None] = [None] * len(targets)
    counts: list[str | None] = [None] * len(destinations)
    if (server := _server()) is not None:
        try:
            with server.pipeline(transaction=False) as pipe:
                pipe.zmscore(RESTING, targets)
                if destinations:
                    pipe.mget([_FAILED + destination for destination in destinations])
                answers = pipe.execute()
            scores, counts = answers[0], [count or "0" for count in (answers[1] if destinations else ())]
        except redis.RedisError as error:
            _away(error)
    with _local.lock:
        _prune()
        for target, score in zip(targets, scores, strict=True):
            _local.seen[target] = now
            if score is not None:
                _local.until[target] = max(_local.until.get(target, 0.0), float(score))
                _local.disturbed()
        for destination, count in zip(destinations, counts, strict=True):
            if count is not None and int(count):
                _local.failures[destination] = int(count)
            elif count is not None:
                _local.failures.pop(destination, None)


def _prune() -> None:
    if len(_local.seen) > _LOCAL_MAX:
        _local.seen.clear()
        clock = time.time()
        _local.until = {target: until for target, until in _local.until.items() if until > clock}


def _rest(target: str, seconds: float) -> None:
    until = time.time() + seconds
    with _local.lock:
        _local.until[target] = until
        _local.seen[target] = time.monotonic()
        _local.disturbed()
    if (server := _server()) is None:
        return
    try:
        with server.pipeline(transaction=False) as pipe:
            pipe.zadd(RESTING, {target: until})
            pipe.zremrangebyscore(RESTING, "-inf", time.time())
            pipe.execute()
    except redis.RedisError as error:
        _away(error)


def _shared_failure(destination: str) -> int | None:
    """Failures since the last success, across all processes; None when Valkey is down."""
    if (server := _server()) is None:
        return None
    try:
        with server.pipeline(transaction=False) as pipe:
            pipe.incr(_FAILED + destination)
            pipe.expire(_FAILED + destination, COUNTED_FOR_S)
            count, _ = pipe.execute()
    except redis.RedisError as error:
        _away(error)
        return None
    return int(count)
