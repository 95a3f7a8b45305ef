"""Alerts owners to problems with their keys and budgets that use reveals. Once per change, not once per call.

A change is one row. Pages show it until it is fixed or dismissed, and a worker sends the mail and the webhook. The next
change of the same key replaces the row.
"""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

import structlog
from celery import current_app
from django.db import DatabaseError, transaction
from django.utils import timezone

from llm_credentials import limits, webhooks
from llm_credentials.limits import LimitReached
from llm_credentials.models import Alert, LLMSettings, UserCredential
from llm_credentials.models.sealed import LLMCredential
from llm_credentials.notices.keys import key_facts
from llm_credentials.notices.kinds import Kind
from llm_credentials.notices.sending import notify
from llm_credentials.valkey import QUEUE_AWAY

log = structlog.get_logger(__name__)

TASK: Final = "llm_credentials.alert"
EXPIRES_S: Final = 3600
MAIL_RATES: Final = {Kind.KEY_LIMITED: "1/d"}
MAIL_RATE: Final = "5/h"
"""Mails per key, so that a key that keeps changing does not flood a mailbox."""
_KINDS: Final = {
    LLMCredential.Status.INVALID: Kind.KEY_REFUSED,
    LLMCredential.Status.ERROR: Kind.KEY_SPENT,
    LLMCredential.Status.NEEDS_REENTRY: Kind.KEY_NEEDS_REENTRY,
}


# Raising alerts


def key_changed(credential: UserCredential, status: LLMCredential.Status) -> None:
    """The key's status changed in use: alert its owner if it got worse. Never fails and barely blocks."""
    if status in _KINDS:
        _raise(credential.user_id, _KINDS[status], credential=credential)


def key_limited(credential: UserCredential, detail: str) -> None:
    """The provider accepts the key but denies it something. Its status is unchanged."""
    _raise(credential.user_id, Kind.KEY_LIMITED, credential=credential, detail=detail)


def webhook_off(user_id: Any, detail: str) -> None:
    _raise(user_id, Kind.WEBHOOK_OFF, detail=detail)


def budget_reached(user_id: Any, kind: Kind, period: str, detail: str) -> bool:
    """At most once per kind and month. Returns whether this call raised the alert."""
    _alert, created = Alert.objects.get_or_create(
        user_id=user_id,
        kind=kind,
        credential=None,
        period=period,
        defaults={"detail": detail, "at": timezone.now()},
    )
    if created:
        transaction.on_commit(lambda: _enqueue(_alert.pk), robust=True)
    return created


def _raise(user_id: Any, kind: Kind, *, credential: UserCredential | None = None, detail: str = "") -> None:
    place: dict[str, Any] = {"credential": credential}
    if credential is None:
        place |= {"kind": kind, "period": ""}
    fresh = {"kind": kind, "detail": detail[:500], "at": timezone.now(), "told_at": None, "dismissed_at": None}
    try:
        with transaction.atomic():
            alert, _created = Alert.objects.update_or_create(user_id=user_id, **place, defaults=fresh)
    except DatabaseError as problem:
        # The card shows the status anyway, and alerting must not fail a call.
        log.warning("alert_not_kept", kind=kind.value, user=str(user_id), error=type(problem).__name__)
        return
    transaction.on_commit(lambda: _enqueue(alert.pk), robust=True)


def _enqueue(alert_id: UUID) -> None:
    try:
        current_app.send_task(TASK, args=(str(alert_id),), retry=False, expires=EXPIRES_S)
    except QUEUE_AWAY as problem:
        # A call must not wait for the queue; the page shows the alert anyway.
        log.warning("alert_not_queued", alert=str(alert_id), error=type(problem).__name__)


# Sending them, in a worker


def tell(alert_id: UUID | str) -> bool:
    """Send mail and webhook if the alert still holds. Returns whether a mail was handed over."""
    holding = Alert.objects.holding(this_month()).filter(pk=alert_id, user__is_active=True)
    alert = holding.select_related("credential").first()
    # Claimed by the first writer, because the task may be delivered twice.
    claim = Alert.objects.filter(pk=alert_id, told_at__isnull=True)
    if alert is None or not claim.filter(at=alert.at).update(told_at=timezone.now()):
        return False
    kind, facts = Kind(alert.kind), facts_of(alert)
    webhooks.announce(alert.user_id, kind.value, facts)
    settings = LLMSettings.objects.filter(user_id=alert.user_id).first() or LLMSettings(user_id=alert.user_id)
    if not settings.alerts or kind in settings.muted or not _may_mail(alert, kind):
        return False
    notify(alert.user_id, kind, **facts)
    return True


def _may_mail(alert: Alert, kind: Kind) -> bool:
    if alert.credential_id is None:
        return True
    try:
        limits.use(f"alert-mail-{kind.value}", str(alert.credential_id), MAIL_RATES.get(kind, MAIL_RATE))
    except LimitReached:
        return False
    return True


def facts_of(alert: Alert) -> dict[str, str]:
    """The facts for mails and webhooks."""
    key = key_facts(alert.credential) if alert.credential else {}
    return {**key, "detail": alert.detail}


def this_month() -> str:
    return f"{timezone.now():%Y-%m}"
