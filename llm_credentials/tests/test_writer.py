"""The ledger's own thread, on real transactions: groups, kills and a database that is away."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth.models import User
from django.db import OperationalError, connection, transaction

from llm_credentials.ledger import batches, books, budgets, executor, writer
from llm_credentials.ledger.budgets import Limits
from llm_credentials.ledger.entries import Entry, Outcome, Reservation, Settlement, State, reservation
from llm_credentials.ledger.prices import Price
from llm_credentials.models import BudgetCounter, SystemCredential, UsageRecord, UserCredential
from llm_credentials.providers import BudgetExceeded, RequestRejected, SiteUnavailable, Usage
from llm_credentials.tests.factories import SystemCredentialFactory, UserCredentialFactory
from project.tests import apart
from project.tests.servers import wait_until

pytestmark = pytest.mark.django_db(transaction=True)
on_postgresql = pytest.mark.skipif("connection.vendor != 'postgresql'", reason="only there is a message under way")
on_sqlite = pytest.mark.skipif("connection.vendor != 'sqlite'", reason="a lock of SQLite, or its direct connection")

TEN = Limits(own_monthly_usd=Decimal("1.00"))
DIME = Price(Decimal("0.10"), "test")


@pytest.fixture(autouse=True)
def _own_thread() -> Iterator[None]:
    writer.close()
    yield
    writer.close()


@pytest.fixture
def slow_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine takes no connection for stale or idle."""
    for name in ("STALE_S", "IDLE_S", "AWAKE_S"):
        monkeypatch.setattr(executor, name, 60.0)


def _asked(user: User, limits: Limits = TEN, **changes: Any) -> Reservation:
    values: dict[str, Any] = {"call_id": uuid4(), "user_id": user.pk, "task": "", "provider": "openai", "model": "gpt"}
    entry = Entry(**{**values, "credential_id": None, "key_owner": "user", **changes})
    return reservation(entry, limits, DIME, 10)


def _spent(asked: Reservation, usd: str, key: UserCredential | None = None) -> Settlement:
    outcome = Outcome(
        state=State.SETTLED,
        outcome="ok",
        latency_ms=5,
        usage=Usage(input_tokens=10, output_tokens=5),
        price=Price(Decimal(usd), "test"),
    )
    return Settlement(outcome=outcome, reservation=asked, key=(UserCredential, key.pk) if key else None)


async def _all(asked: list[Reservation]) -> list[Any]:
    return await asyncio.gather(*(writer.reserve(each) for each in asked), return_exceptions=True)


def test_writer_puts_calls_that_wait_together_into_one_transaction(alice: User, monkeypatch: Any) -> None:
    groups: list[int] = []
    write = batches.write

    def counting(reservations: Any, settlements: Any, **how: Any) -> int:
        groups.append(len(reservations))
        return write(reservations, settlements, **how)

    monkeypatch.setattr(batches, "write", counting)
    assert async_to_sync(_all)([_asked(alice) for _ in range(10)]) == [None] * 10
    assert UsageRecord.objects.reserved().count() == 10
    assert len(groups) < 10


def test_writer_admits_exactly_ten_of_a_hundred_on_a_budget_for_ten(alice: User) -> None:
    answers = async_to_sync(_all)([_asked(alice) for _ in range(100)])
    assert sum(answer is None for answer in answers) == 10
    assert sum(isinstance(answer, BudgetExceeded) for answer in answers) == 90
    assert UsageRecord.objects.count() == 10
    assert BudgetCounter.objects.get().used_e8 == 10**8


def test_budget_holds_across_processes(alice: User) -> None:
    """Three processes, each with its own thread, ask for forty calls each."""
    children = [apart.started(_ask_for_forty, alice) for _ in range(3)]
    assert sum(apart.ended(child) for child in children) == 10
    assert UsageRecord.objects.count() == 10


def _ask_for_forty(user: User) -> None:
    """Ends with the number of those admitted."""
    answers = asyncio.run(_all([_asked(user) for _ in range(40)]))
    writer.close()
    sys.exit(sum(answer is None for answer in answers))


def test_settlements_are_written_once_with_what_they_give_back(alice: User) -> None:
    key = UserCredentialFactory(user=alice)
    asked = [_asked(alice) for _ in range(10)]

    async def go() -> None:
        await _all(asked)
        for each in asked:
            await writer.settle(_spent(each, "0.01", key))
            await writer.settle(_spent(each, "9.99", key))  # again, and dearer
        assert await writer.flushed()

    async_to_sync(go)()
    assert set(UsageRecord.objects.values_list("state", "cost_usd")) == {("settled", Decimal("0.01"))}
    assert BudgetCounter.objects.get().used_e8 == 10**7
    key.refresh_from_db()
    assert key.request_count == 10
    assert key.last_used_at is not None


def test_one_odd_call_does_not_spoil_the_group(alice: User) -> None:
    """Its user is gone."""
    gone = _asked(alice, Limits(), user_id=987_654_321)
    answers = async_to_sync(_all)([_asked(alice), gone, _asked(alice)])
    assert [type(answer).__name__ for answer in answers] == ["NoneType", "RequestRejected", "NoneType"]
    assert UsageRecord.objects.count() == 2


