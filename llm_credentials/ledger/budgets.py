"""What may be spent, and whether one more call fits. Held in the database, exactly, whoever else calls meanwhile.

A call is admitted by its worst case, together with everything that others have reserved. Own keys: the user's monthly
budget. The site's keys: what staff allow a user a day, and all users together.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from hashlib import blake2b
from typing import Any

from django.db import connection, models, transaction
from django.db.models import Case, F, OuterRef, QuerySet, Subquery, Sum, When
from django.db.models.functions import Coalesce
from django.utils import timezone

from llm_credentials.models import UsageRecord
from llm_credentials.providers import BudgetExceeded
from llm_credentials.routing.receipt import KeyOwner

WARN_FROM = Decimal("0.8")
_State = UsageRecord.State


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """``None``: no limit."""

    own_monthly_usd: Decimal | None = None
    system_daily_usd: Decimal | None = None
    """For this user on the site's keys."""
    system_daily_total_usd: Decimal | None = None
    """For all users on the site's keys."""
    system_unpriced: bool = False
    """Whether the site's keys may call models whose price is unknown."""

    def of(self, owner: KeyOwner) -> tuple[_Limit, ...]:
        every: tuple[_Limit, ...]
        if owner == "user":
            every = (_Limit("own", self.own_monthly_usd, "Your budget for this month"),)
        else:
            every = (
                _Limit("system", self.system_daily_usd, "Your allowance on the site's keys for today"),
                _Limit("total", self.system_daily_total_usd, "The site's allowance for today"),
            )
        return tuple(limit for limit in every if limit.usd is not None)


@dataclass(frozen=True, slots=True)
class _Limit:
    name: str
    usd: Decimal | None
    words: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """How far a budget is used."""

    spent_usd: Decimal
    """Reserved amounts included."""
    limit_usd: Decimal

    @property
    def share(self) -> Decimal:
        return self.spent_usd / self.limit_usd if self.limit_usd else Decimal(1)

    @property
    def percent(self) -> int:
        """Rounded down, so that it says 100 only when all is used."""
        return int(self.share * 100)

    @property
    def warns(self) -> bool:
        return self.share >= WARN_FROM

    @property
    def is_used_up(self) -> bool:
        return self.spent_usd >= self.limit_usd


def limits_from(
    monthly_budget_usd: Decimal | None,
    config: object,
    *,
    policy_usd: Decimal | None = None,
    exception_usd: Decimal | None = None,
) -> Limits:
    """The user's own and what staff wrote into ``llm/system_allowance``; what makes no sense there counts as zero.

    The daily allowance on the site's keys is the exception made for the user, else the smaller of the site's and of
    what policies say.
    """
    values: Mapping[str, Any] = config if isinstance(config, Mapping) else {}
    daily = [usd for usd in (_amount(values.get("daily_usd_per_user")), policy_usd) if usd is not None]
    return Limits(
        own_monthly_usd=monthly_budget_usd,
        system_daily_usd=min(daily, default=None) if exception_usd is None else exception_usd,
        system_daily_total_usd=_amount(values.get("daily_usd_total")),
        system_unpriced=values.get("unpriced_models") is True,
    )


def _amount(value: object) -> Decimal | None:
    if value is None:
        return None
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        return Decimal(0)
    return amount if amount.is_finite() and amount > 0 else Decimal(0)


@contextmanager
def admitted(user_id: Any, owner: KeyOwner, limits: Limits, worst_usd: Decimal | None) -> Iterator[None]:
    """What is written inside counts before anybody else is asked. Raises BudgetExceeded when it does not fit.

    A price that is unknown (``None``) fits as long as the budget is not used up; what costs nothing always does.
    """
    applying = limits.of(owner)
    if not applying or worst_usd == 0:
        yield
        return
    with transaction.atomic():
        _queue_up([f"{limit.name}:{'' if limit.name == 'total' else user_id}" for limit in applying])
        for limit in applying:
            standing = Standing(spent_usd=spent_usd(limit.name, user_id), limit_usd=limit.usd or Decimal(0))
            if standing.is_used_up or standing.spent_usd + (worst_usd or 0) > standing.limit_usd:
                raise BudgetExceeded(
                    f"{limit.words} is ${standing.limit_usd:.2f}; with ${standing.spent_usd:.2f} spent or reserved, "
                    "this call does not fit any more."
                )
        yield


