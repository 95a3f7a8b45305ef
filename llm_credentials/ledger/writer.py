"""The pen that calls share: one thread of each process writes what all of them have to write, in common transactions.

A reservation is awaited: it is in the database, committed, before its call leaves. A settlement is not: it goes with
the next reservation, or by itself after ``LINGER_S``; a process that is killed in between leaves its row reserved,
which the sweep closes at its worst case. ``flush`` waits for what there is: whoever shows the ledger calls it first.

While the database is away nobody waits for longer than ``WAIT_S``, and nothing leaves. What has ended meanwhile is kept
and written when it is back.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, TypeAlias

import structlog
from asgiref.sync import sync_to_async
from django.db import DatabaseError, InterfaceError, OperationalError, connection

from llm_credentials.ledger import pen
from llm_credentials.ledger.entries import Reservation, Settlement, void
from llm_credentials.providers import LLMError, SiteUnavailable

log = structlog.get_logger(__name__)

LINGER_S: Final = 0.02
"""How long a settlement waits for company."""
WAIT_S: Final = 1.8
"""How long a call waits for its reservation."""
RETRY_S: Final = 0.5
"""Between two attempts at writing what the database did not take."""
AWAKE_S: Final = 0.5
"""For which the thread looks at the pile by itself."""
IDLE_S: Final = 5.0
"""After which the connection is given back."""
STALE_S: Final = 1.0
"""After which a connection is looked at before it is used."""
_ROLLED_BACK: Final = ("40001", "40P01")
"""Serialization failure and deadlock: nothing was written, and once more will do."""
GATHER_S: Final = 0.001
"""How long the first reservation of a group waits for company while many calls are made at once."""
CROWD: Final = 4
"""So many reservations in the last group are many."""
_TAKEN_AT_ONCE: Final = pen.ROWS_MAX // 2
OWED_MAX: Final = 100_000
"""Settlements that are kept while the database is away; older ones are left to the sweep."""

inline = False
"""Write at once on the caller's own database thread: in tests, whose transaction no other thread can see."""


class _Asked:
    """A reservation and who waits for it."""

    __slots__ = ("future", "loop", "reservation")

    def __init__(self, reservation: Reservation, loop: asyncio.AbstractEventLoop) -> None:
        self.reservation = reservation
        self.loop = loop
        self.future: asyncio.Future[None] = loop.create_future()


def _expire(group: list[_Asked]) -> None:
    for each in group:
        if not each.future.done():
            each.future.set_exception(SiteUnavailable())


class _Ring:
    """Something lies on the pile of settlements."""


_RING: Final = _Ring()
_Work: TypeAlias = "list[_Asked] | threading.Event | _Ring | None"
"""An event is set when all that came before it has been written, or tried; None ends the thread."""


async def reserve(reservation: Reservation) -> None:
    """Written down, durably, when it returns. Raises BudgetExceeded, SiteUnavailable; then it does not count."""
    if inline:
        await sync_to_async(_write_here)([reservation], [])
        if reservation.refusal is not None:
            raise reservation.refusal
        return
    loop = asyncio.get_running_loop()
    asked = _Asked(reservation, loop)
    if (company := _gathering.get(loop)) is not None:
        company.append(asked)
    else:
        _gathering[loop] = [asked]
        if _writer().crowded:
            loop.call_later(GATHER_S, _hand_over, loop)
        else:
            loop.call_soon(_hand_over, loop)
    await asked.future


_gathering: dict[asyncio.AbstractEventLoop, list[_Asked]] = {}
"""What each loop has asked for and not handed over yet: the thread is woken once for all that comes in one turn of the
loop, because each waking costs more than what it is woken for."""


def _hand_over(loop: asyncio.AbstractEventLoop) -> None:
    asked = _gathering.pop(loop)
    loop.call_later(WAIT_S, _expire, asked)
    work = _writer().work
    for start in range(0, len(asked), _TAKEN_AT_ONCE):
        work.put(asked[start : start + _TAKEN_AT_ONCE])


async def settle(settlement: Settlement) -> None:
    """Have it written soon."""
    if inline:
        await sync_to_async(_write_here)([], [settlement])
    else:
        _writer().settle(settlement)


def flush(limit_s: float = WAIT_S) -> bool:
    """Wait until what this process has settled is in the database; whether it is. Blocks; not on an event loop."""
    here = _current
    return here is None or here.pid != os.getpid() or here.flush(limit_s)


async def flushed(limit_s: float = WAIT_S) -> bool:
    """The same without blocking."""
    here = _current
    return here is None or here.is_idle() or await asyncio.to_thread(flush, limit_s)


def close() -> None:
    """Write what there is and end the thread; the next call starts another."""
    global _current
    with _lock:
        here, _current = _current, None
    if here is not None and here.pid == os.getpid():
        here.end()


def _write_here(reservations: Sequence[Reservation], settlements: Sequence[Settlement]) -> None:
    try:
        pen.write(reservations, settlements)
    except (DatabaseError, InterfaceError) as problem:
        log.error("ledger_not_written", error=type(problem).__name__)
        if reservations:
            raise SiteUnavailable from None


