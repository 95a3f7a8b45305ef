"""The chains: signs events, appends them, and commits concurrent ones together (group commit).

There are ``SHARDS`` chains. A thread always writes to the same one, so a transaction waits for at most one head and two
transactions cannot deadlock. Outside of transactions, events that wait at the same time are written as one group: one
of the waiting threads writes for all of them.
"""

from __future__ import annotations

import hmac
import json
import os
import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import ClassVar
from uuid import uuid4

import structlog
from django.db import DatabaseError, connection, transaction
from django.utils import timezone

from llm_credentials import keyring
from llm_credentials.audit import keys
from llm_credentials.models import AuditEvent, AuditHead

log = structlog.get_logger(__name__)

SHARDS = 16
GENESIS = "0" * 64
"""The previous ``mac`` of a chain's first event."""
ATTEMPTS = 5


class AuditUnavailable(RuntimeError):
    """An event could not be written, so the announced action must not happen.

    Not an LLMError: no key or provider is at fault, and the next candidate would need an event too. It therefore ends a
    call at once, before any key is opened, and reservations are voided.
    """

    user_message: ClassVar[str] = (
        "The audit trail cannot be written just now, so no key was used. Nothing was lost; try again in a moment."
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """An event without a position in a chain."""

    action: str
    actor: str
    subject: str
    target: str
    result: str
    ip: str
    request_id: str
    channel: str
    at: datetime


def draft(
    *, action: str, actor: str, subject: str, target: str, result: str, ip: str, request_id: str, channel: str
) -> Draft:
    return Draft(
        action=action,
        actor=actor,
        subject=subject,
        target=target,
        result=result,
        ip=ip,
        request_id=request_id,
        channel=channel,
        at=timezone.now(),
    )


# Signing


def event_mac(key: bytes, event: AuditEvent) -> str:
    said: list[str | int] = [
        "event v1",
        event.shard,
        event.seq,
        str(event.pk),
        event.at.astimezone(UTC).isoformat(timespec="microseconds"),
        *(event.actor, event.subject, event.action, event.target, event.result),
        *(event.ip, event.request_id, event.channel, event.key_id, event.previous),
    ]
    return _mac(key, said)


def head_seal(key: bytes, shard: int, seq: int, mac: str) -> str:
    return _mac(key, ["head v1", shard, seq, mac])


def checkpoint_seal(key: bytes, shard: int, seq: int, mac: str, archive_sha256: str) -> str:
    return _mac(key, ["checkpoint v1", shard, seq, mac, archive_sha256])


def ends_seal(key: bytes, at: str, ends: Sequence[Sequence[str | int]]) -> str:
    """Signs (chain, seq, ``mac``) of every chain, for the copy kept elsewhere."""
    return _mac(key, ["ends v1", at, json.dumps([list(end) for end in ends])])


def _mac(key: bytes, said: Sequence[str | int]) -> str:
    return hmac.new(key, json.dumps(said, ensure_ascii=True).encode(), sha256).hexdigest()


# Appending


def append(drafts: Sequence[Draft]) -> None:
    """Append to this thread's chain, in the caller's transaction or one of its own.

    Raises KeyringError, DatabaseError, AuditUnavailable.
    """
    key_id, key = keys.signing()
    shard = _shard()
    with transaction.atomic(savepoint=False):
        for _ in range(ATTEMPTS):
            head = _locked_head(shard)
            if head.key_id != key_id:
                keys.keep(key_id)
            events = _chained(drafts, head, key_id, key)
            if _move_head(head, events[-1], key):
                AuditEvent.objects.bulk_create(events)
                return
        raise AuditUnavailable("The audit trail is too busy to take an event.")


def _locked_head(shard: int) -> AuditHead:
    heads = AuditHead.objects.select_for_update().filter(pk=shard)
    head = heads.first()
    if head is None:
        AuditHead.objects.bulk_create([AuditHead(shard=shard, mac=GENESIS)], ignore_conflicts=True)
        head = heads.get()
    return head


def _move_head(head: AuditHead, last: AuditEvent, key: bytes) -> bool:
    """By compare-and-swap, so that two writers never extend the same head, even where the database has no row locks."""
    seal = head_seal(key, last.shard, last.seq, last.mac)
    unmoved = AuditHead.objects.filter(pk=head.shard, seq=head.seq, mac=head.mac)
    return bool(unmoved.update(seq=last.seq, mac=last.mac, key_id=last.key_id, seal=seal))


def _chained(drafts: Sequence[Draft], head: AuditHead, key_id: str, key: bytes) -> list[AuditEvent]:
    events: list[AuditEvent] = []
    previous = head.mac
    for seq, each in enumerate(drafts, start=head.seq + 1):
        event = AuditEvent(
            id=uuid4(),
            shard=head.shard,
            seq=seq,
            at=each.at,
            actor=each.actor,
            subject=each.subject,
            action=each.action,
            target=each.target,
            result=each.result,
            ip=each.ip,
            request_id=each.request_id,
            channel=each.channel,
            key_id=key_id,
            previous=previous,
        )
        event.mac = previous = event_mac(key, event)
        events.append(event)
    return events


_place = threading.local()


def _shard() -> int:
    """This thread's chain; drawn anew in a forked child, which would otherwise share its parent's with all siblings."""
    pid = os.getpid()
    if getattr(_place, "pid", None) != pid:
        _place.pid = pid
        _place.shard = random.SystemRandom().randrange(SHARDS)
    return int(_place.shard)


# Group commit


class _Waiting:
    __slots__ = ("done", "draft", "failed")

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.done = False
        self.failed: Exception | None = None


class _Group:
    """Waiting events, and the one thread that writes for all of them."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.waiting: list[_Waiting] = []
        self.is_written = False

    def write(self, draft: Draft) -> None:
        """Returns when the event is committed. Raises AuditUnavailable, KeyringError."""
        mine = _Waiting(draft)
        with self.changed:
            self.waiting.append(mine)
            while self.is_written and not mine.done:
                self.changed.wait()
            group = [] if mine.done else self._take()
        if group:
            self._write_group(group)
        match mine.failed:
            case None:
                return
            case keyring.KeyringError():
                raise mine.failed
            case _:
                raise AuditUnavailable("The audit trail cannot be written just now.") from None

    def _take(self) -> list[_Waiting]:
        """All waiting events, including the caller's own."""
        self.is_written = True
        group, self.waiting = self.waiting, []
        return group

    def _write_group(self, group: list[_Waiting]) -> None:
        failed: Exception | None = AuditUnavailable()
        try:
            append([each.draft for each in group])
            failed = None
        except (DatabaseError, keyring.KeyringError, AuditUnavailable) as error:
            log.error("audit_not_written", events=len(group), error=type(error).__name__)
            failed = error
        finally:
            with self.changed:
                self.is_written = False
                for each in group:
                    each.failed, each.done = failed, True
                self.changed.notify_all()


_group = _Group()


def _new_group() -> None:
    """After a fork: threads that do not exist here may hold the parent's locks."""
    global _group
    _group = _Group()


os.register_at_fork(after_in_child=_new_group)


def write(draft: Draft) -> None:
    """Joins the caller's transaction, or is committed on return. Raises KeyringError, AuditUnavailable."""
    if not connection.in_atomic_block:
        _group.write(draft)
        return
    try:
        append([draft])
    except DatabaseError as error:
        # Not re-raised as it is: a caller that retries on its own rows' conflicts would mistake it for one.
        log.error("audit_not_written", events=1, error=type(error).__name__)
        raise AuditUnavailable from None
