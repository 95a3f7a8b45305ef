from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from io import StringIO
from typing import Any
from uuid import UUID, uuid4

import pytest
import time_machine
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connections
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_credentials.ledger import aggregates, reports, rollups
from llm_credentials.ledger.aggregates import Sums
from llm_credentials.ledger.reports import Report, Span
from llm_credentials.models import RolledDay, SiteUsageDay, UsageDay, UsageRecord
from llm_credentials.tests.factories import UsageRecordFactory

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 3, 31, 15, 0, tzinfo=UTC)
TODAY = NOW.date()
DAY = timedelta(days=1)
SPAN = Span(TODAY - 9 * DAY, TODAY)
KEYS = [UUID(int=1), UUID(int=2), None]


@pytest.fixture(autouse=True)
def _now() -> Any:
    with time_machine.travel(NOW, tick=False):
        yield


def _noon(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, 12, tzinfo=UTC)


def _plain(rows: list[UsageRecord]) -> dict[str, int]:
    """The same sums, added up by hand."""
    rows = [row for row in rows if row.state != "reserved"]
    answered = [row for row in rows if row.outcome == "ok" and row.latency_ms is not None]
    found = {
        "requests": len(rows),
        "errors": sum(row.outcome not in ("ok", "cancelled") for row in rows),
        "estimated": sum(row.state == "estimated" for row in rows),
        "unpriced": sum(row.cost_usd is None for row in rows),
        **{name: sum(getattr(row, name) or 0 for row in rows) for name in aggregates.TOKENS},
        "cost_usd_e8": int(sum(((row.cost_usd or Decimal(0)) for row in rows), Decimal(0)).scaleb(8)),
        "latency_ms": sum(row.latency_ms or 0 for row in answered),
        "ttft_ms": sum(row.ttft_ms or 0 for row in answered),
        "ttft_count": sum(row.ttft_ms is not None for row in answered),
    }
    below = 0
    for name, upper in zip(aggregates.LATENCY_FIELDS, (*aggregates.LATENCY_BOUNDS_MS, 10**12), strict=True):
        until = sum((row.latency_ms or 0) <= upper for row in answered)
        found[name], below = until - below, until
    return found


def _by_hand(rows: list[UsageRecord], *dimensions: str) -> dict[Any, dict[str, int]]:
    groups: dict[Any, list[UsageRecord]] = {}
    for row in rows:
        if row.state != "reserved":
            values = {name: getattr(row, name, None) for name in aggregates.DIMENSIONS}
            values["day"] = row.at.astimezone(UTC).date()
            groups.setdefault(tuple(values[name] for name in dimensions), []).append(row)
    return {key: _plain(found) for key, found in groups.items()}


def _read(report: Report, *dimensions: str) -> dict[Any, dict[str, int]]:
    return {key: found.values for key, found in report.grouped(*dimensions).items()}


maybe = st.none() | st.integers(0, 2**40)
attempts = st.fixed_dictionaries(
    {
        "at": st.datetimes(datetime(2026, 3, 22), datetime(2026, 3, 31, 14, 59)).map(lambda at: at.replace(tzinfo=UTC)),
        "provider": st.sampled_from(["openai", "mistral"]),
        "model": st.sampled_from(["small", "large", ""]),
        "task": st.sampled_from(["chat", "code"]),
        "credential_id": st.sampled_from(KEYS),
        "key_owner": st.sampled_from(["user", "system"]),
        "state": st.sampled_from(["reserved", "settled", "estimated", "void"]),
        "input_tokens": maybe,
        "output_tokens": maybe,
        "cache_read_tokens": maybe,
        "reasoning_tokens": maybe,
        "cost_usd": st.none() | st.decimals(0, 90_000_000, places=8),
        "latency_ms": st.none() | st.integers(0, 100_000) | st.sampled_from(aggregates.LATENCY_BOUNDS_MS),
        "ttft_ms": st.none() | st.integers(0, 100_000),
        "outcome": st.sampled_from(["ok", "cancelled", "RateLimited", "lost"]),
    }
)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(attempts, max_size=10), st.integers(0, 10))
def test_reports_equal_the_sums_of_the_rows(django_user_model: Any, made: list[dict[str, Any]], rolled: int) -> None:
    """Whichever of the days are rolled up, for one user and for all."""
    for table in (UsageRecord, UsageDay, SiteUsageDay, RolledDay):
        table.objects.all().delete()
    users = [django_user_model.objects.get_or_create(username=name)[0] for name in ("alice", "bob")]
    rows = [UsageRecord.objects.create(user=users[number % 2], **one) for number, one in enumerate(made)]
    for day in random.Random(rolled).sample(SPAN.days, rolled):
        rollups.day_roll(day)
    for user in users:
        own = [row for row in rows if row.user_id == user.pk]
        report = Report(SPAN, user.pk)
        for dimensions in (reports.DIMENSIONS, ("day", "provider"), ("credential_id",), ("model", "task"), ()):
            expected = _by_hand(own, *dimensions) or ({} if dimensions else {(): _plain([])})
            assert _read(report, *dimensions) == expected
    for row in rows:
        row.credential_id = row.credential_id if row.key_owner == "system" else None
    assert _read(Report(SPAN), *reports.DIMENSIONS) == _by_hand(rows, *reports.DIMENSIONS)


