"""Archives of the audit trail."""

from __future__ import annotations

import io
import json
import re
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db.models import F
from django.utils import timezone

from llm_credentials import keyring
from llm_credentials.audit import Action, chain, guard
from llm_credentials.audit.archive import ArchiveRefused, archive
from llm_credentials.audit.archived import fault_in
from llm_credentials.audit.verify import verify
from llm_credentials.models import AuditCheckpoint, AuditEvent, AuditHead
from llm_credentials.tests.audit_trail import past_the_guard, record_events

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
    record_events(5)
    _age(400, 1, 2)
    file = tmp_path / "2025.jsonl"
    call_command("audit_archive", "--before", "2026-06-01", "--to", str(file), stdout=io.StringIO())
    assert [event.seq for event in AuditEvent.objects.order_by("seq")] == [3, 4, 5, 6]
    assert AuditEvent.objects.get(seq=6).action == Action.AUDIT_ARCHIVE
    assert verify().holds
    assert [json.loads(line).get("seq") for line in file.read_text().splitlines()] == [1, 2, None]
    assert fault_in(file) == ""
    assert file.stat().st_mode & 0o777 == 0o600
    record_events(1)
    assert verify().holds
    assert guard.is_on()


def test_archive_of_everything_leaves_a_chain_that_goes_on(db: None, tmp_path: Path) -> None:
    record_events(3)
    done = archive(before=timezone.now() + timedelta(days=1), path=tmp_path / "all")
    assert done.events == 3
    record_events(1)
    assert [event.seq for event in AuditEvent.objects.order_by("seq")] == [4, 5]
    assert verify().holds


def test_archive_refuses_a_broken_chain_and_a_file_that_is_there(db: None, tmp_path: Path) -> None:
    record_events(3)
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
    events = record_events(4)
    past_the_guard(AuditEvent.objects.filter(seq__lte=2))
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
    record_events(4)
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
