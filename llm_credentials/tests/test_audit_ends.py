"""Where the chains ended, kept outside of the database: what was emptied or put back together with its ends shows."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from llm_credentials import audit
from llm_credentials.audit import Action, chain, guard
from llm_credentials.audit.archive import archive
from llm_credentials.audit.ends import rows_by_chain
from llm_credentials.audit.verify import check
from llm_credentials.models import AuditCheckpoint, AuditEvent, AuditHead, AuditKey

pytestmark = pytest.mark.django_db


@pytest.fixture
def ends(tmp_path: Path) -> Path:
    """Of a trail of three rows of this thread's chain."""
    _record(3)
    file = tmp_path / "ends.jsonl"
    assert "holds" in _verify(keep_ends=file)
    return file


def _record(count: int = 1) -> None:
    for number in range(count):
        audit.record(action=Action.SETTINGS_CHANGE, subject="7", target=f"settings:{number}")


def _verify(**options: Any) -> str:
    """What is said; its last word is the exit code, where that is not 0."""
    out = io.StringIO()
    try:
        call_command("audit_verify", stdout=out, **options)
    except SystemExit as ended:
        out.write(f"exit {ended.code}")
    return out.getvalue()


def _emptied() -> None:
    with guard.lifted():
        AuditEvent.objects.all()._raw_delete("default")
        AuditCheckpoint.objects.all()._raw_delete("default")
    AuditHead.objects.all().delete()
    AuditKey.objects.all().delete()


def _rewound() -> None:
    """The whole database put back to before the last row: consistent in itself."""
    _emptied()
    _record(2)


def _written_anew() -> None:
    """By somebody who can sign, such as a stolen server."""
    _emptied()
    _record(9)


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (_emptied, "the row is missing, with which the chain ended"),
        (_rewound, "the row is missing, with which the chain ended"),
        (_written_anew, "another row stands where the chain ended"),
    ],
)
def test_what_a_trail_hides_in_itself_shows_beside_its_kept_ends(
    ends: Path, harm: Callable[[], None], says: str
) -> None:
    harm()
    assert "exit" not in _verify(), "in itself it holds"
    said = _verify(ends=ends)
    assert says in said
    assert said.endswith("exit 1")
    assert AuditEvent.objects.filter(action=Action.AUDIT_VERIFY).latest("at").result == "broken"


def test_kept_ends_hold_as_the_chains_go_on(ends: Path) -> None:
    _record(2)
    assert "The audit trail holds." in _verify(ends=ends, keep_ends=ends)
    assert len(ends.read_text().splitlines()) == 2
    archive(before=timezone.now() + timedelta(days=1), path=ends.with_name("archived"))
    assert "The audit trail holds." in _verify(ends=ends)
    _record()
    assert "The audit trail holds." in _verify(ends=ends, keep_ends=ends)


def test_kept_ends_hold_where_exactly_they_were_archived(tmp_path: Path) -> None:
    _record(3)
    ends = tmp_path / "ends"
    call_command("audit_verify", since=timezone.now(), keep_ends=ends, stdout=io.StringIO())
    archive(before=timezone.now() + timedelta(days=1), path=tmp_path / "archived")
    assert AuditCheckpoint.objects.get().seq == 3
    assert "The audit trail holds." in _verify(ends=ends)
    said = json.loads(ends.read_text())
    said["ends"][0][2] = "0" * 64
    ends.write_text(json.dumps(said))
    assert "line 1 was changed" in _verify(ends=ends)


def test_nothing_is_kept_of_a_trail_that_does_not_hold(ends: Path) -> None:
    with guard.lifted():
        AuditEvent.objects.filter(seq=2).update(target="changed")
    before = ends.read_bytes()
    assert _verify(keep_ends=ends).endswith("exit 1")
    assert ends.read_bytes() == before


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda line: line.replace('"ends": [[', '"ends": [[1'), "line 1 was changed"),
        (lambda line: line.replace('"at": "2', '"at": "1'), "line 1 was changed"),
        (lambda line: line.replace('"key_id": "', '"key_id": "no'), "line 1 is signed under another key ring"),
        (lambda line: line.replace('"seal": "', '"seal": "ü'), "line 1 is none of these"),
        (lambda line: "[" * 5000, "line 1 is none of these"),
        (lambda line: '{"at": 1, "ends": 3, "seal": "", "key_id": ""}', "line 1 is none of these"),
        (lambda line: "\n", "line 1 is none of these"),
        (lambda line: "", "the file is empty"),
    ],
)
def test_file_that_does_not_say_where_the_chains_ended_is_refused(
    ends: Path, harm: Callable[[str], str], says: str
) -> None:
    ends.write_text(harm(ends.read_text()))
    said = _verify(ends=ends)
    assert says in said
    assert said.endswith("exit 1")


def test_file_that_is_not_there_is_no_empty_one(ends: Path) -> None:
    with pytest.raises(CommandError, match="cannot be read"):
        _verify(ends=ends.with_name("gone"))


def test_file_is_its_owners_alone(ends: Path) -> None:
    assert ends.stat().st_mode & 0o777 == 0o600


def test_check_leaves_the_length_of_each_chain_in_the_log() -> None:
    _record(3)
    with structlog.testing.capture_logs() as logs:
        check()
    (line,) = [line for line in logs if line["event"] == "audit_checked"]
    assert line["holds"] is True
    assert sum(line["rows_by_chain"].values()) == 3


def test_metrics_tell_of_each_chain_also_when_it_is_gone(client: Client) -> None:
    _record(3)
    (shard,) = AuditHead.objects.values_list("shard", flat=True)
    text = client.get("/metrics").text
    assert f'keyswitch_audit_rows{{chain="{shard}"}} 3.0' in text
    _emptied()
    text = client.get("/metrics").text
    assert f'keyswitch_audit_rows{{chain="{shard}"}} 0.0' in text
    assert rows_by_chain() == dict.fromkeys(range(chain.SHARDS), 0)
