"""Runs asynchronous code from synchronous code: one event loop in one background thread per process.

The loop starts at the first ``run`` in a process (after a fork, because a child would inherit a loop without its
thread). It and its connection pools live until the process exits.

Asynchronous code reaches the database through Django's own asynchronous methods or
``sync_to_async(thread_sensitive=True)``, the default. Which thread then does the database work depends on the caller:

==================  =====================================================================================
under ASGI          the request's own thread (Django enters a ``ThreadSensitiveContext`` per request)
through this bridge the bridge's database thread, one per process; its stale connections are closed around each run
in tests            the test's own thread, when the coroutine is driven by ``async_to_sync``: inside its transaction
==================  =====================================================================================
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from typing import Any, ParamSpec, TypeVar

from anyio import CancelScope
from anyio.from_thread import BlockingPortal, start_blocking_portal
from asgiref.sync import SyncToAsync, ThreadSensitiveContext, sync_to_async
from django.db import close_old_connections, connections

P = ParamSpec("P")
T = TypeVar("T")

THREAD_NAME = "llm-bridge"
_KEPT_CONTEXT = ("structlog_", "request_", "trace_", "audit_", "wall_")
"""Prefixes of the context variables that are copied to the loop: request id and trace, audit actor, wall access."""


class _Bridge:
    """One process's loop and its database thread."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.database = ThreadSensitiveContext()
        self.executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"{THREAD_NAME}-database")
        SyncToAsync.context_to_thread_executor[self.database] = self.executor
        self._running: AbstractContextManager[BlockingPortal] = start_blocking_portal("asyncio", name=THREAD_NAME)
        self.portal = self._running.__enter__()

    def context(self) -> contextvars.Context:
        """A new context. The caller's own would send database work to the thread that is waiting for the result."""
        context = contextvars.Context()
        for variable, value in contextvars.copy_context().items():
            if variable.name.startswith(_KEPT_CONTEXT):
                context.run(variable.set, value)
        context.run(SyncToAsync.thread_sensitive_context.set, self.database)
        return context

    def close(self) -> None:
        self.portal.call(self.portal.stop, True)
        self._running.__exit__(None, None, None)
        with suppress(RuntimeError):
            # At process exit the executor has already shut down; its connections close with the process.
            self.executor.submit(connections.close_all).result()
        self.executor.shutdown()


_bridge: _Bridge | None = None
_inherited: list[_Bridge] = []
_lock = threading.Lock()


def run(fn: Callable[..., Awaitable[T]], *args: Any, timeout_s: float | None = None, **kwargs: Any) -> T:
    """Run ``fn(*args, **kwargs)`` on the process's loop, block, and return its result.

    Raises what ``fn`` raises; TimeoutError after ``timeout_s``; RuntimeError inside a transaction (the other thread
    cannot see uncommitted rows, and SQLite would lock) or when this thread already runs an event loop: await there
    instead. An exception raised in the waiting thread (a task's time limit, Ctrl-C) cancels the coroutine.
    """
    refuse_loop()
    refuse_transaction()
    bridge = _started()
    future = bridge.context().run(bridge.portal.start_task_soon, _guarded, fn, args, kwargs, timeout_s)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


async def _guarded(
    fn: Callable[..., Awaitable[T]], args: tuple[Any, ...], kwargs: dict[str, Any], timeout_s: float | None
) -> T:
    await sync_to_async(close_old_connections)()
    try:
        async with asyncio.timeout(timeout_s):
            return await fn(*args, **kwargs)
    finally:
        with CancelScope(shield=True):
            await sync_to_async(close_old_connections)()


def refuse_loop() -> None:
    """Raises RuntimeError when this thread runs an event loop: blocking would stall the loop or deadlock it."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError("bridge.run() blocks, and this thread runs an event loop: await the coroutine instead.")


def refuse_transaction() -> None:
    """Raises RuntimeError when this thread has a transaction open."""
    for connection in connections.all(initialized_only=True):
        if connection.in_atomic_block:
            raise RuntimeError(
                "A provider is not called inside transaction.atomic(): another thread cannot see what is not "
                "committed. Commit first, or use transaction.on_commit()."
            )


def _started() -> _Bridge:
    global _bridge
    bridge = _bridge
    if bridge is not None and bridge.pid == os.getpid():
        return bridge
    with _lock:
        if _bridge is None or _bridge.pid != os.getpid():
            _bridge = _Bridge()
        return _bridge


def close() -> None:
    """Cancel what runs on the loop, stop it and close its database connections. The next ``run`` starts a new one."""
    global _bridge
    with _lock:
        bridge, _bridge = _bridge, None
    if bridge is not None and bridge.pid == os.getpid():
        bridge.close()


def _forget_after_fork() -> None:
    """The child inherits the object without its threads, and possibly a lock that no thread will release."""
    global _bridge, _lock
    if _bridge is not None:
        # Keep a reference: garbage collection would join a thread that does not exist here.
        _inherited.append(_bridge)
    _bridge = None
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_forget_after_fork)
atexit.register(close)
