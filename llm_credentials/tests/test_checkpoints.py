"""What brings SQLite's log to the disk while calls are made."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.db import connection

from llm_credentials.ledger import checkpoints, sqlite_direct, writer
from llm_credentials.ledger.budgets import Limits
from llm_credentials.ledger.entries import Entry, Reservation, reservation
from llm_credentials.ledger.prices import Price
from project.tests.servers import wait_until

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor != "sqlite", reason="a log of SQLite's"),
]


@pytest.fixture(autouse=True)
def _own_thread() -> Iterator[None]:
    writer.close()
    yield
    writer.close()


def _path() -> Path:
    return Path(connection.settings_dict["NAME"])


def _asked(user: User) -> Reservation:
    entry = Entry(
        call_id=uuid4(), user_id=user.pk, task="", provider="openai", model="gpt", credential_id=None, key_owner="user"
    )
    return reservation(entry, Limits(), Price(Decimal(0), "test"), 10)


def _reserve(user: User) -> Reservation:
    asked = _asked(user)
    async_to_sync(writer.reserve)(asked)
    return asked


def _rows() -> list[str]:
    with closing(sqlite3.connect(_path())) as found:
        return [str(pk) for (pk,) in found.execute("SELECT id FROM llm_usage_records")]


def _rows_without_log() -> list[str]:
    """Nothing while the file is being written. Opening it past SQLite would take its locks from this process."""
    with closing(sqlite3.connect(f"file:{_path()}?immutable=1", uri=True)) as found, suppress(sqlite3.DatabaseError):
        return [str(pk) for (pk,) in found.execute("SELECT id FROM llm_usage_records")]
    return []


def _names() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


def test_what_was_reserved_reaches_the_file_itself(alice: User) -> None:
    """After far fewer pages than SQLite waits for."""
    asked = _reserve(alice)
    wait_until(lambda: asked.entry.id.hex in _rows_without_log(), "the row in the file")


def test_reader_of_an_older_state_keeps_no_row_from_the_disk(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = threading.Event()
    sync = checkpoints.Checkpoints._sync

    def noted(self: checkpoints.Checkpoints) -> None:
        sync(self)
        synced.set()

    monkeypatch.setattr(checkpoints.Checkpoints, "_sync", noted)
    _reserve(alice)
    with closing(sqlite3.connect(_path(), isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM llm_usage_records").fetchone()
        _reserve(alice)
        assert synced.wait(20)
    assert len(_rows()) == 2


def test_long_log_begins_anew(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "LONG_FRAMES", 20)
    log = Path(f"{_path()}-wal")
    _reserve(alice)
    first = log.read_bytes()[12:24]  # how often it has begun anew, and what its checksums begin with

    def has_begun() -> bool:
        _reserve(alice)
        return log.read_bytes()[12:24] != first

    wait_until(has_begun, "a new log")
    assert _reserve(alice).entry.id.hex in _rows()


def test_writers_are_not_held_up_again_and_again_for_a_reader_that_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "EVERY_S", 60.0)
    found = checkpoints.Checkpoints(_made(tmp_path))
    frames, tried = checkpoints.LONG_FRAMES + 1, []

    def held(self: checkpoints.Checkpoints, how: str) -> tuple[int, int, int]:
        tried.append(how)
        return int(how == "RESTART"), frames, frames

    monkeypatch.setattr(checkpoints.Checkpoints, "_checkpoint", held)
    for _ in range(3):
        found._unsure = True
        found._bring_in()
    assert tried == ["PASSIVE", "RESTART", "PASSIVE", "PASSIVE"]
    frames += checkpoints.PATIENT_FRAMES + 1
    found._unsure = True
    found._bring_in()
    assert tried[4:] == ["PASSIVE", "RESTART"]
    monkeypatch.undo()
    found.close()


def _made(folder: Path) -> sqlite3.Connection:
    made = sqlite3.connect(folder / "any.sqlite3", isolation_level=None, check_same_thread=False)
    made.execute("PRAGMA journal_mode=WAL")
    made.execute("PRAGMA user_version=7")
    return made


def test_version_of_the_file_stays_as_it_is(tmp_path: Path) -> None:
    found = checkpoints.Checkpoints(_made(tmp_path))
    other = sqlite3.connect(tmp_path / "any.sqlite3")
    found._begin_anew()
    assert other.execute("PRAGMA user_version").fetchone() == (7,)
    found.close()
    other.close()


def test_checkpoints_end_with_the_writer_and_leave_the_log_empty(alice: User) -> None:
    _reserve(alice)
    wait_until(lambda: "llm-checkpoints" in _names(), "the thread")
    writer.close()
    assert "llm-checkpoints" not in _names()
    with closing(sqlite3.connect(_path())) as found:
        _, frames, copied = found.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    assert frames == copied


def test_failing_checkpoint_is_told_once_and_tried_again(
    alice: User, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    tried: list[str] = []

    def failing(self: checkpoints.Checkpoints, how: str) -> tuple[int, int, int]:
        tried.append(how)
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(checkpoints.Checkpoints, "_checkpoint", failing)
    _reserve(alice)
    wait_until(lambda: len(tried) > 2, "another attempt")
    assert len(_rows()) == 1
    assert sum("checkpoint_failed" in record.getMessage() for record in caplog.records) == 1
    monkeypatch.undo()


def test_database_in_memory_has_no_desk() -> None:
    own = sqlite3.connect(":memory:")

    class Held:
        vendor = "sqlite"
        connection = own

    assert sqlite_direct.opened(Held()) is None  # type: ignore[arg-type]
    own.close()
