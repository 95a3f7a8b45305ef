from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth.models import User
from django.db import transaction

from llm_credentials import bridge
from project.tests import apart


@pytest.fixture(autouse=True)
def _closed_afterwards() -> Iterator[None]:
    yield
    bridge.close()


async def _where(*values: int) -> tuple[int, int, asyncio.AbstractEventLoop]:
    return sum(values), threading.get_ident(), asyncio.get_running_loop()


def test_bridge_runs_on_one_loop_in_one_other_thread() -> None:
    total, thread, loop = bridge.run(_where, 1, 2)
    again = bridge.run(_where)
    assert total == 3
    assert thread != threading.get_ident()
    assert again[1:] == (thread, loop)


def test_bridge_serves_many_threads_with_one_loop() -> None:
    with ThreadPoolExecutor(8) as pool:
        loops = {loop for _, _, loop in pool.map(lambda number: bridge.run(_where, number), range(64))}
    assert len(loops) == 1


def test_bridge_raises_what_the_coroutine_raises() -> None:
    async def broken() -> None:
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        bridge.run(broken)


def test_bridge_stops_after_its_timeout() -> None:
    cancelled = threading.Event()

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(TimeoutError):
        bridge.run(endless, timeout_s=0.05)
    assert cancelled.is_set()


def test_bridge_passes_keyword_arguments_on() -> None:
    async def named(*, word: str) -> str:
        return word

    assert bridge.run(named, word="yes") == "yes"


@pytest.mark.django_db
def test_bridge_refuses_inside_a_transaction() -> None:
    with transaction.atomic(), pytest.raises(RuntimeError, match="atomic"):
        bridge.run(_where)


def test_bridge_refuses_from_its_own_loop() -> None:
    async def nested() -> None:
        bridge.run(_where)

    with pytest.raises(RuntimeError, match="await the coroutine"):
        bridge.run(nested)


def test_bridge_refuses_from_any_running_loop() -> None:
    async def outer() -> None:
        bridge.run(_where)

    with pytest.raises(RuntimeError, match="await the coroutine"):
        asyncio.run(outer())


def test_bridge_works_from_the_thread_of_synchronous_code_under_a_loop() -> None:
    """As a synchronous view under ASGI: the coroutine must not wait for the thread that waits for it."""

    async def inner() -> int:
        return await sync_to_async(lambda: 7)()

    async def outer() -> int:
        return await sync_to_async(bridge.run)(inner, timeout_s=5)

    assert async_to_sync(outer)() == 7
    assert asyncio.run(outer()) == 7


@pytest.mark.django_db(transaction=True)
def test_bridge_reaches_the_database_in_one_thread_of_its_own() -> None:
    User.objects.create_user("alice")

    def look() -> tuple[int, int]:
        return threading.get_ident(), User.objects.count()

    async def ask() -> tuple[int, int]:
        return await sync_to_async(look)()

    first, second = bridge.run(ask), bridge.run(ask)
    assert first == second
    assert first[0] != threading.get_ident()
    assert first[1] == 1


@pytest.mark.django_db(transaction=True)
def test_bridge_writes_are_seen_by_the_caller() -> None:
    bridge.run(User.objects.acreate, username="bob")
    assert User.objects.filter(username="bob").exists()


def test_bridge_starts_anew_in_a_forked_child() -> None:
    """As a Celery worker forks: the parent's loop has no thread in the child."""
    assert apart.ended(apart.started(_fork_beside_the_bridge)) == 0


def _fork_beside_the_bridge() -> None:
    _, thread, _ = bridge.run(_where)
    child = os.fork()
    if child == 0:
        try:
            total, _, _ = bridge.run(_where, 20, 22, timeout_s=60)
            os._exit(total)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
    assert bridge.run(_where)[1] == thread


def test_bridge_closed_cancels_what_runs_and_starts_again() -> None:
    started, cancelled = threading.Event(), threading.Event()

    async def endless() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(bridge.run, endless)
        assert started.wait(20)
        bridge.close()
        assert waiting.exception(timeout=20) is not None
    assert cancelled.is_set()
    assert bridge.run(_where, 1)[0] == 1


def test_bridge_takes_the_request_id_of_the_logs_along() -> None:
    import structlog

    async def seen() -> dict[str, str]:
        return structlog.contextvars.get_contextvars()

    with structlog.contextvars.bound_contextvars(request_id="r-1"):
        assert bridge.run(seen) == {"request_id": "r-1"}
