"""Tells people by mail what happened to their keys while they were not looking. Once a change, not once a call."""

from __future__ import annotations

from uuid import UUID

import structlog
from celery import current_app
from django.conf import settings
from django.core.cache import cache
from django.core.mail import send_mail
from django.db import transaction
from kombu.exceptions import OperationalError

from llm_credentials.models import LLMSettings, UserCredential
from llm_credentials.models.sealed import LLMCredential

log = structlog.get_logger(__name__)

TASK = "llm_credentials.credential_alert"
QUIET_S = 3600
"""A key that goes back and forth is told of once in this time."""
_HAPPENED = {
    LLMCredential.Status.INVALID: "was refused by the provider",
    LLMCredential.Status.ERROR: "has no credit or quota left",
    LLMCredential.Status.NEEDS_REENTRY: "can no longer be opened and has to be entered again",
}


def credential_changed(credential: UserCredential, status: LLMCredential.Status) -> None:
    """Have its owner told, after commit, if this is a change for the worse. Never fails and hardly waits."""
    if status in _HAPPENED:
        transaction.on_commit(lambda: _enqueue(credential.pk, status), robust=True)


def _enqueue(credential_id: UUID, status: LLMCredential.Status) -> None:
    try:
        current_app.send_task(TASK, args=(str(credential_id), status.value), retry=False, expires=QUIET_S)
    except (OperationalError, OSError) as problem:
        # The page shows the status all the same.
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
    happened = _HAPPENED[LLMCredential.Status(status)]
    name = f" “{credential.name}”" if credential.name != "default" else ""
    send_mail(
        f"{settings.SITE_NAME}: your {credential.provider_label} key{name} {happened}",
        f"Your {credential.provider_label} key{name} {happened} when it was used just now.\n\n"
        "Calls go on with your other keys where you have some. To mend it, open Settings, Providers, and look at its "
        "card.\n",
        None,
        [credential.user.email],
    )
    return True
