"""Running work in this process, which ends when what it depends on is revoked.

Each piece of work declares its dependencies (a user, their session, a token, a key). The listener thread checks the
database when something of that user's changes, and every two seconds in any case, for all work at once. Work that has
lost its right is notified on its own event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from llm_credentials.live import changes, listener
from llm_credentials.live.access import Reason, Right, lost
from llm_credentials.live.changes import Holder

ASKED_EVERY_S = 2.0

_calls: set[Call] = set()
_questioned: set[Any] = set()
_asked_at = 0.0


class Call:
    """One piece of work. ``right`` may change while it runs, as a fallback chain moves from one key to the next.

    It awaits I/O inside ``with call:``.
    """

    __slots__ = ("_cancelled", "_cancelling", "_on_end", "_task", "loop", "reason", "right")

    def __init__(self, right: Right, on_end: Callable[[Reason], None] | None = None) -> None:
        """``on_end``: called once, on the event loop on which this object was created."""
        self.right = right
        self.reason: Reason | None = None
        self.loop = asyncio.get_running_loop()
        self._on_end = on_end
        self._task: asyncio.Task[Any] | None = None
        self._cancelled = False
        self._cancelling = 0

    def __enter__(self) -> Call:
        """Cancels what is awaited inside when the right is lost. Raises Ended, also if it was lost before."""
        if self.reason is not None:
            raise Ended(self.reason)
        self._task = asyncio.current_task()
        self._cancelling = self._task.cancelling() if self._task else 0
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        task, self._task = self._task, None
        if not self._cancelled or task is None:
            return
        self._cancelled = False
        if task.uncancel() <= self._cancelling and kind is asyncio.CancelledError and self.reason is not None:
            raise Ended(self.reason) from None

    @property
    def is_awaited(self) -> bool:
        """Whether a task is inside the context now."""
        return self._task is not None

    def end(self, reason: Reason) -> None:
        """Call on its own loop."""
        if self.reason is not None:
            return
        self.reason = reason
        if self._task is not None:
            self._cancelled = True
            self._task.cancel()
        if self._on_end is not None:
            self._on_end(reason)


class Ended(Exception):
    """A dependency was revoked."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class under_way:  # noqa: N801 (used like a function; contextlib's own way costs several times as much)
    """Context manager: registers the call while it runs."""

    __slots__ = ("call",)

    def __init__(self, call: Call) -> None:
        self.call = call

    def __enter__(self) -> Call:
        listener.ensure(wait_s=0)
        with changes.lock:
            _calls.add(self.call)
        return self.call

    def __exit__(self, *_: object) -> None:
        with changes.lock:
            _calls.discard(self.call)
        self.call._on_end = None  # breaks a reference cycle between the call and its callback


def _question(user_id: Any) -> None:
    _questioned.add(user_id)


def _look() -> None:
    global _asked_at
    with changes.lock:
        users = set(_questioned)
        _questioned.clear()
        calls = list(_calls)
    now = time.monotonic()
    if now - _asked_at >= ASKED_EVERY_S:
        _asked_at = now
    elif None not in users:
        calls = [call for call in calls if call.right.user_id in users]
    asked = {call: call.right for call in calls if call.reason is None}
    if not asked:
        return
    gone = lost(set(asked.values()))
    for call, right in asked.items():
        if right in gone:
            with suppress(RuntimeError):  # a closed loop runs nothing any more
                call.loop.call_soon_threadsafe(_end_if_still, call, right, gone[right])


def _end_if_still(call: Call, right: Right, reason: Reason) -> None:
    """A chain that has moved on to its next key does not need the previous one."""
    if call.right == right or reason != "key":
        call.end(reason)


changes.remember(Holder(forget=_question, is_holding=lambda: bool(_calls), look=_look))
