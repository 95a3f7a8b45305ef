"""The database engine: waiting for a connection."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from django.db import connection

from project.tests.servers import wait_until

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has no pool"),
]


@pytest.fixture
def pooled() -> Iterator[list[Any]]:
    """Two users of a pool that has one connection and does not wait for long."""
    from project.postgresql import base

    settings = connection.settings_dict
    options = {**settings["OPTIONS"], "pool": {"min_size": 1, "max_size": 1, "timeout": 0.2}}
    both = [base.DatabaseWrapper({**settings, "OPTIONS": options}, alias="pooled") for _ in range(2)]
    for each in both:
        each.inc_thread_sharing()
    yield both
    for each in both:
        each.close()
    both[0].close_pool()


def test_whoever_finds_all_connections_at_work_waits_for_a_turn(pooled: list[Any]) -> None:
    at_work, waiting = pooled
    at_work.connect()
    thread = threading.Thread(target=waiting.connect)
    thread.start()
    wait_until(lambda: at_work.pool.get_stats().get("requests_errors", 0) >= 1, "the first wait to be over")
    at_work.close()
    thread.join(20)
    assert waiting.connection is not None


def test_nobody_waits_without_end(pooled: list[Any]) -> None:
    at_work, waiting = pooled
    at_work.connect()
    with pytest.raises(psycopg.OperationalError):
        waiting.get_new_connection(waiting.get_connection_params())


def test_nobody_waits_for_a_server_that_is_gone(pooled: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from project.postgresql import base

    at_work, waiting = pooled
    at_work.connect()
    monkeypatch.setattr(base.server, "is_there", lambda host, port: False)
    with pytest.raises(psycopg.OperationalError):
        waiting.get_new_connection(waiting.get_connection_params())
    assert at_work.pool.get_stats()["requests_errors"] == 1
    monkeypatch.setattr(base.server, "suspect", False)


def test_nobody_waits_their_turn_at_a_pooler_that_has_lost_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    from project.postgresql import base
    from project.postgresql.answering import Connection

    monkeypatch.setattr(base.server, "is_there", lambda host, port: True)  # the pooler is
    monkeypatch.setattr(base.server, "suspect", False)
    settings = connection.settings_dict
    pool = {"min_size": 1, "max_size": 1, "timeout": 0.5, "connection_class": Connection}
    options = {**settings["OPTIONS"], "pool": pool}
    lost = base.DatabaseWrapper({**settings, "NAME": "nowhere", "OPTIONS": options}, alias="lost")
    try:
        with pytest.raises(psycopg.OperationalError):
            lost.get_new_connection(lost.get_connection_params())
        assert lost.pool.get_stats()["requests_errors"] < base.BUSY_TURNS
        assert base.server.suspect
    finally:
        lost.close_pool()
