"""Makes the daily roll-ups. A day is always rolled up whole, so repeated or concurrent runs do no harm.

A day is closed an hour after its end. If one of its rows is still open then, the roll-up waits for it. Every run also
rolls up the last two closed days again, far longer than a call can take, to pick up late corrections.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta

from django.db import connection, transaction
from django.db.models import Case, F, Min, QuerySet, When
from django.utils import timezone

from llm_credentials.ledger import aggregates
from llm_credentials.models import UsageRecord
from llm_credentials.models.rollups import RolledDay, SiteUsageDay, UsageDay
from llm_credentials.models.usage import UsageRecordQuerySet
from llm_credentials.wall import open_for

CLOSED_AFTER = timedelta(hours=1)
AGAIN_DAYS = 2
"""How many closed days every run rolls up again."""
KeyOwner = UsageRecord.KeyOwner


@open_for("summing the ledger by days")
def roll_up(*, since: date | None = None, now: datetime | None = None) -> list[date]:
    """Roll up the days that are due, oldest first, each in its own transaction; returns these days.

    ``since``: roll up every closed day from this one on, even if it already has a roll-up.
    """
    days = list(_due(since, now or timezone.now()))
    for day in days:
        day_roll(day)
    return days


def last_closed(now: datetime) -> date:
    return (now.astimezone(UTC) - CLOSED_AFTER).date() - timedelta(days=1)


def _due(since: date | None, now: datetime) -> Iterator[date]:
    begin = UsageRecord.objects.aggregate(first=Min("at"))["first"]
    if begin is None:
        return
    first, last = begin.astimezone(UTC).date(), last_closed(now)
    done = set(RolledDay.objects.filter(rolled_at__isnull=False).values_list("day", flat=True))
    again = since or last - timedelta(days=AGAIN_DAYS - 1)
    for number in range((last - first).days + 1):
        day = first + timedelta(days=number)
        if day not in done or day >= again:
            yield day


@open_for("summing the ledger by days")
def day_roll(day: date) -> None:
    """Roll up one day from its rows. A concurrent run for the same day waits."""
    RolledDay.objects.get_or_create(day=day)
    with transaction.atomic():
        state = RolledDay.objects.select_for_update().get(day=day)
        rows = ended(_rows_of(day))
        UsageDay.objects.filter(day=day).delete()
        SiteUsageDay.objects.filter(day=day).delete()
        _insert(UsageDay, day, rows, "user_id", *aggregates.DIMENSIONS)
        _insert(SiteUsageDay, day, rows.annotate(**SITE_KEY), *_SITE_DIMENSIONS)
        # An open row will still get a cost: until then reports read this day from the rows.
        state.rolled_at = None if _rows_of(day).reserved().exists() else timezone.now()
        state.save(update_fields=["rolled_at"])


def _rows_of(day: date) -> UsageRecordQuerySet:
    begin = datetime.combine(day, time(), UTC)
    return UsageRecord.objects.filter(at__gte=begin, at__lt=begin + timedelta(days=1))


def ended(rows: QuerySet[UsageRecord]) -> QuerySet[UsageRecord]:
    return rows.exclude(state=UsageRecord.State.RESERVED)


SITE_KEY = {"site_key": Case(When(key_owner=KeyOwner.SYSTEM, then=F("credential_id")))}
"""The site's own keys by id; all users' keys together."""
_SITE_DIMENSIONS = tuple("site_key" if name == "credential_id" else name for name in aggregates.DIMENSIONS)


def _insert(
    table: type[UsageDay] | type[SiteUsageDay], day: date, rows: QuerySet[UsageRecord], *dimensions: str
) -> None:
    """Runs inside the database: a busy day has more groups than a process should hold."""
    query = rows.order_by().values(*dimensions).annotate(**aggregates.of_records()).query
    select, params = query.sql_with_params()
    names = ["day", *("credential_id" if name == "site_key" else name for name in dimensions), *aggregates.NAMES]
    quoted = ", ".join(connection.ops.quote_name(name) for name in names)
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {connection.ops.quote_name(table._meta.db_table)} ({quoted}) "  # noqa: S608 - our own names
            f"SELECT %s, of_day.* FROM ({select}) of_day",
            [connection.ops.adapt_datefield_value(day), *params],
        )
