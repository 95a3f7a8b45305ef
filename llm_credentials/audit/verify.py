"""Verifies the chains and reports the first break in each."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import structlog
from django.db import DatabaseError, connection
from django.utils import timezone

from llm_credentials.audit import guard, keys
from llm_credentials.audit.chain import GENESIS, AuditUnavailable, checkpoint_seal, event_mac, head_seal
from llm_credentials.audit.ends import Ends, rows_by_chain
from llm_credentials.audit.recording import note
from llm_credentials.audit.words import Action
from llm_credentials.models import AuditCheckpoint, AuditEvent, AuditHead, AuditKey

log = structlog.get_logger(__name__)

LOOKED_BACK: Final = timedelta(days=30)


@dataclass(frozen=True, kw_only=True, slots=True)
class Broken:
    """The first place where a chain is broken."""

    shard: int
    seq: int
    why: str
    event: str = ""
    """The row's id, if the row exists."""

    def __str__(self) -> str:
        row = f" (event {self.event})" if self.event else ""
        return f"chain {self.shard}, row {self.seq}{row}: {self.why}"


@dataclass(kw_only=True, slots=True)
class Report:
    events: int = 0
    chains: int = 0
    broken: list[Broken] = field(default_factory=list)
    """At most one per chain."""
    guarded: bool = True
    """Whether the database refuses changes."""

    @property
    def holds(self) -> bool:
        return self.guarded and not self.broken


def verify(since: datetime | None = None, ends: Ends | None = None) -> Report:
    """Check every chain. ``since``: start from its first event at or after that time. ``ends``, kept elsewhere: also
    check that each chain still has the row with which it ended then. Raises KeyringError.
    """
    found, ends = Report(guarded=guard.is_on(connection)), ends or {}
    shards = {
        *ends,
        *AuditHead.objects.values_list("shard", flat=True),
        *AuditEvent.objects.order_by().values_list("shard", flat=True).distinct(),
        *AuditCheckpoint.objects.values_list("shard", flat=True),
    }
    for shard in sorted(shards):
        walk = _Walk(shard)
        broken = walk.to_end(since) or (walk.past_end(*ends[shard]) if shard in ends else None)
        found.chains += 1
        found.events += walk.events
        if broken is not None:
            found.broken.append(broken)
    if not shards and AuditKey.objects.exists():
        found.broken.append(Broken(shard=0, seq=1, why="the trail was emptied: its keys are there, and no chain"))
    return found


def check(ends: Ends | None = None) -> Report:
    """Verify every chain from its beginning and record the result. Raises KeyringError."""
    found = verify(ends=ends)
    # Also logged, because logs are kept elsewhere and are not restored with the database.
    log.info("audit_checked", holds=found.holds, rows_by_chain=rows_by_chain())
    try:
        note(action=Action.AUDIT_VERIFY, subject="system", result="holds" if found.holds else "broken")
    except (AuditUnavailable, DatabaseError) as error:
        # A read-only copy must be checkable too.
        log.warning("audit_check_not_noted", error=type(error).__name__)
    return found


def last_check() -> AuditEvent | None:
    """The last recorded check within ``LOOKED_BACK``."""
    checks = AuditEvent.objects.filter(subject="system", action=Action.AUDIT_VERIFY)
    return checks.filter(at__gte=timezone.now() - LOOKED_BACK).recent_first().first()


