"""Re-encrypts every sealed value with the ring's first key, alongside readers and writers, and reports what is left.

No state is kept between runs: the rows themselves show what is done, so a killed run is simply run again. A row is
written only if its column still holds exactly the bytes that were read, so a key replaced meanwhile is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

from django.db import connection, models, transaction

from llm_credentials import canary, keyring, second_factors
from llm_credentials.audit import Action, note, target_of
from llm_credentials.audit import keys as audit_keys
from llm_credentials.fields import Unreadable
from llm_credentials.models import UserCredential
from llm_credentials.models.sealed import LLMCredential
from llm_credentials.notices import Kind, notify
from llm_credentials.notices.keys import key_facts
from llm_credentials.retries import with_retries
from llm_credentials.sealed_columns import SealedColumn, sealed_columns
from llm_credentials.wall import open_for

QUARANTINED = "The site can no longer open this key. Enter it again."
MAX_PASSES = 5
"""Rows sealed under an old key meanwhile, or locked, need another pass; this bounds the number of passes."""


@dataclass(kw_only=True)
class Figures:
    """How rows are sealed, over all columns."""

    current: int = 0
    old: dict[str, int] = field(default_factory=dict)
    """Key id on the ring → rows still to be moved."""
    unreadable: dict[str, int] = field(default_factory=dict)
    """Key id (empty: not a sealed text) → rows known to be unreadable without opening them."""
    empty: int = 0
    """Rows without a key."""
    droppable: dict[str, bool] = field(default_factory=dict)
    """Each key of the ring after the first → whether no row, second factor or audit key needs it."""

    @property
    def total(self) -> int:
        return self.current + sum(self.old.values()) + sum(self.unreadable.values()) + self.empty


@dataclass(kw_only=True)
class Moved:
    resealed: int = 0
    changed_meanwhile: int = 0
    held: int = 0
    """Times that a row was skipped because it was locked by a writer."""
    unreadable: set[tuple[str, Any]] = field(default_factory=set)
    """(column, primary key)."""

    @property
    def touched(self) -> int:
        return self.resealed + self.changed_meanwhile + self.held


@open_for("rotation")
def figures() -> Figures:
    """Counted by the key ids in the stored texts; opens nothing. Raises KeyringError."""
    ring = keyring.ring()
    lost = canary.examine()
    found = Figures()
    for column in sealed_columns():
        quarantined = column.rows_by_key_id(column.waiting_for_reentry())
        for key_id, rows in column.rows_by_key_id().items():
            broken = rows if key_id not in ring or key_id in lost else quarantined.get(key_id, 0)
            if broken:
                found.unreadable[key_id] = found.unreadable.get(key_id, 0) + broken
            if key_id == ring.primary.id:
                found.current += rows - broken
            elif rows > broken:
                found.old[key_id] = found.old.get(key_id, 0) + rows - broken
        found.empty += column.all_rows().filter(**{f"{column.field.name}__isnull": True}).count()
    needed = {*found.old, *kept_elsewhere()}
    found.droppable = {key_id: key_id not in needed for key_id in ring.ids[1:]}
    return found


@open_for("rotation")
def rotate(*, batch: int, tell: Callable[[int], None] = lambda rows: None) -> Moved:
    """Re-seal what is not under the first key. ``tell`` gets the number of rows after each batch.

    Safe to run concurrently: each row is moved once. Raises KeyringError.
    """
    canary.plant()
    audit_keys.reseal()
    second_factors.reseal()
    moved = Moved()
    for column in sealed_columns():
        for _ in range(MAX_PASSES):
            before = moved.touched
            for rows in _batches(column.waiting(), batch):
                _move(column, rows, moved)
                tell(len(rows))
            if moved.touched == before:
                break
    if moved.resealed or moved.unreadable:
        target = target_of("ring", keyring.ring().primary.id)
        result = f"moved {moved.resealed}, unreadable {len(moved.unreadable)}"
        note(action=Action.RING_ROTATE, subject="system", target=target, result=result[:40])
    return moved


@open_for("rotation")
def verify(*, batch: int, tell: Callable[[int], None] = lambda rows: None) -> int:
    """Open every row and quarantine those that do not open. Returns their number. Raises KeyringError."""
    keyring.ring()
    unreadable = 0
    for column in sealed_columns():
        for rows in _batches(column.rows(), batch):
            # A row may have been replaced since the batch was read; count it only if it is unchanged.
            unreadable += sum(not column.opens(row) and with_retries(partial(_quarantine, column, row)) for row in rows)
            tell(len(rows))
    return unreadable


def kept_elsewhere() -> set[str]:
    """Ids of the keys that seal something outside the sealed columns: second factors and audit keys."""
    return audit_keys.needed_ids() | set(second_factors.rows_by_key_id())


def _batches(rows: models.QuerySet[Any], size: int) -> Iterator[list[Any]]:
    """In primary key order, each row once despite concurrent writes."""
    rows = rows.order_by("pk")
    batch = list(rows[:size])
    while batch:
        yield batch
        batch = list(rows.filter(pk__gt=batch[-1].pk)[:size])


def _move(column: SealedColumn, rows: Sequence[Any], moved: Moved) -> None:
    """Seals outside the transaction, to keep row locks short."""
    changes: list[_Change] = []
    for row in rows:
        unchanged = column.unchanged(row)
        try:
            changes.append((row.pk, unchanged, column.resealed(row) | _recovered(row)))
        except Unreadable:
            moved.unreadable.add((str(column), row.pk))
            with_retries(partial(_quarantine, column, row))
    free, written = with_retries(partial(_write, column, changes))
    moved.held += len(changes) - free
    moved.resealed += written
    moved.changed_meanwhile += free - written


_Change: TypeAlias = tuple[Any, models.QuerySet[Any], dict[str, Any]]
"""(primary key, queryset that matches the row only if it is unchanged, its new columns)"""


def _write(column: SealedColumn, changes: Sequence[_Change]) -> tuple[int, int]:
    """(rows that were not locked, those of them that were unchanged and written)."""
    with transaction.atomic():
        free = _free(column, [pk for pk, _, _ in changes])
        # The version stays the same, because the key does; cached clients remain valid.
        return len(free), sum(unchanged.update(**change) for pk, unchanged, change in changes if pk in free)


def _free(column: SealedColumn, pks: Sequence[Any]) -> set[Any]:
    """Locks and returns the rows that no writer holds. Waiting for a writer while holding other rows could deadlock; a
    database without row locks has a single writer anyway.
    """
    if not connection.features.has_select_for_update_skip_locked:
        return set(pks)
    return set(column.all_rows().filter(pk__in=pks).select_for_update(skip_locked=True).values_list("pk", flat=True))


def _quarantine(column: SealedColumn, row: Any) -> bool:
    """Mark the row for re-entry unless it has changed since it was read, and notify its owner once.

    Returns whether the row was unchanged. Uses its own transaction, because the audit event waits for the chain's lock.
    """
    still = column.unchanged(row)
    if not isinstance(row, LLMCredential):
        return still.exists()
    reentry = LLMCredential.Status.NEEDS_REENTRY
    with transaction.atomic():
        # Only the first of several that find it notifies the owner.
        if still.exclude(status=reentry).update(status=reentry, status_detail=QUARANTINED):
            target = target_of("credential", row.provider, row.pk)
            note(action=Action.CREDENTIAL_QUARANTINE, actor="", subject=row.owner_ref(), target=target)
            if isinstance(row, UserCredential) and row.removed_at is None:
                notify(row.user_id, Kind.KEY_NEEDS_REENTRY, **key_facts(row))
            return True
        return bool(still.update(status_detail=QUARANTINED))


def _recovered(row: Any) -> dict[str, str]:
    """Columns that take a row out of quarantine when it opens again, because its key was put back on the ring."""
    if not isinstance(row, LLMCredential):
        return {}
    if row.status == LLMCredential.Status.NEEDS_REENTRY and row.status_detail == QUARANTINED:
        return {"status": LLMCredential.Status.UNVERIFIED, "status_detail": ""}
    return {}
