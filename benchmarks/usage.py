"""Measures how long usage takes to show: ``python benchmarks/usage.py [rows] [users]``, by default a million rows of a
year. Exits with 1 if something exceeds its limit.

Fills the database of ``DATABASE_URL`` permanently: use a separate one. One user has a tenth of the rows, the others
share the rest; all days but today are rolled up, as by Celery beat.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from project.env import use_settings

use_settings("project.settings")

import django  # noqa: E402

django.setup()

from django.contrib.auth.models import User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connection  # noqa: E402
from django.test import Client  # noqa: E402
from django.utils import timezone  # noqa: E402

from benchmarks.prove.report import Line, print_lines  # noqa: E402
from llm_credentials.ledger import rollups  # noqa: E402
from llm_credentials.ledger.reports import Span, today  # noqa: E402
from llm_credentials.models import RolledDay, SiteUsageDay, UsageDay, UsageRecord  # noqa: E402
from llm_credentials.wall import open_for  # noqa: E402

LIMIT_MS = 200
SITE = "/admin/llm_credentials/usagerecord/summary/"
MODELS = (
    ("openai", "gpt-6-luna"),
    ("openai", "gpt-6.1-terra"),
    ("anthropic", "claude-haiku-5-5"),
    ("mistral", "small"),
)
TASKS = ("conversation", "code", "research", "gateway")


def rows(begin: int, count: int, users: list[User]) -> Iterator[UsageRecord]:
    chance = random.Random(begin)
    now = timezone.now()
    for number in range(count):
        user = users[0] if number % 10 == 0 else chance.choice(users)
        place = chance.randrange(len(MODELS))
        provider, model = MODELS[place]
        ok = chance.random() > 0.05
        yield UsageRecord(
            user=user,
            provider=provider,
            model=model,
            task=chance.choice(TASKS),
            credential_id=UUID(int=user.pk * 10 + place if place else 1),
            key_owner="user" if place else "system",
            state="settled" if ok else "void",
            input_tokens=chance.randrange(5000),
            output_tokens=chance.randrange(900),
            cost_usd=Decimal(chance.randrange(10**6)).scaleb(-8),
            latency_ms=chance.randrange(200, 9000),
            outcome="ok" if ok else "RateLimited",
            at=now - timedelta(seconds=chance.randrange(365 * 86400)),
        )


def fill(count: int, users: list[User]) -> None:
    """Creates some of the rows one by one, the rest as copies at other times, made within the database."""
    for table in (UsageRecord, UsageDay, SiteUsageDay, RolledDay):
        table.objects.all()._raw_delete(table.objects.db)
    made = 0
    for begin in range(0, min(count, 20_000), 5000):
        made += len(UsageRecord.objects.bulk_create(rows(begin, min(5000, count - begin), users)))
    while made < count:
        made += _copy(min(made, count - made))


def _copy(count: int) -> int:
    names = [str(field.column) for field in UsageRecord._meta.concrete_fields]
    if connection.vendor == "postgresql":
        fresh = {"id": "gen_random_uuid()", "at": "now() - random() * interval '365 days'"}
    else:
        moment = "strftime('%Y-%m-%d %H:%M:%S', 'now', '-' || (abs(random()) % 31536000) || ' seconds')"
        fresh = {"id": "lower(hex(randomblob(16)))", "at": moment}
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO llm_usage_records ({', '.join(names)}) "
            f"SELECT {', '.join(fresh.get(name, name) for name in names)} FROM llm_usage_records LIMIT {count}"
        )
        return int(cursor.rowcount)


def timed(name: str, ask: Callable[[], Any], times: int = 9) -> float:
    ask()
    took, worked = [], []
    for _ in range(times):
        began, began_work = time.perf_counter(), time.process_time()
        ask()
        took.append((time.perf_counter() - began) * 1000)
        worked.append((time.process_time() - began_work) * 1000)
    middle = statistics.median(took)
    print(
        f"  {name}: {middle:.0f} ms (the quickest of {times} {min(took):.0f} ms; "
        f"{statistics.median(worked):.0f} ms of this process's time)"
    )
    return middle


def main(count: int = 1_000_000, user_count: int = 200) -> int:
    with open_for("a benchmark"):
        call_command("migrate", verbosity=0)
        return 1 if print_lines(measure(count, user_count)) else 0


def measure(count: int, user_count: int) -> Iterator[Line]:
    User.objects.filter(username__startswith="bench-").delete()
    users = [User.objects.create_user(f"bench-{number}") for number in range(user_count)]
    staff = User.objects.create_superuser("bench-staff")
    fill(count, users)
    began = time.perf_counter()
    days = rollups.roll_up()
    took_s = time.perf_counter() - began
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")
    sums = UsageDay.objects.count(), SiteUsageDay.objects.count()
    print(f"{connection.vendor}: {count} rows of {user_count} users, {sums[0]} and {sums[1]} sums")
    print(f"  rolling up: {took_s:.1f} s, {took_s / max(1, len(days)) * 1000:.0f} ms a day", flush=True)
    for name, took_ms in show(users[0], staff):
        yield Line(f"{name}, {count:,} rows: < {LIMIT_MS} ms", f"{took_ms:.0f} ms", took_ms < LIMIT_MS)


def show(user: User, staff: User) -> Iterator[tuple[str, float]]:
    """Each page or response, with its wall-clock ms."""
    # A host name that the site accepts: a refusal would be fast.
    client, boss = Client(SERVER_NAME="localhost"), Client(SERVER_NAME="localhost")
    client.force_login(user)
    boss.force_login(staff)
    span = Span(today() - timedelta(days=364), today())
    asked = {
        "a year of the busiest user, the page": (client, "/settings/llm/usage/?range=12m&by=model"),
        "a year of all users, the page": (boss, f"{SITE}?range=12m"),
        "a year of the busiest user, the API by day": (client, f"/api/usage?from={span.first}"),
        "providers side by side": (client, "/providers/compare/"),
    }
    for name, (visitor, address) in asked.items():
        yield name, timed(name, partial(_got, visitor, address))
    timed("the same year from its rows", lambda: _from_rows(user, span), times=3)


def _got(client: Client, address: str) -> None:
    answer = client.get(address)
    if answer.status_code != 200:
        raise SystemExit(f"{address}: {answer.status_code} {answer.headers.get('Location', '')}")


def _from_rows(user: User, span: Span) -> None:
    """What the page would cost without rollups."""
    from llm_credentials.ledger import aggregates

    found = rollups.ended(UsageRecord.objects.filter(user=user)).values("provider", "model")
    list(found.annotate(**aggregates.of_records()))


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
