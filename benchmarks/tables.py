"""Plans and times of the queries of every call with a million users, beside the plans in a small database.

    TEST_DATABASE=postgres python benchmarks/tables.py [--users 1000000] [--credentials 5000000] [--usage 1000000]

Exits with 1 if a large table is scanned sequentially, or if size changes what a query reads or by which condition.
"""

from __future__ import annotations

import argparse
import logging
import re
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from project import env  # noqa: E402

env.use_settings("project.settings_test")

import django  # noqa: E402

django.setup()

from django.contrib.auth.models import User  # noqa: E402
from django.db import connection, transaction  # noqa: E402

from llm_credentials import wall  # noqa: E402
from llm_credentials.routing import snapshot  # noqa: E402
from llm_credentials.tests.big_tables import Plans, explained, fill, hot_queries  # noqa: E402
from project.tests import servers  # noqa: E402

_FIGURES = re.compile(r"\s*\(cost=[^)]*\)|\bn = \d+|'[^']*'|\b\d+\b")
_BY_INDEX = re.compile(r"(?:Bitmap Heap Scan|Index (?:Only )?Scan using \w+) on (\w+)")
_SAYS_NOTHING = re.compile(r"(Filter|Recheck Cond|InitPlan|Result|Bitmap Index Scan)\b")


def shapes(plans: Plans) -> dict[str, list[str]]:
    """What is read and by which condition, without parts that depend on the rows.

    Two indexes with the same first column give the same rows for a condition on it, with or without a bitmap scan;
    PostgreSQL's choice depends on a few hundredths of their cost. A filter reads no additional rows.
    """
    return {sql: sorted(_steps(plan)) for sql, plan in plans.seen.items()}


def _steps(plan: str) -> Iterator[str]:
    for line in plan.splitlines():
        step = _FIGURES.sub("", line).strip().removeprefix("->").strip()
        if not _SAYS_NOTHING.match(step):
            yield _BY_INDEX.sub(r"by index: \1", step)


def measured(*, users: int, credentials: int, usage: int) -> tuple[Plans, float]:
    """The plans, and the time to read one user's snapshot, in milliseconds."""
    name = connection.settings_dict["NAME"]
    connection.creation.create_test_db(verbosity=0, serialize=False)
    try:
        began = time.monotonic()
        user = fill(users=users, credentials=credentials, usage=usage)
        took = time.monotonic() - began
        print(f"{users:,} users, {credentials:,} credentials, {usage:,} usage rows: made in {took:.0f} s", flush=True)
        # Within a transaction the ledger uses Django's connection, where its statements are recorded.
        with transaction.atomic(), explained() as plans:
            hot_queries(user)
        return plans, _snapshot_ms(user)
    finally:
        servers.drop_database(name)


def _snapshot_ms(user: User) -> float:
    site, figures = snapshot.load_site(), []
    for _ in range(50):
        before = time.perf_counter()
        snapshot.load(user, site)
        figures.append((time.perf_counter() - before) * 1e3)
    return statistics.median(figures)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--credentials", type=int, default=5_000_000)
    parser.add_argument("--usage", type=int, default=1_000_000)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    print(connection.vendor)
    small, small_ms = measured(users=4_000, credentials=20_000, usage=20_000)
    large, large_ms = measured(users=options.users, credentials=options.credentials, usage=options.usage)
    for sql, plan in large.seen.items():
        print(f"\n{sql[:150]}\n  " + plan.replace("\n", "\n  "))
    changed = [sql for sql, shape in shapes(large).items() if shapes(small).get(sql, shape) != shape]
    print(f"\nsnapshot of one user: {small_ms:.2f} ms small, {large_ms:.2f} ms large")
    print(f"plans: {len(large.seen)}, reading a large table from end to end: {len(large.scans())}")
    print(f"plans that size changes: {len(changed)}")
    for sql in (*large.scans(), *changed):
        print(f"  {sql[:200]}")
    return 1 if large.scans() or changed else 0


if __name__ == "__main__":
    with wall.open_for("a benchmark"):
        sys.exit(main())
