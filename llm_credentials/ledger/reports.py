"""Reports from the ledger, exact to the last decimal: closed days from their roll-ups, other days from the rows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from typing import Any, Final, TypeAlias

from django.db.models import DateField, Q, QuerySet, Value
from django.db.models.functions import TruncDate
from django.utils import timezone
from django.utils.translation import gettext as _

from llm_credentials.ledger import aggregates, rollups, writer
from llm_credentials.ledger.aggregates import NAMES, Sums
from llm_credentials.models import UsageRecord
from llm_credentials.models.rollups import RolledDay, SiteUsageDay, UsageDay
from llm_credentials.wall import open_for

DIMENSIONS: Final = ("day", *aggregates.DIMENSIONS)
MAX_DAYS: Final = 3 * 366
Key: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """Days in UTC, both inclusive."""

    first: date
    last: date

    def __post_init__(self) -> None:
        if self.first > self.last:
            raise ValueError(_("The first day lies after the last one."))
        if len(self) > MAX_DAYS:
            raise ValueError(_("Choose three years at most."))

    def __len__(self) -> int:
        return (self.last - self.first).days + 1

    @property
    def days(self) -> list[date]:
        return [self.first + timedelta(days=number) for number in range(len(self))]


def today() -> date:
    return timezone.now().astimezone(UTC).date()


@dataclass(frozen=True, slots=True)
class _Days:
    unrolled: list[date]
    """Days to be read from the rows."""
    reopened: list[date]
    """Those of them that have a stale roll-up."""


class Report:
    """The attempts of one user, or of all (``user_id`` None), within a span.

    Runs an initial query, and then one for each question.
    """

    def __init__(self, span: Span, user_id: Any = None) -> None:
        self.span = span
        self.user_id = user_id

    def grouped(self, *dimensions: str, names: tuple[str, ...] = NAMES) -> dict[Key, Sums]:
        """Sums grouped by some of ``DIMENSIONS``; ``names``: the sums needed, if not all."""
        found: dict[Key, Sums] = {}
        rolled = self._rolled.order_by()
        added = aggregates.of_days(names)
        for row in rolled.values(*dimensions).annotate(**added) if dimensions else [rolled.aggregate(**added)]:
            found[tuple(row[name] for name in dimensions)] = Sums.of_row(row)
        for key, live in self._live:
            place = tuple(key[name] for name in dimensions)
            found.setdefault(place, Sums.nothing()).add(live)
        return found

    def total(self) -> Sums:
        return self.grouped()[()]

    async def lines(self) -> AsyncIterator[tuple[dict[str, Any], Sums]]:
        """Every group of every day, ordered by day, streamed from the database."""
        self._days = self._sorted([row async for row in self._known_days()])
        rolled = self._rolled.values(*DIMENSIONS, *NAMES).order_by("day", *aggregates.DIMENSIONS)
        async for row in rolled.aiterator(chunk_size=500):
            yield {name: row[name] for name in DIMENSIONS}, Sums({name: row[name] for name in NAMES})
        if self._days.unrolled:
            live = self._live_rows(self._days.unrolled).order_by("day", "provider", "model", "task")
            with self._whose():
                rows = [row async for row in live.aiterator(chunk_size=500)]
            for row in rows:
                yield self._key(row), Sums.of_row(row)

    @cached_property
    def _days(self) -> _Days:
        return self._sorted(self._known_days())

    def _known_days(self) -> QuerySet[RolledDay]:
        return RolledDay.objects.filter(day__range=(self.span.first, self.span.last))

    def _sorted(self, known: Iterable[RolledDay]) -> _Days:
        found = {row.day: row.rolled_at is not None for row in known}
        return _Days(
            unrolled=[day for day in self.span.days if not found.get(day, False)],
            reopened=[day for day, rolled in found.items() if not rolled],
        )

    @property
    def _rolled(self) -> QuerySet[Any]:
        rows: QuerySet[Any]
        rows = SiteUsageDay.objects.all() if self.user_id is None else UsageDay.objects.filter(user_id=self.user_id)
        rows = rows.filter(day__range=(self.span.first, self.span.last))
        # Days that wait for a new roll-up still have their outdated sums.
        return rows.exclude(day__in=self._days.reopened) if self._days.reopened else rows

    @cached_property
    def _live(self) -> list[tuple[dict[str, Any], Sums]]:
        days = self._days.unrolled
        writer.flush()  # includes the latest calls
        with self._whose():
            return [(self._key(row), Sums.of_row(row)) for row in self._live_rows(days)] if days else []

    def _whose(self) -> AbstractContextManager[None]:
        """Days without a roll-up are summed from the rows; a site report needs the rows of all users."""
        return open_for("the site's usage") if self.user_id is None else nullcontext()

    def _live_rows(self, days: Sequence[date]) -> QuerySet[Any, dict[str, Any]]:
        rows: QuerySet[Any] = rollups.ended(UsageRecord.objects.filter(_within(days)))
        if self.user_id is not None:
            rows = rows.filter(user_id=self.user_id)
        day = Value(days[0], output_field=DateField()) if len(days) == 1 else TruncDate("at", tzinfo=UTC)
        keyed = rows.order_by().annotate(day=day, **rollups.SITE_KEY)
        credential = "site_key" if self.user_id is None else "credential_id"
        dimensions = [credential if name == "credential_id" else name for name in DIMENSIONS]
        found: QuerySet[Any, dict[str, Any]] = keyed.values(*dimensions).annotate(**aggregates.of_records())
        return found

    def _key(self, row: dict[str, Any]) -> dict[str, Any]:
        key = {name: row.get(name) for name in DIMENSIONS}
        return key | {"credential_id": row["site_key"]} if self.user_id is None else key


def _within(days: Sequence[date]) -> Q:
    """A filter on time; adjacent days are merged into one range."""
    found = Q(pk__in=[])
    begin = previous = None
    for day in [*days, None]:
        if begin is not None and previous is not None and day != previous + timedelta(days=1):
            found |= Q(at__gte=_midnight(begin), at__lt=_midnight(previous + timedelta(days=1)))
            begin = None
        begin, previous = begin or day, day
    return found


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