def _queue_up(names: list[str]) -> None:
    """One at a time past here until the transaction ends. SQLite's transactions take the write lock when they begin."""
    if connection.vendor != "postgresql":
        return
    with connection.cursor() as cursor:
        for name in sorted(names):
            number = int.from_bytes(blake2b(f"llm-budget:{name}".encode(), digest_size=8).digest(), "big", signed=True)
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [number])


def standing(user_id: Any, limit_usd: Decimal | None) -> Standing | None:
    """Of the user's monthly budget; None without one."""
    if limit_usd is None:
        return None
    return Standing(spent_usd=spent_usd("own", user_id), limit_usd=limit_usd)


def spent_usd(name: str, user_id: Any) -> Decimal:
    """In the current period of ``own`` (a month), ``system`` or ``total`` (a day); what is reserved counts in full.

    What lies a while back is added up once in this process and then remembered, so that a call never adds up a month.
    """
    now = timezone.now()
    match name:
        case "own":
            rows = UsageRecord.objects.filter(user_id=user_id, key_owner=UsageRecord.KeyOwner.USER)
            start = _month(now)
        case "system":
            rows = UsageRecord.objects.filter(user_id=user_id, key_owner=UsageRecord.KeyOwner.SYSTEM)
            start = _day(now)
        case "total":
            rows, user_id = UsageRecord.objects.filter(key_owner=UsageRecord.KeyOwner.SYSTEM), None
            start = _day(now)
        case _:
            raise ValueError(f"there is no budget called {name!r}")
    settled_until = max(start, _closed_until(now))
    place = (name, user_id, start, settled_until)
    if (closed := _closed.get(place)) is None:
        closed = _sum(rows.filter(at__gte=start, at__lt=settled_until))
        _remember(place, closed)
    return closed + _sum(rows.filter(at__gte=settled_until))


CLOSED_AFTER = timedelta(minutes=15)
"""Older rows are closed: settled, or swept at their worst case, which a late settlement only lowers."""
_CLOSED_MAX = 10_000
_closed: OrderedDict[tuple[str, Any, datetime, datetime], Decimal] = OrderedDict()


def _closed_until(now: datetime) -> datetime:
    """Moves on in steps, so that what was added up can be used again."""
    step = now.replace(minute=now.minute - now.minute % 15, second=0, microsecond=0)
    return step - CLOSED_AFTER


def _remember(place: tuple[str, Any, datetime, datetime], amount: Decimal) -> None:
    _closed[place] = amount
    while len(_closed) > _CLOSED_MAX:
        _closed.popitem(last=False)


def forget() -> None:
    """What was added up in this process: for tests, between which the database is emptied."""
    _closed.clear()


def _sum(rows: QuerySet[UsageRecord]) -> Decimal:
    total = rows.exclude(state=_State.VOID).aggregate(total=_total())["total"]
    return Decimal(total)


def _total() -> Coalesce:
    """Of rows: what they cost, and what those under way may cost."""
    money = models.DecimalField(max_digits=20, decimal_places=8)
    amount = Case(When(state=_State.RESERVED, then=F("reserved_usd")), default=F("cost_usd"), output_field=money)
    return Coalesce(Sum(amount), Decimal(0), output_field=money)


# For staff


def _system_today() -> QuerySet[UsageRecord]:
    rows = UsageRecord.objects.filter(key_owner=UsageRecord.KeyOwner.SYSTEM, at__gte=_day(timezone.now()))
    return rows.exclude(state=_State.VOID).order_by()


def spent_today_subquery() -> Subquery:
    """Spent today on the site's keys by the user of a row with ``user_id``, to annotate that row with."""
    mine = _system_today().filter(user_id=OuterRef("user_id")).values("user_id")
    return Subquery(mine.annotate(total=_total()).values("total"))


def spenders_today(most: int = 20) -> list[Mapping[str, Any]]:
    """Who spent most on the site's keys today: ``{"user_id", "user__username", "spent_usd"}``."""
    rows = _system_today().values("user_id", "user__username")
    return list(rows.annotate(spent_usd=_total()).order_by("-spent_usd", "user_id")[:most])


def _day(now: datetime) -> datetime:
    return now.replace(hour=0, minute=0, second=0, microsecond=0)


def _month(now: datetime) -> datetime:
    return _day(now).replace(day=1)
