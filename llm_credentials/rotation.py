"""Moves every sealed value to the ring's first key, beside readers and writers, and says what is left where.

Nothing is remembered between runs: what is done shows in the rows themselves, so a run that was killed is run again.
A row is written only if its column still holds the very bytes that were read; a key that its owner replaced stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from django.db import models, transaction
from django.db.models.functions import Cast

from llm_credentials import canary, keyring, second_factors
from llm_credentials.audit import Action, note, target_of
from llm_credentials.audit import keys as audit_keys
from llm_credentials.models.sealed import KeyHolder, LLMCredential
from llm_credentials.providers import CredentialUnreadable

QUARANTINED = "The site can no longer open this key. Enter it again."
MAX_PASSES = 5
"""Writers that still seal under an old key may make a further pass necessary; not endlessly many."""


@dataclass(kw_only=True)
class Figures:
    """How rows are sealed, over all tables."""

    current: int = 0
    old: dict[str, int] = field(default_factory=dict)
    """Key id on the ring → rows that wait to be moved."""
    unreadable: dict[str, int] = field(default_factory=dict)
    """Key id (empty: no sealed text at all) → rows that do not open, as far as that is known without opening."""
    empty: int = 0
    """Rows without a key."""

    @property
    def total(self) -> int:
        return self.current + sum(self.old.values()) + sum(self.unreadable.values()) + self.empty


@dataclass(kw_only=True)
class Moved:
    resealed: int = 0
    changed_meanwhile: int = 0
    unreadable: set[Any] = field(default_factory=set)
    """Primary keys."""


def figures() -> Figures:
    """Counted from the key ids that the stored texts name; nothing is opened. Raises KeyringError."""
    ring = keyring.ring()
    lost = canary.examine()
    found = Figures()
    for model in canary.SEALED_MODELS:
        quarantined = canary.rows_by_key_id(model, canary.waiting_for_reentry(model))
        for key_id, rows in canary.rows_by_key_id(model).items():
            broken = rows if key_id not in ring or key_id in lost else quarantined.get(key_id, 0)
            if broken:
                found.unreadable[key_id] = found.unreadable.get(key_id, 0) + broken
            if key_id == ring.primary.id:
                found.current += rows - broken
            elif rows > broken:
                found.old[key_id] = found.old.get(key_id, 0) + rows - broken
        found.empty += model._default_manager.filter(api_key__isnull=True).count()
    return found


def rotate(*, batch: int, tell: Callable[[int], None] = lambda rows: None) -> Moved:
    """Re-seal what is not under the first key. ``tell`` hears of rows as they are done. Raises KeyringError."""
    canary.plant()
    audit_keys.reseal()
    second_factors.reseal()
    moved = Moved()
    for model in canary.SEALED_MODELS:
        for _ in range(MAX_PASSES):
            before = moved.resealed + moved.changed_meanwhile
            for rows in _batches(_waiting(model), batch):
                with transaction.atomic():
                    for row in rows:
                        _move(row, moved)
                tell(len(rows))
            if moved.resealed + moved.changed_meanwhile == before:
                break
    return moved


def verify(*, batch: int, tell: Callable[[int], None] = lambda rows: None) -> int:
    """Open every row and quarantine what does not open; how many those are. Raises KeyringError."""
    keyring.ring()
    unreadable = 0
    for model in canary.SEALED_MODELS:
        for rows in _batches(model._default_manager.filter(api_key__isnull=False), batch):
            for row in rows:
                unreadable += not _opens(row)
            tell(len(rows))
    return unreadable


def kept_elsewhere() -> set[str]:
    """Ids of the keys under which something is sealed that no figure counts: second factors and audit keys."""
    return audit_keys.needed_ids() | set(second_factors.rows_by_key_id())


def _waiting(model: type[KeyHolder]) -> models.QuerySet[Any]:
    current = f"{keyring.FORMAT}:{keyring.ring().primary.id}:"
    rows = model._default_manager.annotate(text=Cast("api_key", models.TextField()))
    return rows.filter(api_key__isnull=False).exclude(text__startswith=current)


def _batches(rows: models.QuerySet[Any], size: int) -> Iterator[list[Any]]:
    """By primary key from the start to the end, each row once, whatever is written meanwhile."""
    rows = rows.order_by("pk")
    batch = list(rows[:size])
    while batch:
        yield batch
        batch = list(rows.filter(pk__gt=batch[-1].pk)[:size])


def _move(row: KeyHolder, moved: Moved) -> None:
    before = row.api_key
    try:
        row.reseal()
    except CredentialUnreadable:
        moved.unreadable.add(row.pk)
        _quarantine(row)
        return
    changes: dict[str, Any] = {"api_key": row.api_key}
    if isinstance(row, LLMCredential):
        changes |= {"fingerprint": row.fingerprint} | _recovered(row)
    # The version stays: it is the same key, and whoever keeps a client with it may keep it.
    written = type(row)._default_manager.filter(pk=row.pk, api_key__unchanged=before).update(**changes)
    if written:
        moved.resealed += 1
    else:
        moved.changed_meanwhile += 1


def _opens(row: KeyHolder) -> bool:
    try:
        row.check_readable()
    except CredentialUnreadable:
        # Somebody may have replaced it since the batch was read: only what still stands there is judged.
        return not _quarantine(row)
    return True


def _quarantine(row: KeyHolder) -> bool:
    """Mark it for re-entry unless it has changed since it was read; whether it still stands there as it was."""
    rows: models.QuerySet[Any] = type(row)._default_manager.all()
    still = rows.filter(pk=row.pk, api_key__unchanged=row.api_key)
    if not isinstance(row, LLMCredential):
        return still.exists()
    known = row.status == LLMCredential.Status.NEEDS_REENTRY
    with transaction.atomic():
        marked = bool(still.update(status=LLMCredential.Status.NEEDS_REENTRY, status_detail=QUARANTINED))
        if marked and not known:
            target = target_of("credential", row.provider, row.pk)
            note(action=Action.CREDENTIAL_QUARANTINE, actor="", subject=row.owner_ref(), target=target)
    return marked


def _recovered(row: LLMCredential) -> dict[str, str]:
    """A row that opens after all, because its key was put back on the ring, leaves quarantine."""
    if row.status == LLMCredential.Status.NEEDS_REENTRY and row.status_detail == QUARANTINED:
        return {"status": LLMCredential.Status.UNVERIFIED, "status_detail": ""}
    return {}
