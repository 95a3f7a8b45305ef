"""The audit trail itself: signed, chained, refused by the database to whoever would change it."""

from __future__ import annotations

import csv
import io
import json
import re
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, OperationalError, close_old_connections, connection, transaction
from django.db.models import F
from django.utils import timezone

from llm_credentials import audit, keyring
from llm_credentials.audit import Action, AuditUnavailable, chain, guard, keys
from llm_credentials.audit.archive import ArchiveRefused, archive
from llm_credentials.audit.archived import fault_in
from llm_credentials.audit.context import network
from llm_credentials.audit.verify import verify
from llm_credentials.models import AuditCheckpoint, AuditEvent, AuditHead, AuditKey
from project.tests.servers import wait_until

RING = "t1:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
NEW_KEY = "t2:ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA="


def _record(count: int = 1, **said: Any) -> list[AuditEvent]:
    for number in range(count):
        audit.record(**{"action": Action.SETTINGS_CHANGE, "subject": "7", "target": f"settings:{number}"} | said)
    return list(AuditEvent.objects.order_by("shard", "seq"))


def test_record_chains_events_without_gaps(db: None) -> None:
    events = _record(3)
    assert [event.seq for event in events] == [1, 2, 3]
    assert [event.previous for event in events] == [chain.GENESIS, events[0].mac, events[1].mac]
    assert verify().holds
    assert verify().events == 3


def test_a_writer_that_read_an_older_end_does_not_move_it(db: None) -> None:
    """Where no lock keeps two apart, one of them begins anew."""
    _record()
    older = AuditHead.objects.get(seq=1)
    _record()
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
        _record()
        raise ZeroDivisionError
    assert not AuditEvent.objects.exists()
    assert len(_record()) == 1
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
    _record(2)
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
    (event,) = _record()
    with pytest.raises(TypeError):
        event.save()
    with pytest.raises(TypeError):
        event.delete()


def test_verify_says_when_the_guard_is_off(db: None) -> None:
    _record()
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


# Tampering, with the triggers out of the way


def _raw(rows: Any) -> None:
    with guard.lifted():
        rows._raw_delete(rows.db)


@pytest.mark.parametrize(
    "column, value",
    [
        *(("subject", "8"), ("actor", "8"), ("action", "login"), ("target", "x"), ("result", "x"), ("ip", "x")),
        *(("request_id", "x"), ("channel", "x"), ("mac", "0" * 64), ("previous", "0" * 64), ("key_id", "t9")),
        ("at", timezone.now() - timedelta(days=400)),
    ],
)
def test_verify_names_a_changed_row(db: None, column: str, value: Any) -> None:
    events = _record(4)
    with guard.lifted():
        AuditEvent.objects.filter(pk=events[2].pk).update(**{column: value})
    (broken,) = verify().broken
    assert (broken.shard, broken.seq, broken.event) == (events[2].shard, 3, str(events[2].pk))


@pytest.mark.parametrize("place", [1, 2, 4])
def test_verify_names_a_removed_row(db: None, place: int) -> None:
    _record(4)
    _raw(AuditEvent.objects.filter(seq=place))
    (broken,) = verify().broken
    assert (broken.seq, broken.why) == (place, "the row is missing")


def test_verify_names_the_first_row_of_those_that_changed_places(db: None) -> None:
    events = _record(4)
    with guard.lifted():
        AuditEvent.objects.filter(pk=events[1].pk).update(seq=99)
        AuditEvent.objects.filter(pk=events[2].pk).update(seq=2)
        AuditEvent.objects.filter(pk=events[1].pk).update(seq=3)
    (broken,) = verify().broken
    assert (broken.seq, broken.event) == (2, str(events[2].pk))


def _forged(last: AuditEvent) -> AuditEvent:
    event = AuditEvent.objects.get(pk=last.pk)
    event.pk = uuid4()
    event.seq += 1
    event.previous, event.target = last.mac, "forged"
    return event


def test_verify_names_the_row_after_one_from_another_past(db: None) -> None:
    """Signed with the same key, by a copy of the site or before a backup was put back, so only what follows tells."""
    _record()
    end = AuditHead.objects.get(seq=1)
    other = _record(target="elsewhere")[1]
    _raw(AuditEvent.objects.filter(pk=other.pk))
    end.save()
    _record(2)
    assert verify().holds
    _raw(AuditEvent.objects.filter(seq=2))
    AuditEvent.objects.bulk_create([other])
    (broken,) = verify().broken
    assert (broken.seq, broken.why) == (3, "the row does not follow the one before it")


