"""One deadline for many short waits: a single timer, where ``asyncio.timeout_at`` would create one for each wait."""

from __future__ import annotations

import asyncio
from typing import Any


class Deadline:
    """Code awaited in ``with deadline:`` gets TimeoutError at the deadline. Call ``close`` at the end.

    Cancellation from elsewhere passes through, as with ``asyncio.timeout_at``.
    """

    __slots__ = ("_cancelled", "_cancelling", "_is_over", "_task", "_timer")

    def __init__(self, deadline: float) -> None:
        """``deadline``: on the clock of the running event loop."""
        self._task: asyncio.Task[Any] | None = None
        self._cancelling = 0
        self._cancelled = self._is_over = False
        self._timer = asyncio.get_running_loop().call_at(deadline, self._end)

    def __enter__(self) -> None:
        if self._is_over:
            raise TimeoutError
        self._task = task = asyncio.current_task()
        self._cancelling = task.cancelling() if task else 0

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        task, self._task = self._task, None
        if not self._cancelled or task is None:
            return
        self._cancelled = False
        if task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from None

    def close(self) -> None:
        self._timer.cancel()

    def _end(self) -> None:
        self._is_over = True
        if self._task is not None:
            self._cancelled = True
            self._task.cancel()
