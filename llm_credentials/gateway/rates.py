"""Rate limits for the gateway (see ``llm_credentials.limits``), without a round trip for each call.

Each process counts the calls that it admits and soon afterwards adds them to the shared counters in one batch, which
returns the totals of all processes. A limit is therefore exact within a process; across processes it can be exceeded by
what each admits during ``SHARED_EVERY_S``. While Valkey is down each process counts alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.cache import cache

from llm_credentials.gateway.errors import Refused
from llm_credentials.limits import Usage, parse_rate

KIND = "gateway"
SHARED_EVERY_S = 0.25
WINDOWS_MAX = 50_000


@dataclass(slots=True)
class _Window:
    """One counter for one period."""

    ends: float
    """Seconds since the epoch."""
    limit: int
    known: int = 0
    """Admitted by all processes, as of the last exchange with the shared counter."""
    fresh: int = 0
    """Admitted here since then."""

    @property
    def used(self) -> int:
        return self.known + self.fresh

    @property
    def left(self) -> int:
        return self.limit - self.known - self.fresh


@dataclass(frozen=True, slots=True)
class _Held:
    """The windows that count one caller's calls, valid until the first of them ends."""

    windows: tuple[tuple[str, _Window], ...]
    until: float


@dataclass(slots=True)
class _Counters:
    windows: dict[str, _Window] = field(default_factory=dict)
    held: dict[tuple[Any, ...], _Held] = field(default_factory=dict)
    untold: set[str] = field(default_factory=set)
    telling: asyncio.Task[None] | None = None


_counters = _Counters()


def admit(user_id: Any, token_id: Any, policy_rates: Iterable[str]) -> Usage | None:
    """Count one call. Raises Refused above a limit; otherwise returns the usage of the tightest one."""
    now = time.time()
    windows = _windows(user_id, token_id, tuple(policy_rates), now)
    if not windows:
        return None
    tightest = None
    for _, window in windows:
        if window.used >= window.limit:
            left_s = max(1.0, window.ends - now)
            message = f"Too many requests. Try again in {left_s:.0f} s."
            usage = Usage(limit=window.limit, remaining=0, reset_s=int(left_s))
            raise Refused(429, "rate_limit_exceeded", message, retry_after_s=left_s, headers=usage.headers)
    for key, window in windows:
        window.fresh += 1
        _counters.untold.add(key)
        if tightest is None or window.left < tightest.left:
            tightest = window
    if not _is_telling():
        _counters.telling = asyncio.get_running_loop().create_task(_tell_soon())
    assert tightest is not None
    return Usage(limit=tightest.limit, remaining=max(0, tightest.left), reset_s=max(1, int(tightest.ends - now)))


def _is_telling() -> bool:
    task = _counters.telling
    return task is not None and not task.done() and task.get_loop() is asyncio.get_running_loop()


def _windows(user_id: Any, token_id: Any, policy_rates: tuple[str, ...], now: float) -> tuple[tuple[str, _Window], ...]:
    site = settings.LLM_RATES[KIND]
    caller = (user_id, token_id, policy_rates, site.get("user"), site.get("token"))
    held = _counters.held.get(caller)
    if held is None or held.until <= now:
        keys = _keys(user_id, token_id, policy_rates, site, now)
        windows = tuple((key, _window(key, limit, ends, now)) for key, limit, ends in keys)
        if len(_counters.held) >= WINDOWS_MAX:
            _counters.held.clear()
        held = _Held(windows, min((window.ends for _, window in windows), default=now))
        _counters.held[caller] = held
    return held.windows


def _keys(
    user_id: Any, token_id: Any, policy_rates: Iterable[str], site: Mapping[str, str], now: float
) -> Iterator[tuple[str, int, float]]:
    """(shared key, limit, end of its period)."""
    scopes = [("user", user_id, rate) for rate in dict.fromkeys([site.get("user"), *policy_rates]) if rate]
    if rate := site.get("token"):
        scopes.append(("token", token_id, rate))
    for scope, value, rate in scopes:
        limit, period_s = parse_rate(rate)
        ends = (now // period_s + 1) * period_s
        yield f"rate:{KIND}:{scope}:{value}:{rate}:{int(ends)}", limit, ends


def _window(key: str, limit: int, ends: float, now: float) -> _Window:
    window = _counters.windows.get(key)
    if window is None:
        if len(_counters.windows) >= WINDOWS_MAX:
            _counters.windows = {key: each for key, each in _counters.windows.items() if each.ends > now}
        window = _counters.windows[key] = _Window(ends, limit)
    return window


async def _tell_soon() -> None:
    await asyncio.sleep(SHARED_EVERY_S)
    counters, told = _counters, _counters.untold
    counters.untold = set()
    counts = {key: counters.windows[key].fresh for key in told if key in counters.windows}
    totals = await sync_to_async(_share, thread_sensitive=False)(counts)
    for key, total in totals.items():
        if window := counters.windows.get(key):
            window.known, window.fresh = total, window.fresh - counts[key]
    if counters.untold:
        counters.telling = asyncio.get_running_loop().create_task(_tell_soon())


def _share(counts: dict[str, int]) -> dict[str, int]:
    """Adds to the shared counters and returns the totals: empty if the cache is down, so this process counts alone."""
    totals: dict[str, int] = {}
    for key, count in counts.items():
        ends = int(key.rpartition(":")[2])
        cache.add(key, 0, timeout=max(1, int(ends - time.time()) + 60))
        try:
            totals[key] = int(cache.incr(key, count))
        except ValueError:
            continue
    return totals


def forget() -> None:
    """For tests, which clear the shared counters in between."""
    global _counters
    _counters = _Counters()