def test_verify_names_a_row_put_in_at_the_end(db: None) -> None:
    events = _record(2)
    forged = _forged(events[-1])
    AuditEvent.objects.bulk_create([forged])
    (broken,) = verify().broken
    assert (broken.seq, broken.event) == (3, str(forged.pk))


def test_verify_names_a_row_put_in_with_the_head_moved(db: None) -> None:
    events = _record(2)
    forged = _forged(events[-1])
    AuditEvent.objects.bulk_create([forged])
    AuditHead.objects.update(seq=3, mac=forged.mac)
    (broken,) = verify().broken
    assert (broken.seq, broken.event) == (3, str(forged.pk))


def test_verify_finds_a_tail_cut_off_with_the_head_put_back(db: None) -> None:
    """Without the key nobody can seal an earlier end."""
    events = _record(3)
    _raw(AuditEvent.objects.filter(seq=3))
    AuditHead.objects.update(seq=2, mac=events[1].mac)
    (broken,) = verify().broken
    assert broken.why == "the record of the chain's end was changed"


def test_verify_finds_an_emptied_trail(db: None) -> None:
    _record(3)
    _raw(AuditEvent.objects.all())
    assert [broken.seq for broken in verify().broken] == [1]
    AuditHead.objects.all().delete()
    assert [broken.why for broken in verify().broken] == ["the trail was emptied: its keys are there, and no chain"]
    AuditKey.objects.all().delete()
    assert verify().holds, "what was taken away entirely only shows beside what was kept elsewhere"


def test_verify_from_a_date_looks_at_no_older_row(db: None) -> None:
    events = _record(4)
    with guard.lifted():
        AuditEvent.objects.filter(seq=2).update(target="changed")
    assert verify(events[3].at).holds
    assert [broken.seq for broken in verify(events[0].at).broken] == [2]


# Key rings


def _ring(settings: Any, text: str) -> None:
    settings.CREDENTIAL_KEYS = text


def test_verify_holds_after_the_old_key_has_left_the_ring(db: None, settings: Any) -> None:
    _record(2)
    _ring(settings, f"{NEW_KEY},{RING}")
    _record(2)
    assert keys.needed_ids() == {"t1", "t2"}
    assert keys.reseal() == 0
    assert keys.needed_ids() == {"t2"}
    _ring(settings, NEW_KEY)
    _record(1)
    assert verify().holds
    assert {event.key_id for event in AuditEvent.objects.all()} == {"t1", "t2"}


def test_verify_says_which_key_is_not_to_be_had(db: None, settings: Any) -> None:
    _record(2)
    _ring(settings, NEW_KEY)
    (broken,) = verify().broken
    assert broken.seq == 1
    assert "'t1'" in broken.why


def test_kept_audit_keys_are_sealed(db: None) -> None:
    _record()
    row = AuditKey.objects.get()
    assert keyring.ring().primary.audit_key.hex() not in row.sealed
    assert keyring.key_id_of(row.sealed) == "t1"


def test_record_raises_and_note_goes_on_without_a_ring(db: None, settings: Any) -> None:
    _ring(settings, "")
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
            _record()
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE audit_events_away RENAME TO audit_events")
        guard.remove()
        guard.install()
    assert not AuditHead.objects.filter(seq__gt=0).exists()


# Who and where


def test_acting_says_who_and_from_where(db: None) -> None:
    with audit.acting(actor="7", ip="203.0.113.9", request_id="r-1", channel="gateway"):
        (event,) = _record()
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
    events = _record(2)
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
    _record(2)
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

    _record(1, target="=1+1")
    assert "'=1+1" in list(lines(AuditEvent.objects.all(), "csv"))[1]


# Archiving


def _age(days: int, *places: int) -> None:
    """Make events older, as their writer would have: signed anew."""
    key = keyring.ring().primary.audit_key
    with guard.lifted():
        AuditEvent.objects.filter(seq__in=places).update(at=F("at") - timedelta(days=days))
        previous = chain.GENESIS
        for event in AuditEvent.objects.order_by("seq"):
            event.previous = previous
            previous = chain.event_mac(key, event)
            AuditEvent.objects.filter(pk=event.pk).update(previous=event.previous, mac=previous)
    head = AuditHead.objects.get(seq__gt=0)
    AuditHead.objects.update(mac=previous, seal=chain.head_seal(key, head.shard, head.seq, previous))