def test_caller_that_leaves_while_it_waits_is_not_charged(alice: User) -> None:
    async def go() -> UUID:
        asked = _asked(alice)
        waiting = asyncio.ensure_future(writer.reserve(asked))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return asked.entry.id

    async_to_sync(go)()
    wait_until(lambda: not UsageRecord.objects.reserved().exists() and writer.flush(), "what was given back")
    assert set(UsageRecord.objects.values_list("state", flat=True)) <= {"void"}
    assert sum(BudgetCounter.objects.values_list("used_e8", flat=True)) == 0


def test_database_that_is_away_refuses_at_once_and_keeps_what_has_ended(alice: User, monkeypatch: Any) -> None:
    first, second = _asked(alice), _asked(alice)
    write, away = batches.write, True

    def failing(*args: Any, **how: Any) -> int:
        if away:
            raise OperationalError("away")
        return write(*args, **how)

    async def go() -> None:
        await writer.reserve(first)
        monkeypatch.setattr(batches, "write", failing)
        monkeypatch.setattr(batches, "message", failing)
        await writer.settle(_spent(first, "0.02"))
        with pytest.raises(SiteUnavailable) as caught:
            await writer.reserve(second)
        assert caught.value.status_code == 503

    async_to_sync(go)()
    assert UsageRecord.objects.get().state == "reserved"
    away = False
    wait_until(writer.flush, "what was owed")
    assert list(UsageRecord.objects.values_list("state", "cost_usd")) == [("settled", Decimal("0.02"))]


def _wait_for_the_thread() -> None:
    wait_until(writer._writer().is_idle, "the thread to leave its connection alone")


@pytest.mark.usefixtures("slow_clock")
def test_loop_writes_by_itself_once_the_thread_has_a_connection(alice: User, monkeypatch: Any) -> None:
    """And moves the counters of both kinds of keys; on PostgreSQL by the function that the migrations have made."""
    own, sites = UserCredentialFactory(user=alice), SystemCredentialFactory()
    asked = [_asked(alice) for _ in range(11)]

    async def go() -> list[Any]:
        monkeypatch.setattr(executor, "LINGER_S", 60.0)  # the thread leaves the pile alone
        await writer.reserve(asked[0])
        _wait_for_the_thread()
        monkeypatch.setattr(batches, "write", None)
        await writer.settle(_spent(asked[0], "0.10", own))
        outcome = _spent(asked[0], "0.10").outcome
        await writer.settle(Settlement(outcome=outcome, reservation=None, key=(SystemCredential, sites.pk)))
        answers = [await _all([each]) for each in asked[1:-1]]
        monkeypatch.undo()  # the eleventh does not fit, which the thread finds out
        return [*answers, *await _all(asked[-1:])]

    *admitted, refused = async_to_sync(go)()
    assert admitted == [[None]] * 9
    assert isinstance(refused, BudgetExceeded)
    assert BudgetCounter.objects.get().used_e8 == 10**8
    assert UsageRecord.objects.filter(state="settled").count() == 1
    for key in (own, sites):
        key.refresh_from_db()
        assert key.request_count == 1
        assert key.last_used_at is not None


@on_postgresql
@pytest.mark.usefixtures("slow_clock")
def test_group_whose_loop_has_ended_is_brought_in_and_does_not_count(alice: User) -> None:
    """This test's transaction holds the budget's counter until the loop is closed."""
    first, second = _asked(alice), _asked(alice)

    async def begin() -> None:
        await writer.reserve(first)
        await writer.settle(_spent(first, "0.02"))
        await writer.flushed()

    async def leave() -> None:
        waiting = asyncio.ensure_future(writer.reserve(second))
        for _ in range(3):
            await asyncio.sleep(0)
        assert writer._writer().query is not None
        waiting.cancel()

    asyncio.run(begin())
    with transaction.atomic():
        assert list(BudgetCounter.objects.select_for_update())
        asyncio.run(leave())
    assert writer.flush(20)
    wait_until(lambda: writer.flush(20) and not UsageRecord.objects.reserved().exists(), "what was given back")
    assert sorted(UsageRecord.objects.values_list("state", flat=True)) == ["settled", "void"]
    assert BudgetCounter.objects.get().used_e8 == 2 * 10**6


@on_postgresql
@pytest.mark.usefixtures("slow_clock")
def test_connection_that_is_cut_is_made_anew(alice: User) -> None:
    asked = [_asked(alice) for _ in range(4)]

    async def go() -> list[Any]:
        await writer.reserve(asked[0])
        await sync_to_async(_cut)()
        return [await _all([each]) for each in asked[1:]]

    def _cut() -> None:
        line = writer._writer().line
        assert line is not None
        pid = line.pgconn.backend_pid
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s)", [pid])
        wait_until(lambda: not _is_there(pid), "the end of the ledger's connection")

    def _is_there(pid: int) -> bool:
        with connection.cursor() as cursor:
            cursor.execute("SELECT FROM pg_stat_activity WHERE pid = %s", [pid])
            return cursor.fetchone() is not None

    answers = [type(answer).__name__ for (answer,) in async_to_sync(go)()]
    assert answers == ["SiteUnavailable", "NoneType", "NoneType"]
    wait_until(writer.flush, "what was owed")
    assert UsageRecord.objects.reserved().count() == 3
    assert BudgetCounter.objects.get().used_e8 == 3 * 10**7


