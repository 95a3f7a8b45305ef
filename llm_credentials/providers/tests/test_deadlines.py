"""``until`` does what ``asyncio.timeout_at`` does."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from llm_credentials.providers.deadlines import until


async def test_what_waits_too_long_ends_with_a_timeout() -> None:
    loop = asyncio.get_running_loop()
    with pytest.raises(TimeoutError), until(loop.time()):
        await asyncio.Event().wait()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)


async def test_what_ends_in_time_and_what_fails_is_left_alone() -> None:
    far = asyncio.get_running_loop().time() + 60
    with until(far):
        await asyncio.sleep(0)
    with pytest.raises(KeyError), until(far):
        raise KeyError


async def test_outer_deadline_is_not_taken_for_the_inner_one() -> None:
    now = asyncio.get_running_loop().time()
    with pytest.raises(TimeoutError), until(now):
        try:
            with until(now + 60):
                await asyncio.Event().wait()
        except TimeoutError:
            pytest.fail("the inner deadline is a minute away")


async def test_cancelled_task_is_cancelled_even_as_its_deadline_passes() -> None:
    begun = asyncio.Event()

    async def waits() -> None:
        with until(asyncio.get_running_loop().time()):
            begun.set()
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()  # the deadline
            await asyncio.Event().wait()

    task = asyncio.ensure_future(waits())
    await begun.wait()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