def test_roll_up_sums_every_closed_day_once_and_the_last_two_again(alice: User) -> None:
    UsageRecordFactory(user=alice, at=_noon(TODAY - 4 * DAY))
    UsageRecordFactory(user=alice, at=NOW)
    assert rollups.roll_up() == [TODAY - 4 * DAY, TODAY - 3 * DAY, TODAY - 2 * DAY, TODAY - DAY]
    assert rollups.roll_up() == [TODAY - 2 * DAY, TODAY - DAY]
    assert rollups.roll_up(since=TODAY - 3 * DAY) == [TODAY - 3 * DAY, TODAY - 2 * DAY, TODAY - DAY]
    assert UsageDay.objects.count() == SiteUsageDay.objects.count() == 1


def test_roll_up_without_any_row_does_nothing() -> None:
    assert rollups.roll_up() == []


def test_roll_up_leaves_a_day_open_until_its_last_calls_have_ended(alice: User) -> None:
    UsageRecordFactory(user=alice, at=_noon(TODAY))
    midnight = datetime(2026, 4, 1, tzinfo=UTC)
    assert rollups.roll_up(now=midnight + timedelta(minutes=59)) == []
    assert rollups.roll_up(now=midnight + timedelta(minutes=61)) == [TODAY]


def test_roll_up_counts_days_in_utc_whatever_the_zone(alice: User) -> None:
    """A minute before midnight in UTC is the next day in Auckland and the same in Honolulu."""
    UsageRecordFactory(user=alice, at=datetime(2026, 3, 29, 23, 59, 59, 999_999, tzinfo=UTC))
    UsageRecordFactory(user=alice, at=datetime(2026, 3, 30, 0, 0, tzinfo=UTC))
    for zone in ("Pacific/Auckland", "Pacific/Honolulu"):
        with timezone.override(zone):
            live = _read(Report(SPAN, alice.pk), "day")
            rollups.roll_up(since=date(2026, 3, 1))
            assert sorted(live) == [(date(2026, 3, 29),), (date(2026, 3, 30),)]
            assert _read(Report(SPAN, alice.pk), "day") == live
        RolledDay.objects.update(rolled_at=None)


def test_late_settlement_is_in_the_report_after_the_next_run(alice: User) -> None:
    row = UsageRecordFactory(user=alice, at=_noon(TODAY - DAY), state="estimated", outcome="lost", cost_usd=Decimal(3))
    rollups.roll_up()
    UsageRecord.objects.filter(pk=row.pk).update(state="settled", outcome="ok", cost_usd=Decimal("0.5"))
    rollups.roll_up()
    total = Report(SPAN, alice.pk).total()
    assert (total.cost_usd, total.errors, total.estimated) == (Decimal("0.5"), 0, 0)