class _Writer:
    def __init__(self) -> None:
        self.pid = os.getpid()
        self.work: queue.SimpleQueue[_Work] = queue.SimpleQueue()
        self.settled: deque[Settlement] = deque()
        """The pile; the thread looks at it by itself unless it is asleep, because waking it costs more than writing."""
        self.owed: list[Settlement] = []
        """What could not be written yet."""
        self.asleep = False
        self.busy = False
        self.has_ended = False
        self.crowded = False
        self.away_since = 0.0
        self.written_at = time.monotonic()
        self.thread = threading.Thread(target=self._run, name="llm-ledger", daemon=True)
        self.thread.start()

    def settle(self, settlement: Settlement) -> None:
        self.settled.append(settlement)
        if self.asleep:
            self.work.put(_RING)

    def is_idle(self) -> bool:
        return not (self.settled or self.owed or self.busy) and self.work.empty()

    def flush(self, limit_s: float) -> bool:
        if self.is_idle():
            return True
        written = threading.Event()
        self.work.put(written)
        return written.wait(limit_s) and not self.owed

    def end(self) -> None:
        self.work.put(None)
        self.thread.join(WAIT_S + 1)

    # On the thread

    def _run(self) -> None:
        try:
            self._go_on()
        finally:
            self.has_ended = True

    def _go_on(self) -> None:
        going = True
        while going:
            asked, events, going = self._collect()
            self.busy = True
            settlements = self._pile()
            self.crowded = len(asked) >= CROWD
            if asked or settlements or self.owed:
                self._write(asked, [*self.owed, *settlements])
            self.busy = False
            for event in events:
                event.set()
        connection.close()

    def _collect(self) -> tuple[list[_Asked], list[threading.Event], bool]:
        """All that waits; waits itself for a moment at most, unless there is nothing to do at all."""
        asked: list[_Asked] = []
        events: list[threading.Event] = []
        with suppress(queue.Empty):
            work = self._first()
            while True:
                match work:
                    case list():
                        asked += work
                    case threading.Event():
                        events.append(work)
                    case None:
                        return asked, events, False
                if len(asked) > pen.ROWS_MAX - _TAKEN_AT_ONCE:
                    break
                work = self.work.get_nowait()
        return asked, events, True

    def _first(self) -> _Work:
        """Raises queue.Empty when it is time to look at the pile."""
        if self.owed:
            return self.work.get(timeout=RETRY_S)
        if time.monotonic() - self.written_at < AWAKE_S:
            return self.work.get(timeout=LINGER_S)
        self.asleep = True
        try:
            # What was put on the pile before the flag was seen is found here; what comes later rings.
            if self.settled:
                return _RING
            try:
                return self.work.get(timeout=IDLE_S)
            except queue.Empty:
                connection.close()
                return self.work.get()
        finally:
            self.asleep = False

    def _pile(self) -> list[Settlement]:
        settlements: list[Settlement] = []
        with suppress(IndexError):
            while True:
                settlements.append(self.settled.popleft())
        return settlements

    def _write(self, asked: list[_Asked], settlements: list[Settlement]) -> None:
        waiting = [each for each in asked if not each.future.done()]
        reservations = [each.reservation for each in waiting]
        failed = False
        try:
            for start in range(0, max(len(settlements), 1), pen.ROWS_MAX):
                part = settlements[start : start + pen.ROWS_MAX]
                self._try(reservations if start == 0 else [], part)
            self.owed = []
        except Exception as problem:
            failed = True
            self._away(problem)
            # Whether the database heard of the reservations is not known: what is there of them must not count.
            lost = [void(each) for each in reservations]
            self.owed = [*settlements, *lost][-OWED_MAX:]
        else:
            if self.away_since:
                log.warning("ledger_back", after_s=round(time.monotonic() - self.away_since, 1))
                self.away_since = 0.0
        self._deliver(waiting, failed)

    def _try(self, reservations: list[Reservation], settlements: list[Settlement]) -> None:
        now = time.monotonic()
        if now - self.written_at > STALE_S and connection.connection is not None and not connection.is_usable():
            connection.close()  # the server went and may be back
        try:
            pen.write(reservations, settlements)
        except OperationalError as problem:
            if getattr(problem.__cause__, "sqlstate", None) not in _ROLLED_BACK:
                raise
            pen.write(reservations, settlements)
        self.written_at = time.monotonic()

    def _away(self, problem: Exception) -> None:
        connection.close()
        if not self.away_since:
            self.away_since = time.monotonic()
            log.error("ledger_away", error=type(problem).__name__)

    def _deliver(self, waiting: list[_Asked], failed: bool) -> None:
        loops: dict[asyncio.AbstractEventLoop, list[tuple[_Asked, LLMError | None]]] = {}
        for each in waiting:
            answer = SiteUnavailable() if failed else each.reservation.refusal
            loops.setdefault(each.loop, []).append((each, answer))
        for loop, answers in loops.items():
            try:
                loop.call_soon_threadsafe(self._answer, answers)
            except RuntimeError:  # the loop has ended, and its calls with it
                self._give_back([each.reservation for each, error in answers if error is None])

    # On the loop

    def _answer(self, answers: list[tuple[_Asked, LLMError | None]]) -> None:
        left = []
        for each, error in answers:
            if each.future.done():
                left.append((each, error))
            elif error is None:
                each.future.set_result(None)
            else:
                each.future.set_exception(error)
        self._give_back([each.reservation for each, error in left if error is None])

    def _give_back(self, reservations: list[Reservation]) -> None:
        """Their callers had left before they were admitted."""
        for each in reservations:
            self.settle(void(each))


_current: _Writer | None = None
_lock = threading.Lock()


def _writer() -> _Writer:
    global _current
    here = _current
    if here is not None and not here.has_ended:  # a child of this process has none: see _forget_after_fork
        return here
    with _lock:
        if _current is None or _current.has_ended:
            _current = _Writer()
        return _current


def _forget_after_fork() -> None:
    """The child has the object without its thread, and perhaps a lock that nobody is left to release."""
    global _current, _lock
    _current = None
    _lock = threading.Lock()
    _gathering.clear()


os.register_at_fork(after_in_child=_forget_after_fork)
atexit.register(close)
