"""Tables as large as one likes, and how the database goes about the queries that every call makes.

In small it is a test; ``benchmarks/tables.py`` does the same with a million users.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import uuid4

from django.contrib.auth.models import User
from django.db import connection, models
from django.utils import timezone

from llm_credentials.ledger import books, budgets
from llm_credentials.ledger.budgets import Limits
from llm_credentials.ledger.entries import Entry, Outcome, State
from llm_credentials.ledger.prices import Price
from llm_credentials.models import LLMSettings, UsageRecord, UserCredential
from llm_credentials.providers import Usage
from llm_credentials.routing import snapshot

LARGE = ("auth_user", "llm_settings", "user_llm_credentials", "llm_usage_records")


def fill(*, users: int, credentials: int, usage: int) -> User:
    """So many rows more; one of the users, in the middle of them."""
    _insert(User, users, username="'user-' || n", password="'!'", is_active=_true())
    first = User.objects.order_by("pk").filter(username="user-1").values_list("pk", flat=True)[0]
    owner = f"{first} + n % {users}"
    _insert(LLMSettings, users, user_id=f"{first} - 1 + n", strategy="'priority'", monthly_budget_usd="100")
    _insert(UserCredential, credentials, user_id=owner, provider="'sandbox'", name="'key-' || n", status="'valid'")
    days = "n % 300"
    ago = f"now() - make_interval(days => {days})"
    at = ago if _on_postgresql() else f"datetime('now', '-' || ({days}) || ' days')"
    _insert(
        UsageRecord,
        usage,
        user_id=owner,
        provider="'sandbox'",
        state="'settled'",
        key_owner="CASE WHEN n % 10 = 0 THEN 'system' ELSE 'user' END",
        cost_usd="0.001",
        outcome="'ok'",
        at=at,
    )
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    return User.objects.get(username=f"user-{users // 2}")


def _on_postgresql() -> bool:
    return connection.vendor == "postgresql"


def _true() -> str:
    return "true" if _on_postgresql() else "1"


def _insert(model: type[models.Model], rows: int, **given: str) -> None:
    """``given``: SQL for a column, with ``n`` from 1; the others get their defaults."""
    columns = {each.column: given.get(each.column) or _default(each) for each in model._meta.concrete_fields}
    columns = {name: value for name, value in columns.items() if value}
    series = (
        f"generate_series(1, {rows}) AS n"
        if _on_postgresql()
        else f"(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {rows}) SELECT n FROM s)"
    )
    with connection.cursor() as cursor:
        names, values = ", ".join(columns), ", ".join(columns.values())
        cursor.execute(f"INSERT INTO {model._meta.db_table} ({names}) SELECT {values} FROM {series}")


def _default(field_: Any) -> str:
    if isinstance(field_, models.AutoField):
        return ""
    if isinstance(field_, models.UUIDField) and not field_.null:
        return "gen_random_uuid()" if _on_postgresql() else "lower(hex(randomblob(16)))"
    if field_.null:
        return "NULL"
    if isinstance(field_, models.BooleanField):
        return _true() if field_.default is True else ("false" if _on_postgresql() else "0")
    if isinstance(field_, models.DateTimeField):
        return "now()" if _on_postgresql() else "datetime('now')"
    if isinstance(field_, models.JSONField):
        return "'{}'"
    if field_.has_default() and not callable(field_.default):
        return f"'{field_.default}'"
    return "0" if isinstance(field_, models.IntegerField) else "''"


@dataclass
class Plans:
    """By the query, how the database goes about it."""

    seen: dict[str, str] = field(default_factory=dict)

    def scans(self) -> list[str]:
        """Queries that read a large table from end to end."""
        return [
            f"{sql[:160]} → {plan}"
            for sql, plan in self.seen.items()
            if any(re.search(rf"(Seq Scan on|SCAN) {table}\b(?! USING)", plan) for table in LARGE)
        ]


@contextmanager
def explained() -> Iterator[Plans]:
    """The plans of everything that is asked of the database meanwhile."""
    plans, explaining = Plans(), False

    def explain(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        nonlocal explaining
        # What the wall says first is said again when the plan is asked for.
        asked = sql.partition("; ")[2] if sql.startswith("SET LOCAL") else sql
        if not explaining and asked.startswith(("SELECT", "UPDATE")):
            explaining = True
            try:
                with connection.cursor() as cursor:
                    cursor.execute(f"EXPLAIN {'' if _on_postgresql() else 'QUERY PLAN '}{asked}", params)
                    plans.seen[asked] = "\n".join(str(row[-1]) for row in cursor.fetchall())
            finally:
                explaining = False
        return execute(sql, params, many, context)

    with connection.execute_wrapper(explain):
        yield plans


def hot_queries(user: User) -> None:
    """What the calls of one user ask of the database."""
    key = UserCredential.objects.for_user(user).first()
    assert key is not None
    snapshot.load(user, snapshot.load_site())
    snapshot._latencies(user.pk)
    budgets.forget()
    for name in ("own", "system"):
        budgets.spent_usd(name, user.pk)
    limits = Limits(own_monthly_usd=Decimal(100))
    usage = Usage(input_tokens=1, output_tokens=1)
    price = Price(Decimal("0.01"), "test")
    for _ in range(2):  # the first makes the budget's counter
        entry = Entry(
            call_id=uuid4(),
            user_id=user.pk,
            task="",
            provider="sandbox",
            model="",
            credential_id=key.pk,
            key_owner="user",
            at=timezone.now(),
        )
        reserved = books.reserve(entry, limits, price, 1)
        outcome = Outcome(state=State.SETTLED, outcome="ok", latency_ms=1, usage=usage, price=price)
        books.settle(reserved, outcome, key=(UserCredential, key.pk))
    books.sweep()
