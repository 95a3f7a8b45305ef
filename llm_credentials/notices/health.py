"""Tells owners what use shows about their keys while they are not looking. Once a change, not once a call."""

from __future__ import annotations

from typing import Final
from uuid import UUID

import structlog
from celery import current_app
from django.core.cache import cache
from django.db import transaction
from kombu.exceptions import OperationalError

from llm_credentials.models import LLMSettings, UserCredential
from llm_credentials.models.sealed import LLMCredential
from llm_credentials.notices.keys import key_facts
from llm_credentials.notices.kinds import Kind
from llm_credentials.notices.sending import deliver

log = structlog.get_logger(__name__)

TASK: Final = "llm_credentials.credential_alert"
QUIET_S = 3600
"""A key that goes back and forth is told of once in this time."""
_KINDS = {
    LLMCredential.Status.INVALID: Kind.KEY_REFUSED,
    LLMCredential.Status.ERROR: Kind.KEY_SPENT,
    LLMCredential.Status.NEEDS_REENTRY: Kind.KEY_NEEDS_REENTRY,
}


def credential_changed(credential: UserCredential, status: LLMCredential.Status) -> None:
    """Have its owner told, after commit, if this is a change for the worse. Never fails and hardly waits."""
    if status in _KINDS:
        transaction.on_commit(lambda: _enqueue(credential.pk, status), robust=True)


def _enqueue(credential_id: UUID, status: LLMCredential.Status) -> None:
    try:
        current_app.send_task(TASK, args=(str(credential_id), status.value), retry=False, expires=QUIET_S)
    except (OperationalError, OSError) as problem:
        # A call must not wait for a mail server; the page shows the status all the same.
        log.warning("credential_alert_not_queued", credential=str(credential_id), error=type(problem).__name__)


def credential_alert(credential_id: UUID | str, status: str) -> bool:
    """Write to the owner, if the status still holds and they want alerts; whether a mail was sent."""
    credential = UserCredential.objects.select_related("user").filter(pk=credential_id, status=status).first()
    if credential is None or not credential.user.is_active or not credential.user.email:
        return False
    if not LLMSettings.of(credential.user).alerts:
        return False
    if not cache.add(f"llm-alert:{credential.pk}:{status}", 1, QUIET_S):
        return False
    return deliver(credential.user_id, _KINDS[LLMCredential.Status(status)], key_facts(credential))
