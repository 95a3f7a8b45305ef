"""The security pages: sign-in methods, history, data export and account deletion."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth import logout
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from llm_credentials import leaving, security, stepup
from llm_credentials.audit.history import seen_by
from llm_credentials.models import AuditEvent
from llm_credentials.views.answers import UserRequest

EVENTS_PER_PAGE = 50


@require_GET
@never_cache
@login_required
def security_detail(request: UserRequest) -> HttpResponse:
    """Sign-in methods, open sessions and recent events. Five queries."""
    user = request.user
    found = security.standing(user)
    words = {"totp": _("an authenticator app"), "webauthn": _("a passkey or security key")}
    context = {
        "has_password": user.has_usable_password(),
        "factors": [words[kind] for kind in found.factors],
        "sessions": found.sessions,
        "session_key": request.session.session_key,
        "tokens": found.tokens,
        "events": found.events,
    }
    return render(request, "llm_credentials/security_detail.html", context)


@require_GET
@never_cache
@login_required
def audit_event_list(request: UserRequest) -> HttpResponse:
    """Events of the user's keys and account, newest first."""
    events = AuditEvent.objects.for_user(request.user).recent_first()
    page = Paginator(events, EVENTS_PER_PAGE).get_page(request.GET.get("page"))
    seen = [seen_by(request.user, event) for event in page]
    return render(request, "llm_credentials/audit_event_list.html", {"page": page, "events": seen})


@require_GET
@never_cache
@login_required
def account_leave(request: UserRequest) -> HttpResponse:
    """Export or delete the account; requires step-up."""
    if not stepup.is_recent(request):
        return stepup.lead(request, request.path)
    return render(request, "llm_credentials/account_leave.html")


@require_POST
@never_cache
@login_required
def account_export(request: UserRequest) -> HttpResponse:
    if not stepup.is_recent(request):
        return stepup.lead(request, reverse("llm_credentials:account-leave"))
    response = JsonResponse(leaving.account_export(user=request.user), json_dumps_params={"indent": 2})
    response["Content-Disposition"] = f'attachment; filename="keyswitch-{timezone.now():%Y-%m-%d}.json"'
    return response


@require_POST
@never_cache
@login_required
def account_delete(request: UserRequest) -> HttpResponse:
    """Requires the user's own name, typed beside the button."""
    if not stepup.is_recent(request):
        return stepup.lead(request, reverse("llm_credentials:account-leave"))
    if request.POST.get("confirm", "").strip() != request.user.get_username():
        text = _("Type your user name, %(name)s, to delete the account.") % {"name": request.user.get_username()}
        return render(request, "llm_credentials/account_leave.html", {"error": text}, status=422)
    user = request.user
    logout(request)
    leaving.account_delete(user=user)
    messages.success(request, _("Your account and its keys are deleted."))
    return redirect("home")
