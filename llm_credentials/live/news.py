"""Wakes pages that wait for a user's data to change, to show it live."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from llm_credentials.live import changes, listener
from llm_credentials.live.changes import Holder


class Reader:
    """Waits on the event loop on which it was created."""

    __slots__ = ("_loop", "_news", "user_id")

    def __init__(self, user_id: Any) -> None:
        self.user_id = user_id
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()

    async def wait(self, limit_s: float) -> bool:
        """Until something of the user's has changed since the last call; False on timeout."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):  # wait_for would lose a cancellation that comes with the news
                await self._news.wait()
        has_news = self._news.is_set()
        self._news.clear()
        return has_news

    def tell(self) -> None:
        """Thread-safe."""
        with suppress(RuntimeError):  # a closed loop waits for nothing
            self._loop.call_soon_threadsafe(self._news.set)


_readers: set[Reader] = set()


@contextmanager
def reading(user_id: Any) -> Iterator[Reader]:
    reader = Reader(user_id)
    listener.ensure(wait_s=0)
    with changes.lock:
        _readers.add(reader)
    try:
        yield reader
    finally:
        with changes.lock:
            _readers.discard(reader)


def _tell(user_id: Any) -> None:
    for reader in _readers:
        if user_id is None or reader.user_id == user_id:
            reader.tell()


changes.remember(Holder(forget=_tell, is_holding=lambda: bool(_readers)))
