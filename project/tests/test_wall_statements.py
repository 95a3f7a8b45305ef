"""No statement leads around the wall."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.db import connection, models

from llm_credentials.wall import WallClosed, acting_for
from project.tests import walled_rows
from project.tests.servers import nothing_open
from project.tests.walled_rows import MODELS, on_postgresql

pytestmark = pytest.mark.django_db
alices = walled_rows.alices  # the fixture


# Nobody has said whose


@pytest.mark.parametrize("model", MODELS)
def test_statement_is_refused_where_nobody_said_whose(model: type[models.Model]) -> None:
    with nothing_open(), pytest.raises(WallClosed, match="acting_for"):
        model._default_manager.count()


@pytest.mark.parametrize(
    "sql",
    [
        "/* a remark */ UPDATE user_llm_credentials SET priority = 9",
        "-- a remark\nUPDATE user_llm_credentials SET priority = 9",
        "/* one /* in another */ */ SELECT 1 FROM user_llm_credentials",
        " ( ( SELECT 1 FROM user_llm_credentials",
        ";SELECT 1 FROM user_llm_credentials",
        "REPLACE INTO user_llm_credentials (id) VALUES (1)",
        "INSERT OR REPLACE INTO user_llm_credentials (id) VALUES (1)",
        "WITH gone AS (SELECT 1) UPDATE user_llm_credentials SET priority = 9",
        "TRUNCATE user_llm_credentials",
        "TABLE user_llm_credentials",
        "VALUES ((SELECT count(*) FROM user_llm_credentials))",
        "LOCK TABLE user_llm_credentials",
        "DO 'BEGIN DELETE FROM user_llm_credentials; END'",
        "BEGIN; DELETE FROM user_llm_credentials",
        'UPDATE "main"."USER_LLM_Credentials" SET priority = 9',
    ],
)
def test_no_way_to_begin_a_statement_leads_around_the_wall(sql: str) -> None:
    with nothing_open(), connection.cursor() as cursor, pytest.raises(WallClosed):
        cursor.execute(sql)
    with nothing_open(), connection.cursor() as cursor, pytest.raises(WallClosed):
        cursor.executemany(sql, [[]])


@on_postgresql
def test_odd_beginnings_are_held_to_their_owners_rows(alices: dict[Any, Any], bob: User) -> None:
    with acting_for(bob.pk), connection.cursor() as cursor:
        for sql in (
            "/* */ SELECT id FROM AGENTS_Conversation",
            "TABLE agents_conversation",
            "((SELECT 1 FROM llm_settings))",
        ):
            cursor.execute(sql)
            assert cursor.fetchall() == []


def test_statements_about_a_table_itself_pass() -> None:
    with nothing_open(), connection.cursor() as cursor:
        cursor.execute("/* for a proof */ CREATE INDEX of_a_proof ON llm_settings (default_provider)")
        cursor.execute("DROP INDEX of_a_proof")


def test_nothing_here_talks_to_a_database_past_the_wall() -> None:
    """What Django's cursors hand on to the driver unseen; the ledger says itself whose rows it means."""
    past = re.compile(r"\.executescript\b|\.callproc\b|\bcursor\.copy\b|\bconnection\.connection\b")
    found = {
        str(path.relative_to(settings.BASE_DIR))
        for app in ("agents", "llm_credentials", "project")
        for path in (settings.BASE_DIR / app).rglob("*.py")
        if "tests" not in path.parts and past.search(path.read_text())
    }
    assert found == {f"llm_credentials/ledger/{name}.py" for name in ("executor", "sqlite_direct", "statements")}


def test_statements_about_nobodys_rows_pass() -> None:
    with nothing_open():
        assert User.objects.count() == 0
