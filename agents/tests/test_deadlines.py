from __future__ import annotations

import asyncio

import pytest

from agents.deadlines import Deadline


async def test_what_is_awaited_ends_at_the_deadline_and_later_waits_do_not_begin() -> None:
    deadline = Deadline(asyncio.get_running_loop().time() + 0.01)
    for _ in range(2):
        with pytest.raises(TimeoutError), deadline:
            await asyncio.Event().wait()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_what_is_awaited_outside_does_not_end() -> None:
    loop = asyncio.get_running_loop()
    deadline = Deadline(loop.time())
    over = loop.create_future()
    loop.call_later(0.01, over.set_result, "waited")
    assert await over == "waited"
    with pytest.raises(TimeoutError), deadline:
        pass


async def test_closed_in_time_it_does_nothing() -> None:
    loop = asyncio.get_running_loop()
    deadline = Deadline(loop.time() + 0.01)
    deadline.close()
    over = loop.create_future()
    loop.call_later(0.03, over.set_result, "waited")
    with deadline:
        assert await over == "waited"


async def waiting_for_ever() -> tuple[Deadline, asyncio.Task[None]]:
    deadline = Deadline(asyncio.get_running_loop().time() + 60)
    began = asyncio.Event()

    async def waiting() -> None:
        with deadline:
            began.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(waiting())
    await began.wait()
    return deadline, task


async def test_cancellation_by_somebody_else_stays_one() -> None:
    deadline, task = await waiting_for_ever()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    deadline.close()


async def test_cancellation_at_the_deadline_stays_one() -> None:
    deadline, task = await waiting_for_ever()
    deadline._end()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    deadline.close()
