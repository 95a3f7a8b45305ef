"""A cheaper ``asyncio.timeout`` for every call: the same, without two coroutines and an object."""

from __future__ import annotations

import asyncio
from types import TracebackType


class until:  # noqa: N801 (used like a function)
    """Context manager: ends what is awaited inside at this loop time. Raises TimeoutError then."""

    __slots__ = ("_cancelling", "_expired", "_task", "_timer", "_when")

    def __init__(self, when: float) -> None:
        self._when = when

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task, self._cancelling, self._expired = task, task.cancelling(), False
        self._timer = task.get_loop().call_at(self._when, self._expire)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._timer.cancel()
        if not self._expired:
            return
        # If the task was cancelled by somebody else as well, the cancellation wins.
        if self._task.uncancel() <= self._cancelling and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise TimeoutError from error

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()