class _Walk:
    """Verifies one chain."""

    def __init__(self, shard: int) -> None:
        self.shard = shard
        self.events = 0
        self.keys: dict[str, bytes | None] = {}
        self.seq = 0
        self.mac = GENESIS

    def to_end(self, since: datetime | None) -> Broken | None:
        head = AuditHead.objects.filter(pk=self.shard).first()
        broken = self._from_checkpoint() or (self._skip_to(since) if since else None)
        if broken:
            return broken
        for event in self._rows(head):
            if broken := self._check(event):
                return broken
            self.events += 1
            self.seq, self.mac = event.seq, event.mac
        return self._check_head(head)

    def past_end(self, seq: int, mac: str) -> Broken | None:
        """Broken if the chain lacks the row with which it ended when its end was stored elsewhere."""
        if seq > self.seq:
            return self._broken(seq, "the row is missing, with which the chain ended when its end was kept elsewhere")
        checkpoint = AuditCheckpoint.objects.filter(shard=self.shard, seq__gte=seq).order_by("seq").first()
        if checkpoint is not None and checkpoint.seq > seq:
            return None  # archived since; the file has the row, and the checkpoint is signed
        row = AuditEvent.objects.filter(shard=self.shard, seq=seq).first()
        there = checkpoint or row
        if there is None or not hmac.compare_digest(there.mac, mac):
            return self._broken(seq, "another row stands where the chain ended when its end was kept elsewhere", row)
        return None

    def _rows(self, head: AuditHead | None) -> Iterator[AuditEvent]:
        """Rows up to the head as read. Writers may append meanwhile; the next check covers those rows."""
        rows = AuditEvent.objects.filter(shard=self.shard, seq__gt=self.seq).order_by("seq")
        return (rows.filter(seq__lte=head.seq) if head else rows).iterator(chunk_size=1000)

    def _from_checkpoint(self) -> Broken | None:
        checkpoint = AuditCheckpoint.objects.filter(shard=self.shard).order_by("-seq").first()
        if checkpoint is None:
            return None
        said = (self.shard, checkpoint.seq, checkpoint.mac, checkpoint.archive_sha256)
        key = self._key(checkpoint.key_id)
        if key is None or not hmac.compare_digest(checkpoint_seal(key, *said), checkpoint.seal):
            return self._broken(checkpoint.seq, "the checkpoint of the archived stretch is not signed by this site")
        below = AuditEvent.objects.filter(shard=self.shard, seq__lte=checkpoint.seq).order_by("seq").first()
        if below is not None:
            return self._broken(below.seq, "a row stands where everything was archived", below)
        self.seq, self.mac = checkpoint.seq, checkpoint.mac
        return None

    def _skip_to(self, since: datetime) -> Broken | None:
        rows = AuditEvent.objects.filter(shard=self.shard)
        first = rows.filter(at__gte=since).order_by("seq").first()
        if first is None or first.seq <= self.seq + 1:
            return None
        before = rows.filter(seq=first.seq - 1).first()
        if before is None:
            return self._broken(first.seq - 1, "the row is missing")
        self.seq, self.mac = before.seq, before.mac
        return None

    def _check(self, event: AuditEvent) -> Broken | None:
        if event.seq != self.seq + 1:
            return self._broken(self.seq + 1, "the row is missing")
        key = self._key(event.key_id)
        if key is None:
            return self._broken(event.seq, f"signed under {event.key_id!r}, whose key is not to be had", event)
        if not hmac.compare_digest(event_mac(key, event), event.mac):
            return self._broken(event.seq, "the row was changed or put in", event)
        if event.previous != self.mac:
            return self._broken(event.seq, "the row does not follow the one before it", event)
        return None

    def _check_head(self, head: AuditHead | None) -> Broken | None:
        if head is None:
            return self._broken(self.seq, "the record of the chain's end is missing")
        key = self._key(head.key_id) if head.key_id else None
        if head.seq and (key is None or not hmac.compare_digest(_seal(key, head), head.seal)):
            return self._broken(head.seq, "the record of the chain's end was changed")
        if head.seq > self.seq:
            return self._broken(self.seq + 1, "the row is missing")
        if (head.seq, head.mac) != (self.seq, self.mac):
            return self._broken(self.seq, "the chain goes on past its end")
        return self._past(head)

    def _past(self, head: AuditHead) -> Broken | None:
        """A row after the end was inserted by hand, unless a writer has just advanced the head."""
        extra = AuditEvent.objects.filter(shard=self.shard, seq__gt=head.seq).order_by("seq").first()
        if extra is None or AuditHead.objects.filter(pk=self.shard, seq__gte=extra.seq).exists():
            return None
        return self._broken(extra.seq, "the row was put in after the chain's end", extra)

    def _key(self, key_id: str) -> bytes | None:
        if key_id not in self.keys:
            self.keys[key_id] = keys.verifying(key_id)
        return self.keys[key_id]

    def _broken(self, seq: int, why: str, event: AuditEvent | None = None) -> Broken:
        return Broken(shard=self.shard, seq=seq, why=why, event=str(event.pk) if event else "")


def _seal(key: bytes, head: AuditHead) -> str:
    return head_seal(key, head.shard, head.seq, head.mac)
