"""The audit trail itself: signed, chained, refused by the database to whoever would change it."""

from __future__ import annotations

import csv
import io
import json
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, OperationalError, close_old_connections, connection, transaction
from django.utils import timezone

from llm_credentials import audit, keyring
from llm_credentials.audit import Action, AuditUnavailable, chain, guard, keys
from llm_credentials.audit.archive import archive
from llm_credentials.audit.context import network
from llm_credentials.audit.verify import verify
from llm_credentials.models import AuditEvent, AuditHead, AuditKey
from llm_credentials.tests.audit_trail import record_events, ring_of
from project.tests.servers import wait_until


def test_record_chains_events_without_gaps(db: None) -> None:
    events = record_events(3)
    assert [event.seq for event in events] == [1, 2, 3]
    assert [event.previous for event in events] == [chain.GENESIS, events[0].mac, events[1].mac]
    assert verify().holds
    assert verify().events == 3


def test_a_writer_that_read_an_older_end_does_not_move_it(db: None) -> None:
    """Where no lock keeps two apart, one of them begins anew."""
    record_events()
    older = AuditHead.objects.get(seq=1)
    record_events()
    key_id, key = keys.signing()
    drafted = chain.draft(
        action="x", actor="", subject="", target="", result="", ip="", request_id="", channel="python"
    )
    events = chain._chained([drafted], older, key_id, key)
    assert not chain._move_head(older, events[-1], key)
    assert AuditHead.objects.get(pk=older.pk).seq == 2
    assert verify().holds


def test_record_takes_part_in_the_transaction(db: None) -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        record_events()
        raise ZeroDivisionError
    assert not AuditEvent.objects.exists()
    assert len(record_events()) == 1
    assert verify().holds


@pytest.mark.django_db(transaction=True)
def test_record_by_many_threads_keeps_every_chain(settings: Any) -> None:
    """Alone, in groups and inside transactions."""
    faults: list[Exception] = []

    def write(number: int) -> None:
        try:
            for turn in range(10):
                if turn % 3:
                    audit.record(action=Action.KEY_OPEN, subject=str(number), target=f"credential:{turn}")
                else:
                    with transaction.atomic():
                        audit.record(action=Action.CREDENTIAL_CHANGE, subject=str(number))
                        audit.record(action=Action.CREDENTIAL_TOGGLE, subject=str(number))
        except Exception as fault:
            faults.append(fault)
        finally:
            connection.close()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    close_old_connections()
    assert not faults
    report = verify()
    assert report.broken == []
    assert report.events == 8 * 14


@pytest.mark.django_db(transaction=True)
def test_events_that_wait_are_written_as_one_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the fault of one group is not the next one's."""
    append, sizes = chain.append, list[int]()
    outcomes: list[str] = []

    def first_fails(drafts: Any) -> None:
        sizes.append(len(drafts))
        if len(sizes) > 1:
            append(drafts)
            return
        wait_until(lambda: len(chain._group.waiting) == 3, "three that wait")
        raise OperationalError

    def write() -> None:
        try:
            audit.record(action=Action.KEY_OPEN)
            outcomes.append("ok")
        except AuditUnavailable:
            outcomes.append("refused")
        finally:
            connection.close()

    monkeypatch.setattr(chain, "append", first_fails)
    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (sizes, sorted(outcomes)) == ([1, 3], ["ok", "ok", "ok", "refused"])
    assert verify().events == 3


@pytest.mark.parametrize("change", ["update", "delete", "replace", "update_checkpoint", "delete_checkpoint"])
def test_database_refuses_to_change_what_was_written(db: None, change: str, tmp_path: Path) -> None:
    record_events(2)
    if change.endswith("checkpoint"):
        archive(before=timezone.now() + timedelta(days=1), path=tmp_path / "old")
    statements = {
        "update": "UPDATE audit_events SET subject = '8'",
        "delete": "DELETE FROM audit_events",
        "replace": "INSERT OR REPLACE INTO audit_events SELECT * FROM audit_events",
        "update_checkpoint": "UPDATE audit_checkpoints SET seq = 9",
        "delete_checkpoint": "DELETE FROM audit_checkpoints",
    }
    if change == "replace" and connection.vendor != "sqlite":
        over = "ON CONFLICT (id) DO UPDATE SET seq = 9"
        statements["replace"] = f"INSERT INTO audit_events SELECT * FROM audit_events {over}"
    with pytest.raises(IntegrityError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statements[change])
    assert verify().holds


