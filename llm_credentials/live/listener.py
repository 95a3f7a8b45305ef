"""One thread per process that receives changes and ensures that none is missed.

It runs while anything in this process is cached, starts on first use (and so after a fork), and survives outages of
Valkey and the database. It guarantees ``is_sure``: the data was read, or confirmed by a read of ``llm_changes``, less
than ``SURE_S`` ago. A change is in that table from its commit on, so nothing outdated is used later than ``SURE_S``
after it, even if every message is lost. If the table cannot be read, callers read their data again.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from typing import Any, Literal

import redis
import structlog
from django.conf import settings
from django.db import connection

from llm_credentials import valkey
from llm_credentials.live import changes, watched
from llm_credentials.models import Change

log = structlog.get_logger(__name__)

POLL_S = 0.4
SURE_S = 0.7
FIRST_LOOK_S = 0.5
"""How long callers wait for the first read. After that they continue, and do not cache what they read."""
RECONNECT_S = 1.0
LINGER_S = 2.0
"""How long the thread stays awake for a caller about to cache something."""
CLOSE_S = 5.0
GAP_MAX_S = 300.0
"""After this long without a read it starts over: rows of ``llm_changes`` are kept longer than this."""
TRIGGERS_CHECKED_EVERY_S = 60.0

_sure_at = float("-inf")
"""When the last applied read began, on the monotonic clock."""


def is_sure(read_at: float) -> bool:
    """Whether data that was read then, and not invalidated since, is still current."""
    return time.monotonic() - max(read_at, _sure_at) < SURE_S


def sure_at(read_at: float) -> float:
    """The time at which data that was read then is known to be current."""
    return max(read_at, _sure_at)


class _Log:
    """Reads what was committed to ``llm_changes`` since the last read."""

    def __init__(self) -> None:
        self.since: Any = None
        self.seen: Collection[int] = ()

    def read(self) -> list[str] | None:
        """The subjects of new rows; None the first time: earlier changes are unknown."""
        return self._read_postgres() if connection.vendor == "postgresql" else self._read_sqlite()

    def _read_sqlite(self) -> list[str] | None:
        """SQLite serialises writers, so ids are in commit order."""
        rows = Change.objects.order_by("id").values_list("id", "subject")
        if self.since is None:
            self.since = Change.objects.order_by("-id").values_list("id", flat=True).first() or 0
            return None
        found = list(rows.filter(id__gt=self.since))
        if found:
            self.since = found[-1][0]
        return [subject for _, subject in found]

    def _read_postgres(self) -> list[str] | None:
        """Rows not visible at the last read belong to transactions no older than the oldest one running then."""
        began = self.since is None
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT now.xmin, c.id, c.subject"
                " FROM (SELECT pg_snapshot_xmin(pg_current_snapshot())::text AS xmin) now"
                " LEFT JOIN llm_changes c ON c.xid >= COALESCE(%s::xid8, pg_snapshot_xmin(pg_current_snapshot()))",
                [self.since],
            )
            rows = cursor.fetchall()
        oldest = rows[0][0]
        went_back = not began and int(oldest) < int(self.since)
        found = {number: subject for _, number, subject in rows if number is not None}
        fresh = [subject for number, subject in found.items() if number not in self.seen]
        self.since, self.seen = oldest, found.keys()
        return None if began or went_back else fresh


class _Listener:
    def __init__(self) -> None:
        self.ready = threading.Event()
        self.wake = threading.Event()
        self.stopping = False
        self.needed_until = time.monotonic() + LINGER_S
        self.log = _Log()
        self.look_at = 0.0
        self.looked_at = time.monotonic()
        self.triggers_checked_at = float("-inf")
        self.pubsub: redis.client.PubSub | None = None
        self.connect_at = 0.0
        self.is_failing = False
        self.thread = threading.Thread(target=self._run, name="llm-live", daemon=True)

    def _run(self) -> None:
        while not self.stopping:
            if self._is_needed():
                self._round()
            else:
                self._sleep()
        self._hang_up()
        connection.close()

    def _is_needed(self) -> bool:
        return time.monotonic() < self.needed_until or any(holder.is_holding() for holder in changes.holders)

    def _sleep(self) -> None:
        self.ready.clear()
        _vouch(float("-inf"))
        self.log = _Log()
        self._hang_up()
        connection.close()
        if not self._is_needed():  # a caller before ``ready`` was cleared did not set ``wake``
            self.wake.wait()
        self.wake.clear()

    def _round(self) -> None:
        if heard := self._heard(self.look_at - time.monotonic()):
            changes.apply(heard)
        if time.monotonic() >= self.look_at:
            self._look()
        for holder in changes.holders:
            if holder.look is not None:
                try:
                    holder.look()
                except Exception as error:
                    self._failed(error)
        if connection.settings_dict["OPTIONS"].get("pool"):
            connection.close()  # returns it to the pool: this thread needs a connection only briefly

    # The database

    def _look(self) -> None:
        began = time.monotonic()
        self.look_at = began + POLL_S
        try:
            if began - self.triggers_checked_at >= TRIGGERS_CHECKED_EVERY_S:
                self._check_triggers()
                self.triggers_checked_at = began
            if began - self.looked_at > GAP_MAX_S:
                self.log = _Log()
            found = self.log.read()
            self.looked_at = began
        except Exception as error:
            self._failed(error)
        else:
            self.is_failing = False
            if self.stopping:
                return
            subjects = [None] if found is None else {changes.subject_of(text) for text in found}
            changes.apply(subjects)
            _vouch(began)
        self.ready.set()

    def _check_triggers(self) -> None:
        if not watched.is_installed():
            raise RuntimeError("Triggers that note changes are missing: run manage.py migrate.")

    def _failed(self, error: Exception) -> None:
        """Logged once; until reads succeed again, cached data is not trusted."""
        if not self.is_failing:
            log.warning("changes_cannot_be_read", error=type(error).__name__, problem=str(error)[:200])
        self.is_failing = True
        with suppress(Exception):
            connection.close()

    # Valkey

    def _heard(self, wait_s: float) -> set[Any]:
        """The messages received within this time; returns as soon as there is one."""
        found: set[Any] = set()
        try:
            pubsub = self._connected()
            while pubsub is not None:
                message = pubsub.get_message(ignore_subscribe_messages=True, timeout=0 if found else max(wait_s, 0))
                if message is None:
                    return found
                found.add(changes.subject_of(str(message["data"])))
        except (redis.RedisError, OSError, ValueError) as error:
            log.warning("changes_cannot_be_heard", error=type(error).__name__)
            self._hang_up()
            self.connect_at = time.monotonic() + RECONNECT_S
        if wait_s > 0 and not found:
            self.wake.wait(min(wait_s, POLL_S))
            self.wake.clear()
        return found

    def _connected(self) -> redis.client.PubSub | None:
        if self.pubsub is None and time.monotonic() >= self.connect_at:
            pubsub: redis.client.PubSub = valkey.client(settings.REDIS_URL).pubsub()  # type: ignore[no-untyped-call]
            pubsub.subscribe(changes.CHANNEL)
            self.pubsub = pubsub
        return self.pubsub

    def _hang_up(self) -> None:
        pubsub, self.pubsub = self.pubsub, None
        if pubsub is not None:
            with suppress(redis.RedisError, OSError):
                pubsub.close()


_listener: _Listener | None = None
_starting = threading.Lock()


def _vouch(when: float) -> None:
    global _sure_at
    _sure_at = when


def standing() -> Literal["listening", "asleep", "behind"]:
    """Whether this process receives changes; ``behind``: it should, but its reads of the database fail."""
    here = _listener
    if here is None or not here.thread.is_alive() or not here.ready.is_set():
        return "asleep"
    return "listening" if time.monotonic() - _sure_at < SURE_S else "behind"


def ensure(*, wait_s: float | None = None) -> None:
    """Start the thread if needed, before reading data to cache, and wait for its first read."""
    if wait_s is None:
        wait_s = FIRST_LOOK_S
    global _listener
    listener = _listener
    if listener is not None and listener.ready.is_set() and time.monotonic() < listener.needed_until - LINGER_S / 2:
        return  # another caller has just checked
    if listener is None or not listener.thread.is_alive():
        with _starting:
            listener = _listener
            if listener is None or not listener.thread.is_alive():
                listener = _listener = _Listener()
                listener.thread.start()
    listener.needed_until = time.monotonic() + LINGER_S
    if not listener.ready.is_set():
        listener.wake.set()
        if wait_s:
            listener.ready.wait(wait_s)


def close() -> None:
    """End the thread. The next ``ensure`` starts another."""
    global _listener
    with _starting:
        listener, _listener = _listener, None
    if listener is not None:
        listener.stopping = True
        listener.wake.set()
        listener.thread.join(CLOSE_S)
        _vouch(float("-inf"))


def _forget_after_fork() -> None:
    """The child has no such thread, and perhaps locks that nobody will release."""
    global _listener, _starting
    _listener = None
    _starting = threading.Lock()
    changes.lock = threading.RLock()
    _vouch(float("-inf"))


os.register_at_fork(after_in_child=_forget_after_fork)
atexit.register(close)
