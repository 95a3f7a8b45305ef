"""Measures what row-level security adds to the statements of a call and a page, on PostgreSQL.

    TEST_DATABASE=postgres python benchmarks/wall.py [--times 400]

Rounds with and without alternate; prints medians of the CPU time of this process and its PostgreSQL backend together,
which a busy machine does not change.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from project import env  # noqa: E402

env.use_settings("project.settings_test")

import django  # noqa: E402

django.setup()

from django.conf import settings  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.db import connection, connections  # noqa: E402
from django.test.utils import CaptureQueriesContext  # noqa: E402

from agents.models import Conversation, StoredMessage  # noqa: E402
from llm_credentials import services  # noqa: E402
from llm_credentials.ledger import books  # noqa: E402
from llm_credentials.ledger.budgets import Limits  # noqa: E402
from llm_credentials.ledger.entries import Entry, Outcome, State  # noqa: E402
from llm_credentials.ledger.prices import Price  # noqa: E402
from llm_credentials.live import listener  # noqa: E402
from llm_credentials.models import UsageRecord, UserCredential  # noqa: E402
from llm_credentials.providers import TextPart, Usage  # noqa: E402
from llm_credentials.routing import snapshot  # noqa: E402
from llm_credentials.wall import acting_for, open_for, policies  # noqa: E402

ROUNDS = 6
LIMIT = 0.20
USERS, ROWS = 200, 50_000


def _filled() -> User:
    """The measured user, among others."""
    users = User.objects.bulk_create(User(username=f"user{number}") for number in range(USERS))
    me = users[0]
    for provider in ("openai", "anthropic", "groq"):
        services.credential_save(user=me, provider=provider, api_key=f"sk-ant-{uuid4().hex}{uuid4().hex}")
    UsageRecord.objects.bulk_create(
        (
            UsageRecord(user=users[number % USERS], provider="openai", state=State.SETTLED, cost_usd=Decimal("0.001"))
            for number in range(ROWS)
        ),
        batch_size=5000,
    )
    for user in users:
        conversation = Conversation.objects.create(user=user, agent="conversation")
        StoredMessage.objects.bulk_create(
            StoredMessage(conversation=conversation, position=place, role="user", parts=(TextPart(text="Hello"),))
            for place in range(40)
        )
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    return me


def _paths(me: User) -> dict[str, Callable[[], Any]]:
    site = snapshot.load_site()
    conversation = Conversation.objects.get(user=me)
    limits = Limits(own_monthly_usd=Decimal(10_000))

    def call() -> None:
        entry = Entry(
            call_id=uuid4(),
            user_id=me.pk,
            task="benchmark",
            provider="openai",
            model="gpt-test",
            credential_id=None,
            key_owner="user",
        )
        reserved = books.reserve(entry, limits, Price(Decimal("0.01"), "test"), 100)
        outcome = Outcome(state=State.SETTLED, outcome="ok", latency_ms=1, usage=Usage(), price=Price(Decimal(0)))
        books.settle(reserved, outcome)

    return {
        "one key by its id": lambda: UserCredential.objects.for_user(me).first(),
        "snapshot of a route (3 statements)": lambda: snapshot.load(me, site),
        "ledger: reserve on a budget, settle": call,
        "messages of a conversation (40)": lambda: list(conversation.messages.in_order()),
    }


def _ms(work: Callable[[], Any], times: int) -> float:
    before = _cpu_ms()
    for _ in range(times):
        work()
    return (_cpu_ms() - before) / times


def _cpu_ms() -> float:
    """Of both processes so far; the backend's comes from the kernel, so it must run on this machine."""
    backend = connection.connection.info.backend_pid
    theirs_ns = int(Path(f"/proc/{backend}/schedstat").read_text().split()[0])
    return time.process_time() * 1e3 + theirs_ns / 1e6


def _switch(on: bool) -> None:
    settings.DATABASE_ROW_SECURITY = on
    policies.align(connection)


def main(times: int) -> int:
    if connection.vendor != "postgresql":
        print("row-level security is PostgreSQL's: TEST_DATABASE=postgres measures it")
        return 0
    logging.disable(logging.CRITICAL)
    made = connection.creation
    name = connection.settings_dict["NAME"]
    with open_for("a benchmark"):
        made.create_test_db(verbosity=0, serialize=False)
    try:
        return _measured(times)
    finally:
        listener.close()
        connections.close_all()
        made.destroy_test_db(name, verbosity=0)


def _measured(times: int) -> int:
    with open_for("a benchmark"):
        me = _filled()
        paths = _paths(me)
    missed = 0
    for name, work in paths.items():
        figures: dict[bool, list[float]] = {True: [], False: []}
        statements = {}
        for _ in range(ROUNDS):
            for on in (False, True):
                _switch(on)
                with acting_for(me.pk):
                    work()
                    figures[on].append(_ms(work, times // ROUNDS))
                    with CaptureQueriesContext(connection) as queries:
                        work()
                    statements[on] = len(queries)
        without, through = (statistics.median(figures[on]) for on in (False, True))
        more = through / without - 1
        missed += more > LIMIT
        trips = "no round trip more" if statements[True] == statements[False] else f"{statements} statements"
        print(
            f"  {name:<36} {without:.3f} -> {through:.3f} ms  {more:+.0%} (asked for: {LIMIT:+.0%})  {trips}",
            flush=True,
        )
    return missed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=400)
    sys.exit(bool(main(parser.parse_args().times)))