def test_database_refuses_to_truncate(db: None) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has no TRUNCATE")
    with pytest.raises(IntegrityError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("TRUNCATE audit_events")


def test_events_are_neither_saved_nor_deleted_one_by_one(db: None) -> None:
    (event,) = record_events()
    with pytest.raises(TypeError):
        event.save()
    with pytest.raises(TypeError):
        event.delete()


def test_verify_says_when_the_guard_is_off(db: None) -> None:
    record_events()
    guard.remove()
    assert not verify().guarded
    guard.install()
    assert verify().holds


_HOLLOW = {
    "sqlite": [
        [
            "DROP TRIGGER audit_events_no_delete",
            "CREATE TRIGGER audit_events_no_delete BEFORE DELETE ON audit_events BEGIN SELECT 1; END",
        ],
        [
            "DROP TRIGGER audit_events_no_update",
            "CREATE TRIGGER audit_events_no_update BEFORE UPDATE OF ip ON audit_events"
            " BEGIN SELECT RAISE(ABORT, 'audit rows are append-only'); END",
        ],
    ],
    "postgresql": [
        ["CREATE OR REPLACE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN OLD; END $$"],
        ["ALTER TABLE audit_events ENABLE REPLICA TRIGGER audit_events_no_change"],
        ["ALTER TABLE audit_checkpoints DISABLE TRIGGER audit_checkpoints_no_truncate"],
        [
            "DROP TRIGGER audit_events_no_change ON audit_events",
            "CREATE TRIGGER audit_events_no_change BEFORE DELETE ON audit_events FOR EACH ROW"
            " WHEN (OLD.seq = 0) EXECUTE FUNCTION audit_refuse()",
        ],
        [
            "DROP TRIGGER audit_events_no_change ON audit_events",
            "CREATE TRIGGER audit_events_no_change BEFORE DELETE OR UPDATE OF ip ON audit_events FOR EACH ROW"
            " EXECUTE FUNCTION audit_refuse()",
        ],
    ],
}


@pytest.mark.parametrize("number", range(5))
def test_verify_says_when_the_guard_is_there_and_refuses_nothing(db: None, number: int) -> None:
    hollow = _HOLLOW[connection.vendor]
    if number >= len(hollow):
        pytest.skip("this database knows fewer ways")
    with connection.cursor() as cursor:
        for statement in hollow[number]:
            cursor.execute(statement)
    assert not verify().guarded
    guard.remove()
    guard.install()
    assert verify().holds


def test_kept_audit_keys_are_sealed(db: None) -> None:
    record_events()
    row = AuditKey.objects.get()
    assert keyring.ring().primary.audit_key.hex() not in row.sealed
    assert keyring.key_id_of(row.sealed) == "t1"


def test_record_raises_and_note_goes_on_without_a_ring(db: None, settings: Any) -> None:
    ring_of(settings, "")
    with pytest.raises(keyring.KeyringError):
        audit.record(action=Action.KEY_OPEN)
    audit.note(action=Action.LOGOUT)
    assert not AuditEvent.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_record_raises_when_the_table_is_gone() -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE audit_events RENAME TO audit_events_away")
    try:
        with pytest.raises(AuditUnavailable):
            record_events()
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE audit_events_away RENAME TO audit_events")
        guard.remove()
        guard.install()
    assert not AuditHead.objects.filter(seq__gt=0).exists()


# Who and where


def test_acting_says_who_and_from_where(db: None) -> None:
    with audit.acting(actor="7", ip="203.0.113.9", request_id="r-1", channel="gateway"):
        (event,) = record_events()
    assert (event.actor, event.ip, event.request_id, event.channel) == ("7", "203.0.113.0/24", "r-1", "gateway")


@pytest.mark.parametrize(
    "ip, kept",
    [
        ("203.0.113.9", "203.0.113.0/24"),
        ("2001:db8:1:2::3", "2001:db8:1::/48"),
        ("::ffff:203.0.113.9", "203.0.113.0/24"),
        ("no address", ""),
        ("", ""),
    ],
)
def test_network_keeps_the_place_and_not_the_person(ip: str, kept: str) -> None:
    assert network(ip) == kept


# Commands


def test_audit_verify_ends_with_1_and_names_the_row(db: None) -> None:
    events = record_events(2)
    out = io.StringIO()
    call_command("audit_verify", stdout=out)
    assert "The audit trail holds." in out.getvalue()
    with guard.lifted():
        AuditEvent.objects.filter(seq=2).update(target="changed")
    with pytest.raises(SystemExit) as ended:
        call_command("audit_verify", stdout=out)
    assert ended.value.code == 1
    assert str(events[1].pk) in out.getvalue()


def test_audit_verify_refuses_what_is_no_date(db: None) -> None:
    with pytest.raises(CommandError, match="is no date"):
        call_command("audit_verify", "--from", "yesterday")


def test_audit_export_writes_json_lines_and_csv(db: None, tmp_path: Path) -> None:
    record_events(2)
    out = io.StringIO()
    call_command("audit_export", stdout=out)
    rows = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [row["target"] for row in rows] == ["settings:0", "settings:1"]
    file = tmp_path / "events.csv"
    call_command("audit_export", "--format", "csv", "--to", str(file), "--subject", "7")
    assert [row["seq"] for row in csv.DictReader(file.open())] == ["1", "2"]
    with pytest.raises(CommandError, match="cannot be written"):
        call_command("audit_export", "--to", str(file))


def test_export_defuses_formulas(db: None) -> None:
    from llm_credentials.audit.export import lines

    record_events(1, target="=1+1")
    assert "'=1+1" in list(lines(AuditEvent.objects.all(), "csv"))[1]
