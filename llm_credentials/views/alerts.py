"""Alert settings for mail and the user's webhook, and the banners on every page."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.http import HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_GET, require_POST

from llm_credentials import stepup, webhooks
from llm_credentials.limits import LimitReached
from llm_credentials.models import Alert, LLMSettings, Webhook
from llm_credentials.notices.banners import dismiss
from llm_credentials.notices.kinds import ALERTS, Kind
from llm_credentials.services import settings_update
from llm_credentials.views.answers import UserRequest

PAGE = "llm_credentials/alert_settings.html"
LABELS = {
    Kind.KEY_REFUSED: gettext_noop("A provider refuses a key"),
    Kind.KEY_SPENT: gettext_noop("A key has no credit or quota left"),
    Kind.KEY_NEEDS_REENTRY: gettext_noop("A key can no longer be opened"),
    Kind.KEY_LIMITED: gettext_noop("A provider closes a region, model or feature to a key"),
    Kind.BUDGET_WARNED: gettext_noop("80 % of the month's budget is used"),
    Kind.BUDGET_USED_UP: gettext_noop("The month's budget is used up"),
    Kind.WEBHOOK_OFF: gettext_noop("The webhook was switched off"),
}


@require_GET
@never_cache
@login_required
def alert_settings(request: UserRequest) -> HttpResponse:
    return _show(request)


def _show(request: UserRequest, *, status: int = 200, **extra: Any) -> HttpResponse:
    settings = LLMSettings.of(request.user)
    webhook = Webhook.objects.filter(user=request.user).first()
    rows = [
        {
            "kind": kind.value,
            "label": _(LABELS[kind]),
            "mailed": kind not in settings.muted,
            "sent": webhook is not None and kind not in webhook.muted,
        }
        for kind in ALERTS
    ]
    context = {
        "settings": settings,
        "webhook": webhook,
        "rows": rows,
        "deliveries": webhook.deliveries.order_by("-created_at")[: webhooks.KEPT] if webhook else [],
        "proven": stepup.is_recent(request),
        "proof_url": stepup.url(reverse("llm_credentials:alert-settings")),
        "email": request.user.email,
    }
    return render(request, PAGE, context | extra, status=status)


@require_POST
@never_cache
@login_required
def alert_settings_save(request: UserRequest) -> HttpResponse:
    """``mail`` and ``webhook``: the kinds enabled for each."""
    known = {kind.value for kind in ALERTS}
    muted = sorted(known - set(request.POST.getlist("mail")))
    settings_update(user=request.user, alerts=True, muted=muted)
    unsent = sorted(known - set(request.POST.getlist("webhook")))
    webhooks.webhook_mute(user=request.user, muted=unsent)
    messages.success(request, _("Alerts saved."))
    return redirect("llm_credentials:alert-settings")


@require_POST
@never_cache
@login_required
def alert_dismiss(request: UserRequest, alert_id: UUID) -> HttpResponse:
    """Hides the alert until the next change."""
    alert = get_object_or_404(Alert.objects.for_user(request.user), pk=alert_id)
    dismiss(alert)
    if request.htmx:
        return HttpResponse("")
    back = request.POST.get("next", "")
    # ``redirect`` treats a value that is not an address as a view name.
    if not back.startswith("/") or not url_has_allowed_host_and_scheme(back, allowed_hosts=None):
        back = reverse("home")
    return HttpResponseRedirect(back)


@require_POST
@never_cache
@login_required
@sensitive_variables()
def webhook_set(request: UserRequest) -> HttpResponse:
    """Set the webhook. The secret of a new address is in this response only."""
    if not stepup.is_recent(request):
        return stepup.lead(request, reverse("llm_credentials:alert-settings"))
    url = request.POST.get("url", "")
    kept = Webhook.objects.filter(user=request.user).first()
    try:
        _webhook, secret = webhooks.webhook_set(user=request.user, url=url, muted=kept.muted if kept else ())
    except ValidationError as error:
        return _show(request, status=422, url_error=" ".join(error.messages), url_typed=url[:2048])
    if secret:
        return _show(request, secret=secret)
    messages.success(request, _("Webhook saved."))
    return redirect("llm_credentials:alert-settings")


@require_POST
@never_cache
@login_required
def webhook_remove(request: UserRequest) -> HttpResponse:
    if not stepup.is_recent(request):
        return stepup.lead(request, reverse("llm_credentials:alert-settings"))
    webhooks.webhook_remove(user=request.user)
    messages.success(request, _("Webhook removed."))
    return redirect("llm_credentials:alert-settings")


@require_POST
@never_cache
@login_required
def webhook_test(request: UserRequest) -> HttpResponse:
    try:
        sent = webhooks.webhook_test(user=request.user)
    except LimitReached as reached:
        words = _("There were many tests just now. Test again in %(seconds)d s.") % {"seconds": reached.retry_after_s}
        messages.warning(request, words)
        return redirect("llm_credentials:alert-settings")
    if sent is None:
        messages.warning(request, _("Set a webhook first."))
    else:
        messages.success(request, _("A test message is on its way; its result stands below in a moment."))
    return redirect("llm_credentials:alert-settings")
