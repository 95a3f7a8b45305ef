"""Removes a key so that it can be restored for some seconds, then destroys it.

A removed key is out of use at once: the model's default manager hides it from routes, lists, tests and jobs. It is
destroyed by whichever comes first: a timer thread of the process that removed it, a worker's task, the scheduled sweep,
or the next read of the owner's keys.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import structlog
from celery import current_app
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.db import IntegrityError, transaction
from django.db.models import F, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from llm_credentials import services, timers
from llm_credentials.audit import Action, note
from llm_credentials.live.changes import user_changed
from llm_credentials.models import AuditEvent, ConnectionTest, UserCredential
from llm_credentials.notices import Kind, notify
from llm_credentials.notices.keys import key_facts
from llm_credentials.valkey import QUEUE_AWAY
from llm_credentials.wall import open_for

log = structlog.get_logger(__name__)

UNDO_S: Final = 10
TASK: Final = "llm_credentials.removal_sweep"


class UndoRefused(Exception):
    """The removal cannot be undone; the message says why and what to do."""


class TooLate(UndoRefused):
    def __init__(self) -> None:
        super().__init__(_("It is too late: the key is destroyed. Add it again."))


class NameTaken(UndoRefused):
    def __init__(self, label: str) -> None:
        super().__init__(
            _(
                "A new %(label)s key has its name by now, so the old one cannot come back. Remove the "
                "new one first, or leave it at that."
            )
            % {"label": label}
        )


def remove(
    *, user: AbstractBaseUser, provider: str, name: str = "default", version: int | None = None
) -> UserCredential:
    """Take the key out of use and schedule its destruction in ``UNDO_S``.

    Raises UserCredential.DoesNotExist, and VersionConflict if the stored version differs.
    """
    # No row contains a NUL, and a database may reject a query with one.
    if "\0" in provider + name:
        raise UserCredential.DoesNotExist
    now = timezone.now()
    with transaction.atomic():
        keys = UserCredential.objects.for_user(user)
        row = keys.select_for_update().filter(provider=provider, name=name).first()
        if row is None:
            raise UserCredential.DoesNotExist
        if version not in (None, row.version):
            raise services.VersionConflict
        row.removed_at = now
        UserCredential.objects.filter(pk=row.pk).update(removed_at=now, updated_at=now, version=F("version") + 1)
        user_changed(user.pk, noted=True)
        ConnectionTest.objects.unfinished().filter(credential=row).update(
            state=ConnectionTest.State.EXPIRED, detail=_("The key was removed meanwhile."), finished_at=now
        )
        note(action=Action.CREDENTIAL_DELETE, subject=row.owner_ref(), target=services.credential_target(row))
        notify(row.user_id, Kind.KEY_REMOVED, **key_facts(row), undo=str(UNDO_S))
        transaction.on_commit(_destroy_later, robust=True)
    return row


def undo(*, user: AbstractBaseUser, credential_id: UUID) -> UserCredential:
    """Restore the key with its position, its overrides and its part as default. Idempotent.

    Raises UndoRefused, and UserCredential.DoesNotExist for a key that never was this user's.
    """
    with transaction.atomic():
        keys = UserCredential.with_removed.for_user(user)
        row = keys.select_for_update().filter(pk=credential_id).first()
        if row is None:
            raise TooLate if _was_removed(user, credential_id) else UserCredential.DoesNotExist
        if row.removed_at is None:
            return row
        if row.removed_at <= _destroyed_up_to():
            raise TooLate
        _bring_back(row)
        user_changed(user.pk, noted=True)
        note(action=Action.CREDENTIAL_RESTORE, subject=row.owner_ref(), target=services.credential_target(row))
        notify(row.user_id, Kind.KEY_RESTORED, **key_facts(row))
    return row


def _bring_back(row: UserCredential) -> None:
    try:
        with transaction.atomic():
            UserCredential.with_removed.filter(pk=row.pk).update(
                removed_at=None, updated_at=timezone.now(), version=F("version") + 1
            )
    except IntegrityError:
        raise NameTaken(row.provider_label) from None
    row.refresh_from_db()


def _was_removed(user: AbstractBaseUser, credential_id: UUID) -> bool:
    """Reads the audit trail, because the row is gone."""
    events = AuditEvent.objects.for_user(user).filter(action=Action.CREDENTIAL_DELETE)
    return events.filter(target__endswith=f":{credential_id}").exists()


def _destroyed_up_to() -> datetime:
    return timezone.now() - timedelta(seconds=UNDO_S)


def destroy_due(user: AbstractBaseUser | AnonymousUser | None = None) -> int:
    """Destroy the removed keys (of one user) whose undo time is over. Returns how many."""
    if user is None:
        with open_for("destroying removed keys"):
            return _destroy_due(UserCredential.with_removed.all())
    return _destroy_due(UserCredential.with_removed.for_user(user))


def _destroy_due(keys: QuerySet[UserCredential]) -> int:
    due = keys.filter(removed_at__lte=_destroyed_up_to())
    if not due.exists():
        return 0
    with transaction.atomic():
        # Lock and re-read: an undo that committed first no longer matches.
        rows = list(due.select_for_update())
        for row in rows:
            row.delete()
            target = services.credential_target(row)
            note(action=Action.CREDENTIAL_DESTROY, actor="", subject=row.owner_ref(), target=target)
    return len(rows)


def _destroy_later() -> None:
    timers.after(UNDO_S, "destroying removed keys", destroy_due)
    try:
        current_app.send_task(TASK, countdown=UNDO_S, expires=UNDO_S + 60, retry=False)
    except QUEUE_AWAY as problem:
        log.warning("removal_not_queued", error=type(problem).__name__)


def seconds_left(row: UserCredential) -> int:
    """Until it is destroyed; 0 when that is due."""
    assert row.removed_at is not None
    left = row.removed_at - _destroyed_up_to()
    return max(0, math.ceil(left / timedelta(seconds=1)))
