"""Delivers alerts to a user's webhook: signed, retried after failures, and switched off when failures persist.

The body is JSON, ``{"id", "event", "at", "facts"}``; never a key. The header ``Keyswitch-Signature`` is
``t=<seconds>,v1=<hex>``: HMAC-SHA256 with the webhook's secret over ``<seconds>.<body>``.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections.abc import Collection, Mapping
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

import orjson
import structlog
from celery import current_app
from django.contrib.auth.base_user import AbstractBaseUser
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_variables

from llm_credentials import bridge, egress, limits
from llm_credentials.audit import Action, note, target_of
from llm_credentials.fields import Unreadable
from llm_credentials.models import Webhook, WebhookDelivery
from llm_credentials.providers import EgressBlocked, LLMError, transport
from llm_credentials.valkey import QUEUE_AWAY

log = structlog.get_logger(__name__)

TASK: Final = "llm_credentials.webhook_delivery"
TEST_EVENT: Final = "test"
TEST_RATE: Final = "6/m"
TIMEOUT_S: Final = 10.0
AGAIN_AFTER_S: Final = (10, 60, 300, 600)
"""Pauses between attempts."""
GIVE_UP_AFTER: Final = 5
"""Consecutive failed deliveries after which the webhook is switched off."""
KEPT: Final = 20
SECRET_PREFIX: Final = "whsec_"  # noqa: S105  (what secrets begin with, not one)
SURFACE: Final[egress.Surface] = "tools"
"""Private addresses are reached only where staff allow them for traffic without keys; never the key-holding servers."""
State = WebhookDelivery.State


# Setup


@sensitive_variables()
def webhook_set(*, user: AbstractBaseUser, url: str, muted: Collection[str] = ()) -> tuple[Webhook, str]:
    """The webhook at this address. If the address is new, its secret too, which is shown only now; else an empty text.

    Raises ValidationError on ``url``.
    """
    address = _checked(url)
    with transaction.atomic():
        webhook = Webhook.objects.select_for_update().filter(user_id=user.pk).first() or Webhook(user_id=user.pk)
        secret = ""
        if webhook.url != address or webhook.secret is None:
            webhook.url, secret = address, SECRET_PREFIX + secrets.token_urlsafe(32)
            webhook.seal(secret)
        webhook.muted, webhook.failures, webhook.disabled_at = sorted(muted), 0, None
        webhook.save()
        note(action=Action.WEBHOOK_CHANGE, subject=str(user.pk), target=target_of("webhook", webhook.pk))
    return webhook, secret


def webhook_remove(*, user: AbstractBaseUser) -> None:
    with transaction.atomic():
        webhook = Webhook.objects.filter(user_id=user.pk).first()
        if webhook is not None:
            target = target_of("webhook", webhook.pk)
            webhook.delete()
            note(action=Action.WEBHOOK_CHANGE, subject=str(user.pk), target=target, result="removed")


def webhook_mute(*, user: AbstractBaseUser, muted: Collection[str]) -> None:
    """Set which kinds of alerts are not sent; does nothing without a webhook."""
    Webhook.objects.filter(user_id=user.pk).update(muted=sorted(muted), updated_at=timezone.now())


def _checked(url: str) -> str:
    blocked = ""
    try:
        return transport.check_url(url.strip(), egress.policy(SURFACE))
    except EgressBlocked as error:
        blocked = str(error)
    raise ValidationError({"url": [blocked]})


# Sending


def announce(user_id: Any, event: str, facts: Mapping[str, Any]) -> WebhookDelivery | None:
    """Queue a delivery to the user's webhook, sent after commit; None if there is no webhook or it mutes this event."""
    webhook = Webhook.objects.filter(user_id=user_id, disabled_at__isnull=True).first()
    if webhook is None or event in webhook.muted:
        return None
    return _queue(webhook, event, facts)


def webhook_test(*, user: AbstractBaseUser) -> WebhookDelivery | None:
    """Send a message marked as a test, also to a webhook that is switched off. Raises LimitReached."""
    limits.use("webhook-test", str(user.pk), TEST_RATE)
    webhook = Webhook.objects.filter(user_id=user.pk).first()
    return _queue(webhook, TEST_EVENT, {}) if webhook else None