@on_sqlite
@pytest.mark.usefixtures("slow_clock")
def test_loop_goes_on_while_somebody_else_writes_to_sqlite(alice: User, monkeypatch: Any) -> None:
    """The thread waits in its place."""
    monkeypatch.setattr(writer, "WAIT_S", 60.0)
    holder = sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None, check_same_thread=False)

    async def go() -> None:
        await writer.reserve(_asked(alice))
        _wait_for_the_thread()
        holder.execute("BEGIN IMMEDIATE")
        waiting = asyncio.ensure_future(writer.reserve(_asked(alice)))
        for _ in range(3):
            await asyncio.sleep(0)
        wait_until(writer._writer().using.locked, "the thread to take it")
        assert not waiting.done()
        holder.execute("COMMIT")
        await waiting

    async_to_sync(go)()
    holder.close()
    assert UsageRecord.objects.reserved().count() == 2


@on_sqlite
@pytest.mark.usefixtures("slow_clock")
def test_settlement_that_no_reservation_takes_along_is_written_all_the_same(alice: User, monkeypatch: Any) -> None:
    first, second, third = (_asked(alice) for _ in range(3))

    async def go() -> None:
        await writer.reserve(first)
        _wait_for_the_thread()
        await writer.reserve(second)
        await writer.settle(_spent(second, "0.01"))

    async_to_sync(go)()
    settled = UsageRecord.objects.filter(state="settled")
    wait_until(settled.exists, "what the thread writes by itself")
    monkeypatch.setattr(executor, "LINGER_S", 60.0)

    async def leave() -> None:
        await writer.reserve(third)
        await writer.settle(_spent(third, "0.01"))

    async_to_sync(leave)()
    writer.close()
    assert settled.count() == 2


@on_sqlite
def test_locked_sqlite_is_no_hang(alice: User, monkeypatch: Any) -> None:
    monkeypatch.setattr(writer, "WAIT_S", 0.2)
    holder = sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(SiteUnavailable):
            async_to_sync(writer.reserve)(_asked(alice))
    finally:
        holder.execute("ROLLBACK")
        holder.close()
    # The thread still gets the lock; nobody waits for its row any more, and it does not count.
    wait_until(lambda: list(UsageRecord.objects.values_list("state", flat=True)) in ([], ["void"]), "the row's end")
    wait_until(lambda: sum(BudgetCounter.objects.values_list("used_e8", flat=True)) == 0, "the counter's end")


def test_counter_is_added_up_again_when_the_budget_was_changed(alice: User) -> None:
    """While there was no budget nobody counted."""
    from django.utils import timezone

    books.reserve(_asked(alice).entry, TEN, DIME, 10)
    books.reserve(_asked(alice).entry, Limits(), Price(Decimal("0.85"), "test"), 10)
    books.reserve(_asked(alice).entry, TEN, Price(Decimal("0.01"), "test"), 10)  # an old counter: it still fits
    changed = Limits(own_monthly_usd=Decimal("1.00"), own_set_at=timezone.now())
    with pytest.raises(BudgetExceeded, match=r"\$0\.96"):
        books.reserve(_asked(alice).entry, changed, DIME, 10)


def test_sweep_adds_up_again_what_was_under_way_when_a_counter_began(alice: User) -> None:
    from django.utils import timezone

    uncounted = books.reserve(_asked(alice).entry, Limits(), Price(Decimal("0.50"), "test"), 10)
    books.reserve(_asked(alice).entry, TEN, DIME, 10)
    books.settle(uncounted, _spent(uncounted, "0.05").outcome)
    assert BudgetCounter.objects.get().used_e8 == 60_000_000
    BudgetCounter.objects.update(again_at=timezone.now())
    books.sweep()
    assert BudgetCounter.objects.get().used_e8 == 15_000_000
    assert budgets.spent_usd("own", alice.pk) == Decimal("0.15")


def test_row_that_no_database_takes_harms_no_other(alice: User) -> None:
    """Alone in its group, so that it is the very statement with which the transaction begins."""

    async def one_after_the_other() -> list[Any]:
        return [*await _all([_asked(alice, model="m" * 500, limits=Limits())]), *await _all([_asked(alice)])]

    refused, written = async_to_sync(one_after_the_other)()
    if connection.vendor == "postgresql":  # SQLite knows no lengths
        assert isinstance(refused, RequestRejected)
    assert written is None
    nul = async_to_sync(_all)([_asked(alice, task="a\0b", limits=Limits())])
    assert async_to_sync(_all)([_asked(alice)]) == [None], nul
