"""Closes unfinished tests and destroys the keys in them."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from django.contrib.auth.base_user import AbstractBaseUser
from django.db.models import Case, F, Value, When
from django.utils import timezone
from django.utils.translation import gettext as _

from llm_credentials import timers
from llm_credentials.models import ConnectionTest

UNSAVED_KEY_TTL_S = 60
ABANDONED_AFTER_S = 60
"""An unfinished test of this age has lost its worker."""
_WAITING, _KEPT = ConnectionTest.Replacement.WAITING, ConnectionTest.Replacement.KEPT


def destroy_later(test_id: UUID) -> None:
    """This process destroys an unclaimed key; if it dies, polls in other processes and workers do."""
    timers.after(UNSAVED_KEY_TTL_S, "destroying a key that nobody took up", lambda: expire_abandoned(test_id=test_id))


def expire_abandoned(user: AbstractBaseUser | None = None, test_id: UUID | None = None) -> int:
    """Close unfinished tests and destroy the keys in them. Returns how many tests were closed."""
    tests = ConnectionTest.objects.all()
    if user is not None:
        tests = tests.for_user(user)
    if test_id is not None:
        tests = tests.filter(pk=test_id)
    now = timezone.now()
    # New keys that were not swapped in are held only this long, in case the user saves them anyway.
    tests.filter(api_key__isnull=False, finished_at__lte=now - timedelta(seconds=UNSAVED_KEY_TTL_S)).update(
        api_key=None
    )
    abandoned = tests.unfinished().filter(created_at__lte=now - timedelta(seconds=ABANDONED_AFTER_S))
    return abandoned.update(
        replacement=Case(When(replacement=_WAITING, then=Value(_KEPT)), default=F("replacement")),
        state=ConnectionTest.State.EXPIRED,
        api_key=None,
        detail=_("No worker finished this test. Nothing was changed; try again."),
        finished_at=now,
    )
