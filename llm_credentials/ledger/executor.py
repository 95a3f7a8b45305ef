"""Executes the batches of all calls of a process, on the event loops themselves or in a thread.

An event loop that finds the PostgreSQL connection free sends its batch on it and reads the response itself
(``postgres_direct``). On SQLite it writes its batch at once unless another writer is active (``sqlite_direct``). The
thread does the rest: it owns the connections, opens and closes them, and handles settlements that no reservation
carries along, batches with a closed row or a full budget, and a database that is down or busy.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import structlog
from django.db import OperationalError, connection

from llm_credentials.ledger import batches, sqlite_direct, statements
from llm_credentials.ledger.entries import Reservation, Settlement, void
from llm_credentials.ledger.postgres_direct import Query
from llm_credentials.ledger.statements import Unlike
from llm_credentials.providers import LLMError, SiteUnavailable

if TYPE_CHECKING:
    from psycopg import Connection

log = structlog.get_logger(__name__)

LINGER_S: Final = 0.02
"""How long a settlement waits to be batched."""
RETRY_S: Final = 0.5
"""Pause before retrying a failed write."""
AWAKE_S: Final = 0.5
"""How long after the last write the thread keeps polling the settlements."""
IDLE_S: Final = 5.0
"""After this the connection is closed."""
STALE_S: Final = 1.0
"""A connection unused for longer is checked before use."""
_ROLLED_BACK: Final = ("40001", "40P01")
"""Serialization failure and deadlock: nothing was written, so retry."""
CROWD: Final = 4
"""A batch of this many reservations counts as high load."""
TAKEN_AT_ONCE: Final = batches.ROWS_MAX // 2
OWED_MAX: Final = 100_000
"""Settlements kept while the database is down; older ones are left to the sweep."""


class Asked:
    """A reservation and the future that its caller awaits."""

    __slots__ = ("future", "loop", "reservation")

    def __init__(self, reservation: Reservation, loop: asyncio.AbstractEventLoop) -> None:
        self.reservation = reservation
        self.loop = loop
        self.future: asyncio.Future[None] = loop.create_future()


class _Ring:
    """Wakes the thread: a settlement is queued."""


_RING: Final = _Ring()
_Work: TypeAlias = "list[Asked] | threading.Event | _Ring | None"
"""An event is set once everything queued before it has been tried; None ends the thread."""


class Executor:
    def __init__(self) -> None:
        self.pid = os.getpid()
        self.work: queue.SimpleQueue[_Work] = queue.SimpleQueue()
        self.settled: deque[Settlement] = deque()
        """Queued settlements. The thread polls them unless it is asleep: waking it costs more than writing."""
        self.owed: list[Settlement] = []
        """Settlements whose write failed, to be retried."""
        self.using = threading.Lock()
        """Held by the user of the connection: the thread, or a query until its response is read."""
        self.wanted = False
        """Whether the thread is waiting for the lock."""
        self.line: Connection[Any] | None = None
        """The thread's PostgreSQL connection, if event loops may use it."""
        self.direct: sqlite_direct.DirectConnection | None = None
        """The SQLite connection for event loops."""
        self.query: Query | None = None
        self.aboard: tuple[list[Asked], list[Settlement]] = ([], [])
        """The batch in the running query."""
        self.behind: list[Asked] = []
        """What the same loop sends next."""
        self.hopes = True
        """Whether the next batch is tried in one step; False after an event loop's one-step attempt failed."""
        self.asleep = False
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
        return not (self.settled or self.owed or self.using.locked()) and self.work.empty()

    def flush(self, limit_s: float) -> bool:
        if self.is_idle():
            return True
        written = threading.Event()
        self.work.put(written)
        return written.wait(limit_s) and not self.owed

    def end(self, limit_s: float) -> None:
        self.work.put(None)
        self.thread.join(limit_s)

    # On an event loop

    def take(self, asked: list[Asked], loop: asyncio.AbstractEventLoop) -> None:
        """Write these; ``loop`` is the running one."""
        query = self.query
        if query is not None and query.loop is loop:
            self.behind += asked
        elif not self._send(asked):
            self._hand_over(asked)

    def _hand_over(self, asked: list[Asked]) -> None:
        for start in range(0, len(asked), TAKEN_AT_ONCE):
            self.work.put(asked[start : start + TAKEN_AT_ONCE])

    def _send(self, asked: list[Asked]) -> bool:
        """Send them with the queued settlements. False: the thread must write them."""
        if self.wanted or self.owed or not self.using.acquire(blocking=False):
            return False
        if self.direct is not None:
            return self._write_at(self.direct, asked)
        if time.monotonic() - self.written_at > STALE_S:
            self.using.release()
            return False
        line, settlements = self.line, self._pile(TAKEN_AT_ONCE)
        first = [each for each in asked[:TAKEN_AT_ONCE] if not each.future.done()]
        try:
            if line is None:
                raise Unlike
            message = batches.message(line, [each.reservation for each in first], settlements)
        except Exception:  # the thread will see the same error
            self.settled.extendleft(reversed(settlements))
            self.using.release()
            return False
        self.aboard, self.behind = (first, settlements), asked[TAKEN_AT_ONCE:]
        try:
            self.query = Query(line, message, self._landed)
        except Exception as problem:
            self._landed(problem)
        return True

    def _write_at(self, place: sqlite_direct.DirectConnection, asked: list[Asked]) -> bool:
        """Write them with the queued settlements. False: the thread must write them."""
        settlements = self._pile(TAKEN_AT_ONCE)
        first = [each for each in asked[:TAKEN_AT_ONCE] if not each.future.done()]
        try:
            place.write(batches.hoped([each.reservation for each in first], settlements))
        except Exception as problem:  # the thread will see the same error
            self.settled.extendleft(reversed(settlements))
            self.hopes = not isinstance(problem, Unlike)
            return False
        finally:
            self.using.release()
        self.crowded = len(first) >= CROWD
        self.written_at = time.monotonic()
        self._hand_over(asked[TAKEN_AT_ONCE:])
        self._answer([(each, None) for each in first])
        return True

    def _landed(self, problem: Exception | None) -> None:
        (asked, settlements), behind = self.aboard, self.behind
        self.query, self.aboard, self.behind = None, ([], []), []
        is_lost = problem is not None and _is_lost(problem)
        if problem is None:
            self.crowded = len(asked) >= CROWD
            self.written_at = time.monotonic()
        else:
            # After a lost connection the outcome of the write is unknown: see ``_write``.
            self.settled.extendleft(reversed(settlements))
            if is_lost:
                self.line = None
                self.written_at -= STALE_S  # makes the thread check the connection before using it
                self.settled.extend(void(each.reservation) for each in asked)
            else:
                self.hopes = False
                self._hand_over(asked)
        self.using.release()
        if problem is None or is_lost:
            self._answer([(each, SiteUnavailable() if is_lost else None) for each in asked])
        if self.asleep and self.settled:
            self.work.put(_RING)
        if behind:
            self.take(behind, behind[0].loop)

    def _answer(self, answers: list[tuple[Asked, LLMError | None]]) -> None:
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
        """For calls that were cancelled before they were admitted."""
        for each in reservations:
            self.settle(void(each))

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
            if asked or events or self._has_pile(LINGER_S if going else 0):
                with self._use():
                    settlements = self._pile()
                    if asked or settlements or self.owed:
                        self._write(asked, [*self.owed, *settlements])
                    self.crowded = len(asked) >= CROWD
                    self.direct = self.direct or sqlite_direct.opened(connection)
            for event in events:
                event.set()
        with nullcontext() if self.direct is None else self._use():
            self._disconnect()

    def _has_pile(self, after_s: float) -> bool:
        """Whether there is something to write that no event loop's batch will take.

        Every batch takes all queued settlements, so those in the queue arrived after the last batch.
        """
        if (query := self.query) is not None:
            return query.loop.is_closed()
        return bool(self.owed) or (bool(self.settled) and time.monotonic() - self.written_at >= after_s)

    @contextmanager
    def _use(self) -> Iterator[None]:
        self.wanted = True
        while not self.using.acquire(timeout=LINGER_S):
            query = self.query
            if query is not None and query.loop.is_closed():
                self._bring_in(query)
                break
        self.wanted = False
        try:
            yield
        finally:
            self.using.release()

    def _bring_in(self, query: Query) -> None:
        """Take over the connection from a closed event loop, whose calls are gone."""
        problem = query.take_over()
        asked, settlements = self.aboard
        self.query, self.aboard, self.behind = None, ([], []), []
        if problem is not None:
            self.settled.extendleft(reversed(settlements))
        self.settled.extend(void(each.reservation) for each in asked)

    def _collect(self) -> tuple[list[Asked], list[threading.Event], bool]:
        """Everything queued; waits briefly, or until there is work if there is none at all."""
        asked: list[Asked] = []
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
                if len(asked) > batches.ROWS_MAX - TAKEN_AT_ONCE:
                    break
                work = self.work.get_nowait()
        return asked, events, True

    def _first(self) -> _Work:
        """Raises queue.Empty when it is time to check the settlements."""
        if self.owed:
            return self.work.get(timeout=RETRY_S)
        if time.monotonic() - self.written_at < AWAKE_S:
            return self.work.get(timeout=LINGER_S)
        self.asleep = True
        try:
            # Settlements queued before the flag was set are found here; later ones wake the thread.
            if self.settled:
                return _RING
            try:
                return self.work.get(timeout=IDLE_S)
            except queue.Empty:
                with self._use():
                    self._disconnect()
                return _RING if self.settled else self.work.get()
        finally:
            self.asleep = False

    def _pile(self, most: int = OWED_MAX) -> list[Settlement]:
        settlements: list[Settlement] = []
        with suppress(IndexError):
            while len(settlements) < most:
                settlements.append(self.settled.popleft())
        return settlements

    def _write(self, asked: list[Asked], settlements: list[Settlement]) -> None:
        waiting = [each for each in asked if not each.future.done()]
        reservations = [each.reservation for each in waiting]
        failed = False
        try:
            for start in range(0, max(len(settlements), 1), batches.ROWS_MAX):
                part = settlements[start : start + batches.ROWS_MAX]
                self._try(reservations if start == 0 else [], part)
            self.owed = []
        except Exception as problem:
            failed = True
            self._away(problem)
            # It is unknown whether the reservations were written: void them, so that they do not count.
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
            self._disconnect()  # the server was down and may be back
        hopes, self.hopes = self.hopes, True
        try:
            batches.write(reservations, settlements, hopes=hopes)
        except OperationalError as problem:
            if not _is_rolled_back(problem.__cause__):
                raise
            batches.write(reservations, settlements)
        self.written_at = time.monotonic()
        self.line = statements.own_connection()

    def _disconnect(self) -> None:
        self.line = None
        if self.direct is not None:
            self.direct.close()
        self.direct = None
        connection.close()

    def _away(self, problem: Exception) -> None:
        self._disconnect()
        if not self.away_since:
            self.away_since = time.monotonic()
            log.error("ledger_away", error=type(problem).__name__)

    def _deliver(self, waiting: list[Asked], failed: bool) -> None:
        loops: dict[asyncio.AbstractEventLoop, list[tuple[Asked, LLMError | None]]] = {}
        for each in waiting:
            answer = SiteUnavailable() if failed else each.reservation.refusal
            loops.setdefault(each.loop, []).append((each, answer))
        for loop, answers in loops.items():
            try:
                loop.call_soon_threadsafe(self._answer, answers)
            except RuntimeError:  # the loop has ended, and its calls with it
                self._give_back([each.reservation for each, error in answers if error is None])


def _is_rolled_back(problem: BaseException | None) -> bool:
    return getattr(problem, "sqlstate", None) in _ROLLED_BACK


def _is_lost(problem: Exception) -> bool:
    """Whether the connection or the server failed, rather than the batch."""
    from psycopg import InterfaceError
    from psycopg import OperationalError as Failed

    return isinstance(problem, Failed | InterfaceError) and not _is_rolled_back(problem)
