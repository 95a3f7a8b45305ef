"""The writer shared by all calls of a process: it batches their writes into common transactions.

Reserving waits for the commit, so a call is sent only after its reservation is durable. Settling does not wait: a
settlement goes with the next reservation, or alone after ``LINGER_S``. If the process is killed in between, the row
stays reserved until the sweep closes it at its worst case. ``flush`` waits for pending writes; call it before showing
the ledger.

While the database is down, a call waits at most ``WAIT_S`` and is not sent. Settlements are kept and written when the
database is back.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections import deque
from collections.abc import Sequence
from typing import Final

import structlog
from asgiref.sync import sync_to_async
from django.db import DatabaseError, InterfaceError

from llm_credentials.ledger import batches
from llm_credentials.ledger.entries import Reservation, Settlement
from llm_credentials.ledger.executor import Asked, Executor
from llm_credentials.providers import SiteUnavailable

log = structlog.get_logger(__name__)

WAIT_S: Final = 1.8
"""How long a call waits for its reservation."""
GATHER_S: Final = 0.001
"""Under high load, how long the first reservation of a batch waits for others."""

inline = False
"""Write at once on the caller's database thread: for tests, whose transaction no other thread can see."""


def _expire(group: list[Asked]) -> None:
    for each in group:
        if not each.future.done():
            each.future.set_exception(SiteUnavailable())


async def reserve(reservation: Reservation) -> None:
    """Returns once the reservation is durable. Raises BudgetExceeded, SiteUnavailable; it does not count then."""
    if inline:
        await sync_to_async(_write_here)([reservation], [])
        if reservation.refusal is not None:
            raise reservation.refusal
        return
    loop = asyncio.get_running_loop()
    asked = Asked(reservation, loop)
    if (company := _gathering.get(loop)) is not None:
        company.append(asked)
    else:
        _gathering[loop] = [asked]
        if (executor := _writer()).crowded:
            loop.call_later(GATHER_S, _hand_over, loop)
        elif executor.line is not None:
            _hand_over(loop)  # sent at once; what else arrives in this loop iteration follows as one batch
        else:
            loop.call_soon(_hand_over, loop)
    await asked.future


_gathering: dict[asyncio.AbstractEventLoop, list[Asked]] = {}
"""What each loop has requested and not yet handed over."""


def _hand_over(loop: asyncio.AbstractEventLoop) -> None:
    asked = _gathering.pop(loop)
    waiting = _waiting.get(loop)
    if waiting is None:
        for ended in [other for other in _waiting if other.is_closed()]:
            del _waiting[ended]
        waiting = _waiting[loop] = deque()
        loop.call_later(WAIT_S, _look, loop)
    while waiting and all(each.future.done() for each in waiting[0][1]):
        waiting.popleft()
    waiting.append((loop.time() + WAIT_S, asked))
    _writer().take(asked, loop)


_waiting: dict[asyncio.AbstractEventLoop, deque[tuple[float, list[Asked]]]] = {}
"""What each loop has handed over, and its deadline; one timer per loop."""


def _look(loop: asyncio.AbstractEventLoop) -> None:
    waiting, now = _waiting[loop], loop.time()
    while waiting and (waiting[0][0] <= now or all(each.future.done() for each in waiting[0][1])):
        _expire(waiting.popleft()[1])
    if waiting:
        loop.call_at(waiting[0][0], _look, loop)
    else:
        del _waiting[loop]


async def settle(settlement: Settlement) -> None:
    """Queue it to be written soon."""
    if inline:
        await sync_to_async(_write_here)([], [settlement])
    else:
        _writer().settle(settlement)


def flush(limit_s: float = WAIT_S) -> bool:
    """Wait until this process's settlements are in the database; False on timeout. Blocks, so not for event loops."""
    here = _current
    return here is None or here.pid != os.getpid() or here.flush(limit_s)


async def flushed(limit_s: float = WAIT_S) -> bool:
    """The same without blocking."""
    here = _current
    return here is None or here.is_idle() or await asyncio.to_thread(flush, limit_s)


def close() -> None:
    """Write what is pending and end the thread; the next call starts another."""
    global _current
    with _lock:
        here, _current = _current, None
    if here is not None and here.pid == os.getpid():
        here.end(WAIT_S + 1)


def _write_here(reservations: Sequence[Reservation], settlements: Sequence[Settlement]) -> None:
    try:
        batches.write(reservations, settlements)
    except (DatabaseError, InterfaceError) as problem:
        log.error("ledger_not_written", error=type(problem).__name__)
        if reservations:
            raise SiteUnavailable from None


_current: Executor | None = None
_inherited: list[Executor] = []
_lock = threading.Lock()


def _writer() -> Executor:
    global _current
    here = _current
    if here is not None and not here.has_ended:  # None in a forked child: see _forget_after_fork
        return here
    with _lock:
        if _current is None or _current.has_ended:
            _current = Executor()
        return _current


def _forget_after_fork() -> None:
    """The child inherits the object without its thread, and perhaps a lock that nobody will release."""
    global _current, _lock
    if _current is not None:
        _inherited.append(_current)  # keeps a reference: SQLite connections must not be closed in a child
    _current = None
    _lock = threading.Lock()
    _gathering.clear()
    _waiting.clear()


os.register_at_fork(after_in_child=_forget_after_fork)
atexit.register(close)
