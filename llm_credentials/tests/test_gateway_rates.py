from __future__ import annotations

from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.cache import cache

from llm_credentials.gateway import rates
from llm_credentials.gateway.errors import Refused


@pytest.fixture(autouse=True)
def three_a_day(settings: Any) -> None:
    settings.LLM_RATES = {**settings.LLM_RATES, "gateway": {"user": "3/d", "token": "100/d"}}


async def _let_in(user: str, times: int, *policy: str) -> int:
    count = 0
    for _ in range(times):
        try:
            rates.admit(user, "token", policy)
        except Refused:
            continue
        count += 1
    return count


async def _told() -> None:
    while rates._is_telling() and (telling := rates._counters.telling):
        await telling


def test_admit_lets_in_what_the_limit_says_and_says_when_to_come_again() -> None:
    async def calls() -> Refused:
        assert await _let_in("alice", 3) == 3
        with pytest.raises(Refused) as caught:
            rates.admit("alice", "token", ())
        return caught.value

    said = async_to_sync(calls)().problem
    assert (said.status, said.code) == (429, "rate_limit_exceeded")
    assert said.retry_after_s and said.retry_after_s >= 1


def test_admit_counts_each_user_alone() -> None:
    async def calls() -> list[int]:
        return [await _let_in("alice", 5), await _let_in("bob", 5)]

    assert async_to_sync(calls)() == [3, 3]


def test_admit_holds_the_policys_rate_too() -> None:
    async def calls() -> int:
        return await _let_in("alice", 5, "1/d")

    assert async_to_sync(calls)() == 1


def test_admit_hears_what_other_processes_let_in() -> None:
    async def first() -> int:
        count = await _let_in("alice", 2)
        await _told()
        return count

    async def second() -> int:
        count = await _let_in("alice", 1)
        await _told()
        return count + await _let_in("alice", 5)

    assert async_to_sync(first)() == 2
    rates.forget()  # as another process, which knows nothing of the first
    assert async_to_sync(second)() == 1
    assert any(cache.get(key) == 3 for key in rates._counters.windows)