def _queue(webhook: Webhook, event: str, facts: Mapping[str, Any]) -> WebhookDelivery:
    delivery = WebhookDelivery(webhook=webhook, kind=event, created_at=timezone.now())
    body = {"id": str(delivery.pk), "event": event, "at": delivery.created_at.isoformat(), "facts": dict(facts)}
    delivery.body = orjson.dumps(body).decode()
    with transaction.atomic():
        delivery.save(force_insert=True)
        old = webhook.deliveries.order_by("-created_at").values_list("pk", flat=True)[KEPT:]
        WebhookDelivery.objects.filter(pk__in=list(old)).delete()
        transaction.on_commit(lambda: _enqueue(delivery.pk), robust=True)
    return delivery


def _enqueue(delivery_id: UUID, countdown_s: float = 0) -> None:
    try:
        current_app.send_task(TASK, args=(str(delivery_id),), countdown=countdown_s, retry=False)
    except QUEUE_AWAY as problem:
        log.warning("webhook_not_queued", delivery=str(delivery_id), error=type(problem).__name__)


def attempt(delivery_id: UUID | str) -> Webhook | None:
    """Make one attempt, in a worker. Returns the webhook if this attempt switched it off. Finished deliveries are
    skipped.
    """
    waiting = WebhookDelivery.objects.select_related("webhook").filter(pk=delivery_id, state=State.WAITING)
    delivery = waiting.first()
    if delivery is None:
        return None
    # Count the attempt before sending, so that a redelivered task cannot send forever.
    if not waiting.filter(attempts=delivery.attempts).update(attempts=delivery.attempts + 1):
        return None
    delivery.attempts += 1
    status_code, problem, final = _sent(delivery)
    if not problem:
        _finish(delivery, State.DELIVERED, status_code, "")
        Webhook.objects.filter(pk=delivery.webhook_id).update(failures=0)
    elif final or delivery.attempts > len(AGAIN_AFTER_S) or delivery.kind == TEST_EVENT:
        _finish(delivery, State.GIVEN_UP, status_code, problem)
        return _count_failure(delivery)
    else:
        WebhookDelivery.objects.filter(pk=delivery.pk).update(status_code=status_code, detail=problem)
        _enqueue(delivery.pk, AGAIN_AFTER_S[delivery.attempts - 1])
    return None


def _finish(delivery: WebhookDelivery, state: WebhookDelivery.State, status_code: int | None, detail: str) -> None:
    WebhookDelivery.objects.filter(pk=delivery.pk).update(
        state=state, status_code=status_code, detail=detail, finished_at=timezone.now()
    )


def _count_failure(delivery: WebhookDelivery) -> Webhook | None:
    """Returns the webhook if this failure switched it off."""
    if delivery.kind == TEST_EVENT:
        return None
    with transaction.atomic():
        webhook = Webhook.objects.select_for_update().filter(pk=delivery.webhook_id, disabled_at__isnull=True).first()
        if webhook is None:
            return None
        webhook.failures += 1
        gone = webhook.failures >= GIVE_UP_AFTER
        webhook.disabled_at = timezone.now() if gone else None
        webhook.save(update_fields=["failures", "disabled_at", "updated_at"])
    return webhook if gone else None


@sensitive_variables()
def _sent(delivery: WebhookDelivery) -> tuple[int | None, str, bool]:
    """(response status, error in words, whether a retry is pointless)."""
    webhook, secret = delivery.webhook, ""
    try:
        secret = webhook.reveal_secret()
    except Unreadable:
        secret = ""
    if not secret:
        return None, _("The secret of this webhook can no longer be opened. Set the webhook anew."), True
    body = delivery.body.encode()
    headers = {
        "content-type": "application/json",
        "user-agent": "Keyswitch-Webhook/1",
        "keyswitch-event": delivery.kind,
        "keyswitch-delivery": str(delivery.pk),
        "keyswitch-signature": signature(secret, int(time.time()), body),
    }
    try:
        status = bridge.run(_post, webhook.url, headers, body)
    except EgressBlocked as error:
        return None, str(error), True
    except (LLMError, TimeoutError):
        return None, _("The address could not be reached within %(s)s s.") % {"s": f"{TIMEOUT_S:.0f}"}, False
    if 200 <= status < 300:
        return status, "", False
    return status, _("The address answered %(status)s.") % {"status": status}, status == 410


async def _post(url: str, headers: Mapping[str, str], body: bytes) -> int:
    async with asyncio.timeout(TIMEOUT_S):
        policy = await egress.apolicy(SURFACE)
        return await transport.post(policy, url, headers, body)


def signature(secret: str, at: int, body: bytes) -> str:
    mac = hmac.new(secret.encode(), b"%d." % at + body, sha256).hexdigest()
    return f"t={at},v1={mac}"