def test_archive_takes_old_rows_and_keeps_the_chain(db: None, tmp_path: Path) -> None:
    _record(5)
    _age(400, 1, 2)
    file = tmp_path / "2025.jsonl"
    call_command("audit_archive", "--before", "2026-06-01", "--to", str(file), stdout=io.StringIO())
    assert [event.seq for event in AuditEvent.objects.order_by("seq")] == [3, 4, 5, 6]
    assert AuditEvent.objects.get(seq=6).action == Action.AUDIT_ARCHIVE
    assert verify().holds
    assert [json.loads(line).get("seq") for line in file.read_text().splitlines()] == [1, 2, None]
    assert fault_in(file) == ""
    assert file.stat().st_mode & 0o777 == 0o600
    _record(1)
    assert verify().holds
    assert guard.is_on()


def test_archive_of_everything_leaves_a_chain_that_goes_on(db: None, tmp_path: Path) -> None:
    _record(3)
    done = archive(before=timezone.now() + timedelta(days=1), path=tmp_path / "all")
    assert done.events == 3
    _record(1)
    assert [event.seq for event in AuditEvent.objects.order_by("seq")] == [4, 5]
    assert verify().holds


def test_archive_refuses_a_broken_chain_and_a_file_that_is_there(db: None, tmp_path: Path) -> None:
    _record(3)
    later = timezone.now() + timedelta(days=1)
    (tmp_path / "there").write_text("mine")
    with pytest.raises(FileExistsError):
        archive(before=later, path=tmp_path / "there")
    with guard.lifted():
        AuditEvent.objects.filter(seq=2).update(target="changed")
    with pytest.raises(ArchiveRefused, match="row 2"):
        archive(before=later, path=tmp_path / "new")
    assert AuditEvent.objects.count() == 3


def test_verify_finds_a_stretch_cut_off_under_a_forged_checkpoint(db: None) -> None:
    events = _record(4)
    _raw(AuditEvent.objects.filter(seq__lte=2))
    AuditCheckpoint.objects.create(
        shard=events[0].shard,
        seq=2,
        mac=events[1].mac,
        archive_sha256="0" * 64,
        key_id="t1",
        seal="0" * 64,
        at=timezone.now(),
    )
    (broken,) = verify().broken
    assert "checkpoint" in broken.why


@pytest.fixture
def archived(db: None, tmp_path: Path) -> Path:
    """Four events, by line 1 to 4, and the signed last line."""
    _record(4)
    file = tmp_path / "all"
    archive(before=timezone.now() + timedelta(days=1), path=file)
    return file


def _edited(file: Path, edit: str) -> None:
    lines = file.read_text().splitlines(keepends=True)
    match edit:
        case "changed":
            lines[1] = lines[1].replace("settings:1", "settings:9")
        case "removed":
            del lines[1]
        case "put in":
            lines.insert(1, lines[1].replace("settings:1", "settings:9"))
        case "swapped":
            lines[1], lines[2] = lines[2], lines[1]
        case "cut":
            del lines[3:]
        case "last event removed":
            del lines[3]
        case "nonsense":
            lines[1] = "nonsense\n"
        case "seal":
            lines[4] = lines[4].replace('"seal": "', '"seal": "0')
    file.write_text("".join(lines))


@pytest.mark.parametrize(
    "edit, says",
    [
        ("changed", "line 2, chain .*, row 2 .*: the row was changed or put in"),
        ("removed", "line 2, chain .*, row 3 .*: a row before it is missing"),
        ("put in", "line 2, chain .*, row 2 .*: the row was changed or put in"),
        ("swapped", "line 2, chain .*, row 3 .*: a row before it is missing or has changed places"),
        ("cut", "the signed last line is missing"),
        ("last event removed", "3 events, where 4 were sealed"),
        ("nonsense", "line 2 is no event"),
        ("seal", "the signed last line was changed"),
    ],
)
def test_an_edited_archive_names_its_first_broken_row(archived: Path, edit: str, says: str) -> None:
    call_command("audit_verify", "--archive", str(archived), stdout=io.StringIO())
    _edited(archived, edit)
    out = io.StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("audit_verify", "--archive", str(archived), stdout=out)
    assert ended.value.code == 1
    assert re.search(says, out.getvalue()), out.getvalue()


def test_an_empty_archive_does_not_hold(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    assert "cut off" in fault_in(tmp_path / "empty")
