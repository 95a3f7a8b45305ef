"""Moves old parts of the chains from the database into a sealed file; the chains stay verifiable."""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path

from django.db import transaction
from django.utils import timezone

from llm_credentials.audit import guard, keys
from llm_credentials.audit.chain import checkpoint_seal
from llm_credentials.audit.export import as_json
from llm_credentials.audit.recording import record
from llm_credentials.audit.verify import verify
from llm_credentials.audit.words import Action, target_of
from llm_credentials.models import AuditCheckpoint, AuditEvent


class ArchiveRefused(Exception):
    """Nothing was archived; the message says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Archived:
    events: int
    sha256: str


def archive(*, before: datetime, path: Path) -> Archived:
    """Write events older than ``before`` to ``path``, which must not exist, then replace them with checkpoints.

    The file holds one event per line and a signed last line. Raises ArchiveRefused, KeyringError, OSError.
    """
    report = verify()
    if report.broken:
        raise ArchiveRefused(f"The trail is broken at {report.broken[0]}. Find out why first; nothing was archived.")
    ends = _ends(before)
    if not ends:
        return Archived(events=0, sha256="")
    written = _write(path, ends)
    _remove(ends, written)
    return written


def archive_seal(key: bytes, events: int, digest: str) -> str:
    """Signature of the file: the number of events and the SHA-256 of their lines."""
    return hmac.new(key, f"archive v1|{events}|{digest}".encode(), sha256).hexdigest()


def _ends(before: datetime) -> dict[int, AuditEvent]:
    """The last event of each chain before the first one to keep."""
    found: dict[int, AuditEvent] = {}
    for shard in AuditEvent.objects.order_by().values_list("shard", flat=True).distinct():
        rows = AuditEvent.objects.filter(shard=shard)
        stays = rows.filter(at__gte=before).order_by("seq").first()
        last = (rows.filter(seq__lt=stays.seq) if stays else rows).order_by("-seq").first()
        if last is not None:
            found[shard] = last
    return found


def _write(path: Path, ends: dict[int, AuditEvent]) -> Archived:
    key_id, key = keys.signing()
    digest, count = sha256(), 0
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        for event in _stretches(ends):
            line = json.dumps(as_json(event)).encode() + b"\n"
            digest.update(line)
            file.write(line)
            count += 1
        whole = digest.hexdigest()
        seal = archive_seal(key, count, whole)
        file.write(json.dumps({"events": count, "sha256": whole, "key_id": key_id, "seal": seal}).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return Archived(events=count, sha256=whole)


def _stretches(ends: dict[int, AuditEvent]) -> Iterator[AuditEvent]:
    for shard, last in sorted(ends.items()):
        yield from AuditEvent.objects.filter(shard=shard, seq__lte=last.seq).order_by("seq").iterator(chunk_size=1000)


def _remove(ends: dict[int, AuditEvent], written: Archived) -> None:
    """Atomic; the audit event about it is part of the same transaction."""
    key_id, key = keys.signing()
    now = timezone.now()
    checkpoints = [
        AuditCheckpoint(
            shard=shard,
            seq=last.seq,
            mac=last.mac,
            archive_sha256=written.sha256,
            key_id=key_id,
            seal=checkpoint_seal(key, shard, last.seq, last.mac, written.sha256),
            at=now,
        )
        for shard, last in ends.items()
    ]
    with transaction.atomic():
        with guard.lifted():
            removed = 0
            for shard, last in ends.items():
                stretch = AuditEvent.objects.filter(shard=shard, seq__lte=last.seq)
                removed += stretch._raw_delete(stretch.db)
            if removed != written.events:
                raise ArchiveRefused("The trail changed while it was archived. Nothing was removed; try again.")
            AuditCheckpoint.objects.bulk_create(checkpoints)
        record(action=Action.AUDIT_ARCHIVE, target=target_of("archive", written.sha256), result=str(removed))
