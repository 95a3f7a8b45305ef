"""``/api/user/alerts``, ``…/alert-settings``, ``…/webhook``: what the caller is told of, and where."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final
from uuid import UUID

from django.http import Http404, HttpResponse
from ninja import Router, Schema
from ninja.responses import Status
from pydantic import Field

from llm_credentials import webhooks
from llm_credentials.api.auth import ApiRequest, only, require_proof
from llm_credentials.api.body import StrictSchema
from llm_credentials.api.errors import REFUSALS, ApiError, ErrorOut
from llm_credentials.api.values import Address, AlertKind
from llm_credentials.models import Alert, LLMSettings, Webhook, WebhookDelivery
from llm_credentials.notices import banners
from llm_credentials.notices.kinds import ALERTS
from llm_credentials.services import settings_update

router = Router()
MAX_ALERTS: Final = 200


class AlertOut(Schema):
    id: UUID
    at: datetime
    kind: str
    meaning: str = Field(description="`broken` or `attention`.")
    text: str
    action: str = Field(description="What to do about it.")
    url: str = Field(description="The page where it is done.")


class AlertList(Schema):
    items: list[AlertOut]
    count: int


@router.get("/alerts", response={200: AlertList, **REFUSALS}, url_name="alert_list", auth=only("read"))
def alert_list(request: ApiRequest) -> dict[str, Any]:
    """What still holds and was not dismissed: as the pages say it."""
    found = banners.banners_of(request.user, most=MAX_ALERTS)
    items = [
        {name: getattr(each, name) for name in AlertOut.model_fields if name != "text"} | {"text": each.words}
        for each in found
    ]
    return {"items": items, "count": len(items)}


@router.delete(
    "/alerts/{uuid:alert_id}", response={204: None, **REFUSALS}, url_name="alert_dismiss", auth=only("credentials")
)
def alert_dismiss(request: ApiRequest, alert_id: UUID) -> Any:
    """Do not show it any more, until the next change. Twice is the same as once."""
    alert = Alert.objects.for_user(request.user).filter(pk=alert_id).first()
    if alert is None:
        raise Http404
    banners.dismiss(alert)
    return HttpResponse(status=204)


# Which of them, and where


class AlertSettingsOut(Schema):
    mail: list[str] = Field(description="The kinds that are mailed.")
    webhook: list[str] = Field(description="The kinds that are sent to the webhook; without a webhook none.")
    kinds: list[str] = Field(description="Those that there are.")


class AlertSettingsIn(StrictSchema):
    """What is left out stays as it is."""

    mail: list[AlertKind] = Field([], max_length=50, description="The kinds that are to be mailed.")
    webhook: list[AlertKind] = Field([], max_length=50, description="The kinds that are to go to the webhook.")


def _wanted(muted: list[str]) -> list[str]:
    return [kind.value for kind in ALERTS if kind.value not in muted]


def _alert_settings(request: ApiRequest) -> dict[str, Any]:
    settings, webhook = LLMSettings.of(request.user), _webhook(request)
    return {
        "mail": _wanted(settings.muted) if settings.alerts else [],
        "webhook": _wanted(webhook.muted) if webhook else [],
        "kinds": [kind.value for kind in ALERTS],
    }


@router.get(
    "/alert-settings", response={200: AlertSettingsOut, **REFUSALS}, url_name="alert_settings_get", auth=only("read")
)
def alert_settings_get(request: ApiRequest) -> dict[str, Any]:
    return _alert_settings(request)


@router.patch(
    "/alert-settings",
    response={200: AlertSettingsOut, **REFUSALS, 409: ErrorOut},
    url_name="alert_settings_change",
    auth=only("credentials"),
)
def alert_settings_change(request: ApiRequest, payload: AlertSettingsIn) -> dict[str, Any]:
    """Name the kinds that are wanted; the others are not told of there."""
    named = payload.dict(exclude_unset=True)
    unknown = [kind for kinds in named.values() for kind in kinds if kind not in set(ALERTS)]
    if unknown:
        raise ApiError(422, "invalid_value", f"Name any of: {', '.join(ALERTS)}.", "body")
    if "webhook" in named and _webhook(request) is None:
        raise _no_webhook()
    if "mail" in named:
        settings_update(user=request.user, alerts=True, muted=_wanted(named["mail"]))
    if "webhook" in named:
        webhooks.webhook_mute(user=request.user, muted=_wanted(named["webhook"]))
    return _alert_settings(request)


# The webhook


class DeliveryOut(Schema):
    id: UUID
    kind: str = Field(description="Of the alert, or `test`.")
    state: str = Field(description="`waiting`, `delivered` or `given_up`.")
    attempts: int
    status_code: int | None = Field(description="What the address answered last.")
    detail: str
    created_at: datetime
    finished_at: datetime | None


class WebhookOut(Schema):
    url: str
    is_active: bool = Field(description="False: it was switched off, because it stayed away. Setting it turns it on.")
    failures: int = Field(description="Messages in a row that could not be delivered.")
    created_at: datetime
    updated_at: datetime
    deliveries: list[DeliveryOut] = Field(description="The latest, newest first.")


class WebhookSet(WebhookOut):
    secret: str | None = Field(description="To check signatures with; only of a new address, and only now.")


class WebhookIn(StrictSchema):
    url: Address


def _webhook(request: ApiRequest) -> Webhook | None:
    return Webhook.objects.filter(user_id=request.user.pk).first()


def _no_webhook() -> ApiError:
    return ApiError(409, "no_webhook", "Set a webhook first.")


def _delivery_out(delivery: WebhookDelivery) -> dict[str, Any]:
    return {name: getattr(delivery, name) for name in DeliveryOut.model_fields}


def _webhook_out(webhook: Webhook) -> dict[str, Any]:
    deliveries = webhook.deliveries.order_by("-created_at")[: webhooks.KEPT]
    plain = {name: getattr(webhook, name) for name in WebhookOut.model_fields if name != "deliveries"}
    return plain | {"deliveries": [_delivery_out(delivery) for delivery in deliveries]}


@router.get("/webhook", response={200: WebhookOut, **REFUSALS}, url_name="webhook_get", auth=only("read"))
def webhook_get(request: ApiRequest) -> dict[str, Any]:
    webhook = _webhook(request)
    if webhook is None:
        raise Http404
    return _webhook_out(webhook)


@router.put("/webhook", response={200: WebhookSet, **REFUSALS}, url_name="webhook_set", auth=only("credentials"))
def webhook_set(request: ApiRequest, payload: WebhookIn, response: HttpResponse) -> dict[str, Any]:
    """Where alerts go. A new address gets a new secret, which is in this answer and never again."""
    require_proof(request)
    kept = _webhook(request)
    webhook, secret = webhooks.webhook_set(user=request.user, url=payload.url, muted=kept.muted if kept else ())
    response["Cache-Control"] = "no-store"
    return _webhook_out(webhook) | {"secret": secret or None}


@router.delete("/webhook", response={204: None, **REFUSALS}, url_name="webhook_remove", auth=only("credentials"))
def webhook_remove(request: ApiRequest) -> Any:
    """Twice is the same as once."""
    require_proof(request)
    webhooks.webhook_remove(user=request.user)
    return HttpResponse(status=204)


@router.post(
    "/webhook/test",
    response={202: DeliveryOut, **REFUSALS, 409: ErrorOut},
    url_name="webhook_test",
    auth=only("credentials"),
)
def webhook_test(request: ApiRequest) -> Any:
    """Send it a message of the kind `test`; what became of it stands among the deliveries in a moment."""
    if _webhook(request) is None:
        raise _no_webhook()
    delivery = webhooks.webhook_test(user=request.user)
    if delivery is None:
        raise _no_webhook()
    return Status(202, _delivery_out(delivery))
