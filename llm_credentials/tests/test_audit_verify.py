"""What the check of the audit trail finds."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone

from llm_credentials.audit import guard, keys
from llm_credentials.audit.verify import verify
from llm_credentials.models import AuditEvent, AuditHead, AuditKey
from llm_credentials.tests.audit_trail import past_the_guard, record_events, ring_of

RING = "t1:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
NEW_KEY = "t2:ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA="


@pytest.mark.parametrize(
    "column, value",
    [
        *(("subject", "8"), ("actor", "8"), ("action", "login"), ("target", "x"), ("result", "x"), ("ip", "x")),
        *(("request_id", "x"), ("channel", "x"), ("mac", "0" * 64), ("previous", "0" * 64), ("key_id", "t9")),
        ("at", timezone.now() - timedelta(days=400)),
    ],
)
def test_verify_names_a_changed_row(db: None, column: str, value: Any) -> None:
    events = record_events(4)
    with guard.lifted():
        AuditEvent.objects.filter(pk=events[2].pk).update(**{column: value})
    (broken,) = verify().broken
    assert (broken.shard, broken.seq, broken.event) == (events[2].shard, 3, str(events[2].pk))


@pytest.mark.parametrize("place", [1, 2, 4])
def test_verify_names_a_removed_row(db: None, place: int) -> None:
    record_events(4)
    past_the_guard(AuditEvent.objects.filter(seq=place))
    (broken,) = verify().broken
    assert (broken.seq, broken.why) == (place, "the row is missing")


def test_verify_names_the_first_row_of_those_that_changed_places(db: None) -> None:
    events = record_events(4)
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
    record_events()
    end = AuditHead.objects.get(seq=1)
    other = record_events(target="elsewhere")[1]
    past_the_guard(AuditEvent.objects.filter(pk=other.pk))
    end.save()
    record_events(2)
    assert verify().holds
    past_the_guard(AuditEvent.objects.filter(seq=2))
    AuditEvent.objects.bulk_create([other])
    (broken,) = verify().broken
    assert (broken.seq, broken.why) == (3, "the row does not follow the one before it")


def test_verify_names_a_row_put_in_at_the_end(db: None) -> None:
    events = record_events(2)
    forged = _forged(events[-1])
    AuditEvent.objects.bulk_create([forged])
    (broken,) = verify().broken
    assert (broken.seq, broken.event) == (3, str(forged.pk))


def test_verify_names_a_row_put_in_with_the_head_moved(db: None) -> None:
    events = record_events(2)
    forged = _forged(events[-1])
    AuditEvent.objects.bulk_create([forged])
    AuditHead.objects.update(seq=3, mac=forged.mac)
    (broken,) = verify().broken
    assert (broken.seq, broken.event) == (3, str(forged.pk))


def test_verify_finds_a_tail_cut_off_with_the_head_put_back(db: None) -> None:
    """Without the key nobody can seal an earlier end."""
    events = record_events(3)
    past_the_guard(AuditEvent.objects.filter(seq=3))
    AuditHead.objects.update(seq=2, mac=events[1].mac)
    (broken,) = verify().broken
    assert broken.why == "the record of the chain's end was changed"


def test_verify_finds_an_emptied_trail(db: None) -> None:
    record_events(3)
    past_the_guard(AuditEvent.objects.all())
    assert [broken.seq for broken in verify().broken] == [1]
    AuditHead.objects.all().delete()
    assert [broken.why for broken in verify().broken] == ["the trail was emptied: its keys are there, and no chain"]
    AuditKey.objects.all().delete()
    assert verify().holds, "what was taken away entirely only shows beside what was kept elsewhere"


def test_verify_from_a_date_looks_at_no_older_row(db: None) -> None:
    events = record_events(4)
    with guard.lifted():
        AuditEvent.objects.filter(seq=2).update(target="changed")
    assert verify(events[3].at).holds
    assert [broken.seq for broken in verify(events[0].at).broken] == [2]


def test_verify_holds_after_the_old_key_has_left_the_ring(db: None, settings: Any) -> None:
    record_events(2)
    ring_of(settings, f"{NEW_KEY},{RING}")
    record_events(2)
    assert keys.needed_ids() == {"t1", "t2"}
    assert keys.reseal() == 0
    assert keys.needed_ids() == {"t2"}
    ring_of(settings, NEW_KEY)
    record_events(1)
    assert verify().holds
    assert {event.key_id for event in AuditEvent.objects.all()} == {"t1", "t2"}


def test_verify_says_which_key_is_not_to_be_had(db: None, settings: Any) -> None:
    record_events(2)
    ring_of(settings, NEW_KEY)
    (broken,) = verify().broken
    assert broken.seq == 1
    assert "'t1'" in broken.why
