from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from llm_credentials.routing import health

DESTINATION = "to:sandbox|"


def _as_another_process() -> None:
    """Nothing of what this process remembers; Valkey stays as it is."""
    health.forget_here()


def _fail(times: int) -> None:
    for _ in range(times):
        health.failed(DESTINATION)


def test_destination_rests_after_failures_in_a_row() -> None:
    _fail(health.FAILURES - 1)
    assert health.cooling([DESTINATION]) == {}
    _fail(1)
    assert 0 < health.cooling([DESTINATION])[DESTINATION] <= health.OPEN_S


def test_destination_that_succeeds_in_between_does_not_rest() -> None:
    _fail(health.FAILURES - 1)
    health.succeeded(DESTINATION)
    _fail(health.FAILURES - 1)
    assert health.cooling([DESTINATION]) == {}


def test_destination_rests_in_every_process() -> None:
    _fail(health.FAILURES)
    _as_another_process()
    assert DESTINATION in health.cooling([DESTINATION])


def test_failures_of_several_processes_add_up() -> None:
    for _ in range(health.FAILURES):
        _as_another_process()
        _fail(1)
    _as_another_process()
    assert DESTINATION in health.cooling([DESTINATION])


def test_success_in_one_process_counts_in_the_others() -> None:
    _fail(health.FAILURES - 1)
    _as_another_process()
    health.cooling([DESTINATION])
    health.succeeded(DESTINATION)
    _as_another_process()
    _fail(1)
    assert health.cooling([DESTINATION]) == {}


def test_key_rests_as_long_as_it_was_told_and_a_minute_at_most() -> None:
    health.rest("user:1", 20.0)
    health.rest("user:2", 1e9)
    health.rest("user:3", None)
    health.rest("user:4", -5.0)
    seconds = health.cooling(["user:1", "user:2", "user:3", "user:4", "user:5"])
    assert {target: round(left) for target, left in seconds.items()} == {
        "user:1": 20,
        "user:2": health.COOLDOWN_MAX_S,
        "user:3": health.COOLDOWN_UNSAID_S,
    }


def test_known_says_when_it_has_not_looked() -> None:
    assert health.known(["user:1"]) is None
    health.cooling(["user:1"])
    assert health.known(["user:1"]) == {}


def test_without_valkey_this_process_goes_by_what_it_saw(settings: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings.REDIS_URL = f"redis://127.0.0.1:{taken.getsockname()[1]}/0"
    health.rest("user:1", 20.0)
    _fail(health.FAILURES)
    assert set(health.cooling(["user:1", "user:2", DESTINATION])) == {"user:1", DESTINATION}
    health.succeeded(DESTINATION)


def test_valkey_that_comes_back_is_asked_again(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    health.rest("user:1", 20.0)
    _as_another_process()
    good = settings.REDIS_URL
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings.REDIS_URL = f"redis://127.0.0.1:{taken.getsockname()[1]}/0"
    monkeypatch.setattr(health, "AWAY_FOR_S", 0.0)
    monkeypatch.setattr(health, "SEEN_FOR_S", 0.0)
    assert health.cooling(["user:1"]) == {}
    settings.REDIS_URL = good
    assert set(health.cooling(["user:1"])) == {"user:1"}


async def test_look_asks_once_for_all_who_want_to_know(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    refresh = health._refresh

    def counted(targets: list[str], now: float) -> None:
        asked.append(targets)
        refresh(targets, now)

    monkeypatch.setattr(health, "_refresh", counted)
    await sync_to_async(_fail)(health.FAILURES)
    _as_another_process()
    targets = frozenset({DESTINATION})
    found = await asyncio.gather(*(health.look(targets) for _ in range(20)))
    assert all(DESTINATION in cooling for cooling in found)
    assert asked == [[DESTINATION]]


async def test_look_learns_ahead_what_others_saw(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SEEN_FOR_S", "AHEAD_S"):
        monkeypatch.setattr(health, name, 600.0)
    targets = frozenset({DESTINATION})
    assert await health.look(targets) == {}
    await sync_to_async(_fail_elsewhere)()
    assert await health.look(targets) == {}, "nobody waits for what is asked ahead"
    await asyncio.gather(*health._under_way.values())
    await asyncio.sleep(0)
    assert DESTINATION in await health.look(targets)


def _fail_elsewhere() -> None:
    """Another process's failures: in Valkey alone."""
    mine = health._local
    _as_another_process()
    _fail(health.FAILURES)
    health._local = mine
