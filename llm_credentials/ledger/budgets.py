"""Budgets: how much may be spent, and whether one more call fits. Enforced exactly, in the database, under concurrency.

A call is admitted by its worst-case cost on top of everything that is spent or reserved. Calls on own keys count
against the user's monthly budget; calls on the site's keys against a daily allowance for each user and a daily total
for all users.

Each budget in use has a counter, which is updated in the transactions that write the rows it counts, so it equals the
sum of its period's rows without a query over them. The counter is created, by summing the rows once, by the first call
that the budget applies to. Calls in flight at that moment, and calls of processes that do not know the budget yet, may
be missing from it; a recount a few minutes later corrects that.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Literal, TypeAlias
from uuid import UUID

from django.db import connection, models, transaction
from django.db.models import Case, F, OuterRef, Q, QuerySet, Subquery, Sum, When
from django.db.models.functions import Coalesce
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from llm_credentials.ledger.statements import Runner, Statement
from llm_credentials.models import BudgetCounter, UsageRecord
from llm_credentials.providers import BudgetExceeded
from llm_credentials.routing.receipt import KeyOwner
from llm_credentials.wall import open_for

WARN_FROM = Decimal("0.8")
_State = UsageRecord.State


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The budgets that apply to a call. ``None``: no limit."""

    own_monthly_usd: Decimal | None = None
    system_daily_usd: Decimal | None = None
    """Per user, on the site's keys."""
    system_daily_total_usd: Decimal | None = None
    """All users together, on the site's keys."""
    system_unpriced: bool = False
    """Whether calls on the site's keys may use models whose price is unknown."""
    own_set_at: datetime | None = None
    """When the user last changed their settings; an older counter is recounted."""
    system_set_at: datetime | None = None
    """When staff last changed the allowance."""
    token_id: UUID | None = None
    """The access token of the call."""
    token_monthly_usd: Decimal | None = None
    """For calls with that token, on any key."""
    _of: dict[KeyOwner, tuple[Limit, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def of(self, owner: KeyOwner) -> tuple[Limit, ...]:
        """The limits that apply to a key of this owner."""
        found = self._of.get(owner)
        if found is None:
            found = self._of[owner] = self._made_of(owner)
        return found

    def _made_of(self, owner: KeyOwner) -> tuple[Limit, ...]:
        budget = self.token_monthly_usd
        token = () if budget is None else (Limit("token", budget, token_id=self.token_id),)
        if owner == "user":
            budget = self.own_monthly_usd
            return token if budget is None else (Limit("own", budget, self.own_set_at), *token)
        daily, total = self.system_daily_usd, self.system_daily_total_usd
        own = token if daily is None else (Limit("system", daily, self.system_set_at), *token)
        return own if total is None else (*own, Limit("total", total, self.system_set_at))


Name: TypeAlias = Literal["own", "system", "total", "token"]
_WORDS: Mapping[Name, str] = {
    "own": gettext_noop("Your budget for this month"),
    "system": gettext_noop("Your allowance on the site's keys for today"),
    "total": gettext_noop("The site's allowance for today"),
    "token": gettext_noop("The budget of this access token for this month"),
}


@dataclass(frozen=True, slots=True)
class Limit:
    name: Name
    usd: Decimal
    set_at: datetime | None = None
    token_id: UUID | None = None
    set_micros: int = field(init=False, repr=False, compare=False)
    """Microseconds since the epoch; 0 if the limit never changes."""

    def __post_init__(self) -> None:
        micros = 0 if self.set_at is None else int(self.set_at.timestamp() * 1_000_000)
        object.__setattr__(self, "set_micros", micros)

    def subject(self, user_id: Any) -> Any:
        """The id whose rows count: the user's or the token's."""
        return self.token_id if self.name == "token" else user_id

    def counter_id(self, user_id: Any, at: datetime) -> str:
        """The counter for a call at that time."""
        match self.name:
            case "own":
                return f"own:{user_id}:{at.year}-{at.month:02}"
            case "system":
                return f"system:{user_id}:{at.year}-{at.month:02}-{at.day:02}"
            case "total":
                return f"total:{at.year}-{at.month:02}-{at.day:02}"
            case "token":
                return f"token:{self.token_id}:{at.year}-{at.month:02}"

    def refusal(self, used_e8: int, worst_usd: Decimal | None) -> BudgetExceeded | None:
        """None if a call with this worst-case cost fits.

        A call whose price is unknown (``None``) fits until the budget is used up.
        """
        limit_e8 = e8(self.usd)
        if used_e8 < limit_e8 and used_e8 + e8(worst_usd) <= limit_e8:
            return None
        return BudgetExceeded(
            _("%(budget)s is $%(usd)s; with $%(used)s spent or reserved, this call does not fit any more.")
            % {"budget": _(_WORDS[self.name]), "usd": f"{self.usd:.2f}", "used": f"{Decimal(used_e8).scaleb(-8):.2f}"}
        )


def e8(usd: Decimal | None) -> int:
    """In units of 1e-8 USD, the precision of the ledger's columns; None is 0."""
    return 0 if usd is None else int(usd.scaleb(8))


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """How much of a budget is used."""

    spent_usd: Decimal
    """Including reserved amounts."""
    limit_usd: Decimal

    @property
    def share(self) -> Decimal:
        return self.spent_usd / self.limit_usd if self.limit_usd else Decimal(1)

    @property
    def percent(self) -> int:
        """Rounded down: 100 means that the budget is used up."""
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
    own_set_at: datetime | None = None,
    system_set_at: datetime | None = None,
) -> Limits:
    """Limits from the user's settings and the staff's ``llm/system_allowance``; an invalid value there is zero.

    The daily allowance on the site's keys is the exception made for the user, else the smaller of the site's and the
    policies' allowance.
    """
    values: Mapping[str, Any] = config if isinstance(config, Mapping) else {}
    daily = [usd for usd in (_amount(values.get("daily_usd_per_user")), policy_usd) if usd is not None]
    return Limits(
        own_monthly_usd=monthly_budget_usd,
        system_daily_usd=min(daily, default=None) if exception_usd is None else exception_usd,
        system_daily_total_usd=_amount(values.get("daily_usd_total")),
        system_unpriced=values.get("unpriced_models") is True,
        own_set_at=own_set_at,
        system_set_at=system_set_at,
    )


def _amount(value: object) -> Decimal | None:
    if value is None:
        return None
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        return Decimal(0)
    return amount if amount.is_finite() and amount > 0 else Decimal(0)


def standing(user_id: Any, limit_usd: Decimal | None) -> Standing | None:
    """For the user's monthly budget; None if there is none."""
    if limit_usd is None:
        return None
    return Standing(spent_usd=spent_usd("own", user_id), limit_usd=limit_usd)


def spent_usd(name: Name, user_id: Any) -> Decimal:
    """Spent in the current period of ``own`` (a month), ``system`` or ``total`` (a day), reserved amounts included.

    ``token``: a month of the access token whose id is passed as ``user_id``.

    Summed from the rows. The sum of old rows is cached in this process.
    """
    with open_for("what all users have spent") if name == "total" else nullcontext():
        return _spent_usd(name, user_id)


def _spent_usd(name: Name, user_id: Any) -> Decimal:
    now = timezone.now()
    rows, start = _rows_of(name, user_id, now)
    settled_until = max(start, _closed_until(now))
    place = (name, None if name == "total" else user_id, start, settled_until)
    if (closed := _closed.get(place)) is not None:
        return closed + _sum(rows.filter(at__gte=settled_until))
    period = rows.filter(at__gte=start).exclude(state=_State.VOID)
    sums = period.aggregate(
        closed=_total(Q(at__lt=settled_until)),
        open=_total(Q(at__gte=settled_until)),
    )
    _remember(place, Decimal(sums["closed"]))
    return Decimal(sums["closed"]) + Decimal(sums["open"])


def _rows_of(name: Name, user_id: Any, at: datetime) -> tuple[QuerySet[UsageRecord], datetime]:
    """The rows that the budget counts, and the start of its period."""
    match name:
        case "own":
            return UsageRecord.objects.filter(user_id=user_id, key_owner=UsageRecord.KeyOwner.USER), _month(at)
        case "system":
            return UsageRecord.objects.filter(user_id=user_id, key_owner=UsageRecord.KeyOwner.SYSTEM), _day(at)
        case "total":
            return UsageRecord.objects.filter(key_owner=UsageRecord.KeyOwner.SYSTEM), _day(at)
        case "token":
            return UsageRecord.objects.filter(token_id=user_id), _month(at)


# Counters

AGAIN_AFTER = timedelta(minutes=6)
"""By then every call that was in flight when the counter was created is settled or swept."""
KEPT_FOR = timedelta(days=2)
"""How long a counter outlives its period, for late settlements."""


def take(counter_id: str, limits: Sequence[Limit], worst_e8: int, moved_e8: int) -> Statement:
    """Updates one row if the counter exists, is not older than any limit, and the amount fits all limits."""
    newest, least_e8 = bounds(limits)
    return _TAKE, [moved_e8 + worst_e8, counter_id, newest, moved_e8, least_e8, moved_e8 + worst_e8, least_e8]


def bounds(limits: Sequence[Limit]) -> tuple[int, int]:
    """When the newest limit was set, in microseconds, and the smallest amount allowed."""
    return max(limit.set_micros for limit in limits), min(e8(limit.usd) for limit in limits)


def move(counter_id: str, moved_e8: int) -> Statement:
    """Updates the counter if it exists."""
    return _MOVE, [moved_e8, counter_id]


def use(runner: Runner, limit: Limit, user_id: Any, at: datetime, moved_e8: int) -> int:
    """Update the limit's counter and return its new value; the row stays locked until the transaction ends.

    A counter that is missing or older than the limit is created by summing the rows, so the rows behind ``moved_e8``
    must already be written.
    """
    counter_id = limit.counter_id(user_id, at)
    if runner.run(move(counter_id, moved_e8)) == [0]:
        ends = _end(limit.name, at) + KEPT_FOR
        owner = None if limit.name == "total" else user_id
        runner.run((_BEGIN, [counter_id, owner, _NEVER, _stored(ends)]), move(counter_id, moved_e8))
    used_e8, known_micros = runner.row((_READ, [counter_id]))
    if known_micros >= limit.set_micros:
        return int(used_e8)
    used_e8 = _added_up_e8(limit.name, limit.subject(user_id), at)
    again_at = _stored(timezone.now() + AGAIN_AFTER)
    runner.run((_ANEW, [used_e8, limit.set_micros, again_at, counter_id]))
    return used_e8


def recount() -> int:
    """Recount the counters that are due and delete those whose period is long over; returns how many were recounted."""
    now = timezone.now()
    BudgetCounter.objects.filter(ends_at__lt=now).delete()
    due = list(BudgetCounter.objects.filter(again_at__lte=now).values_list("pk", flat=True))
    for counter_id in due:
        with transaction.atomic():
            counter = BudgetCounter.objects.select_for_update().filter(pk=counter_id).first()
            if counter is not None:
                counter.used_e8 = _added_up_e8(counter.name, counter.subject, counter.began)
                counter.again_at = None
                counter.save(update_fields=["used_e8", "again_at"])
    return len(due)


_NEVER = -1
_BEGIN = (
    "INSERT INTO llm_budget_counters (id, user_id, used_e8, set_at, ends_at) VALUES (%s, %s, 0, %s, %s)"
    " ON CONFLICT DO NOTHING"
)
_ANEW = "UPDATE llm_budget_counters SET used_e8 = %s, set_at = %s, again_at = %s WHERE id = %s"


_MOVE = "UPDATE llm_budget_counters SET used_e8 = used_e8 + %s WHERE id = %s"
_TAKE = f"{_MOVE} AND set_at >= %s AND used_e8 + %s < %s AND used_e8 + %s <= %s"
_READ = "SELECT used_e8, set_at FROM llm_budget_counters WHERE id = %s"


def _added_up_e8(name: Name, user_id: Any, at: datetime) -> int:
    rows, start = _rows_of(name, user_id, at)
    return e8(_sum(rows.filter(at__gte=start, at__lt=_end(name, at))))


def _stored(at: datetime) -> Any:
    return connection.ops.adapt_datetimefield_value(at)


# Sums

CLOSED_AFTER = timedelta(minutes=15)
"""Older rows are closed: settled, or swept at their worst case, which a late settlement only lowers."""
_CLOSED_MAX = 10_000
_closed: OrderedDict[tuple[str, Any, datetime, datetime], Decimal] = OrderedDict()


def _closed_until(now: datetime) -> datetime:
    """Advances in steps, so that cached sums can be reused."""
    step = now.replace(minute=now.minute - now.minute % 15, second=0, microsecond=0)
    return step - CLOSED_AFTER


def _remember(place: tuple[str, Any, datetime, datetime], amount: Decimal) -> None:
    _closed[place] = amount
    while len(_closed) > _CLOSED_MAX:
        _closed.popitem(last=False)


def forget() -> None:
    """Clear this process's cached sums: for tests, which empty the database in between."""
    _closed.clear()


def _sum(rows: QuerySet[UsageRecord]) -> Decimal:
    total = rows.exclude(state=_State.VOID).aggregate(total=_total())["total"]
    return Decimal(total)


def _total(among: Q | None = None) -> Coalesce:
    """The cost of settled rows plus the reserved cost of open ones."""
    money = models.DecimalField(max_digits=20, decimal_places=8)
    amount = Case(When(state=_State.RESERVED, then=F("reserved_usd")), default=F("cost_usd"), output_field=money)
    return Coalesce(Sum(amount, filter=among), Decimal(0), output_field=money)


# For staff


def _system_today() -> QuerySet[UsageRecord]:
    rows = UsageRecord.objects.filter(key_owner=UsageRecord.KeyOwner.SYSTEM, at__gte=_day(timezone.now()))
    return rows.exclude(state=_State.VOID).order_by()


def spent_today_subquery() -> Subquery:
    """Annotates rows that have a ``user_id`` with what this user spent today on the site's keys."""
    mine = _system_today().filter(user_id=OuterRef("user_id")).values("user_id")
    return Subquery(mine.annotate(total=_total()).values("total"))


def spenders_today(most: int = 20) -> list[Mapping[str, Any]]:
    """Today's biggest spenders on the site's keys: ``{"user_id", "user__username", "spent_usd"}``."""
    rows = _system_today().values("user_id", "user__username")
    return list(rows.annotate(spent_usd=_total()).order_by("-spent_usd", "user_id")[:most])


def _day(now: datetime) -> datetime:
    return now.replace(hour=0, minute=0, second=0, microsecond=0)


def _month(now: datetime) -> datetime:
    return _day(now).replace(day=1)


def _end(name: Name, at: datetime) -> datetime:
    """The end of the period that contains this time."""
    return _month(_month(at) + timedelta(days=32)) if name in ("own", "token") else _day(at) + timedelta(days=1)