def test_day_with_an_open_row_is_read_from_its_rows_until_that_is_closed(alice: User) -> None:
    at = _noon(TODAY - 8 * DAY)
    UsageRecordFactory(user=alice, at=at, cost_usd=Decimal(1))
    row = UsageRecordFactory(user=alice, at=at, state="reserved", cost_usd=None)
    rollups.roll_up()
    assert Report(SPAN, alice.pk).total().cost_usd == 1
    UsageRecord.objects.filter(pk=row.pk).update(state="estimated", outcome="lost", cost_usd=Decimal("0.5"))
    assert Report(SPAN, alice.pk).total().cost_usd == Report(SPAN).total().cost_usd == Decimal("1.5")
    assert TODAY - 8 * DAY in rollups.roll_up()
    assert TODAY - 8 * DAY not in rollups.roll_up()
    assert UsageDay.objects.get().cost_usd_e8 == 150_000_000


def test_roll_up_keeps_the_sums_of_who_left_without_saying_whose(alice: User, bob: User) -> None:
    for user in (alice, bob):
        UsageRecordFactory(user=user, at=_noon(TODAY - DAY))
    rollups.roll_up()
    alice.delete()
    bob.delete()
    assert list(UsageDay.objects.values_list("user_id", "requests")) == [(None, 1), (None, 1)]
    rollups.roll_up()
    assert Report(SPAN).total().requests == 2


def test_unknown_cost_is_counted_and_never_zero(alice: User) -> None:
    UsageRecordFactory(user=alice, at=NOW, cost_usd=None)
    total = Report(SPAN, alice.pk).total()
    assert (total.cost_usd, total.unpriced) == (None, 1)
    UsageRecordFactory(user=alice, at=NOW, cost_usd=Decimal("0.25"))
    total = Report(SPAN, alice.pk).total()
    assert (total.cost_usd, total.unpriced, total.requests) == (Decimal("0.25"), 1, 2)


def test_quantiles_lie_within_the_class_of_the_true_value(alice: User) -> None:
    waited = [90, 120, 130, 400, 900, 1200, 1300, 1400, 4000, 70_000]
    for latency_ms in waited:
        UsageRecordFactory(user=alice, at=NOW, latency_ms=latency_ms)
    total = Report(SPAN, alice.pk).total()
    assert total.p50_ms is not None and 750 <= total.p50_ms <= 1000
    assert total.p95_ms == aggregates.LATENCY_BOUNDS_MS[-1]
    assert Sums.nothing().p50_ms is None


def test_lines_stream_the_same_as_the_report(alice: User, bob: User) -> None:
    for number in range(6):
        UsageRecordFactory(user=alice, at=_noon(TODAY - number * DAY), model=f"m{number}", credential_id=uuid4())
        UsageRecordFactory(user=bob, at=_noon(TODAY - number * DAY))
    rollups.roll_up()
    report = Report(SPAN, alice.pk)

    async def read() -> dict[Any, dict[str, int]]:
        return {tuple(key.values()): found.values async for key, found in Report(SPAN, alice.pk).lines()}

    assert async_to_sync(read)() == _read(report, *reports.DIMENSIONS)


@pytest.mark.parametrize(("first", "last"), [(TODAY, TODAY - DAY), (TODAY - 1098 * DAY, TODAY)])
def test_span_refuses_what_makes_no_sense(first: date, last: date) -> None:
    with pytest.raises(ValueError, match=r"first day|three years"):
        Span(first, last)


def test_command_says_what_it_summed(alice: User) -> None:
    def run(*args: str) -> str:
        out = StringIO()
        call_command("usage_rollup", *args, stdout=out)
        return out.getvalue()

    assert run() == "No day to sum.\n"
    UsageRecordFactory(user=alice, at=_noon(TODAY - 3 * DAY))
    assert run() == "3 days summed, 2026-03-28 to 2026-03-30.\n"
    assert run("--since", "2026-03-30") == "1 day summed, 2026-03-30 to 2026-03-30.\n"


@pytest.mark.django_db(transaction=True)
def test_roll_up_by_several_at_once_counts_nothing_twice(alice: User) -> None:
    UsageRecordFactory(user=alice, at=_noon(TODAY - DAY))

    def roll(_number: int) -> None:
        try:
            rollups.roll_up()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(roll, range(4)))
    assert UsageDay.objects.get().requests == SiteUsageDay.objects.get().requests == 1
