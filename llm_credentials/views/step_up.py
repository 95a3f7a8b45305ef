"""The step-up pages."""

from __future__ import annotations

from urllib.parse import urlencode

from allauth.account.adapter import get_adapter
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from llm_credentials import stepup
from llm_credentials.views.answers import UserRequest


@require_GET
@never_cache
@login_required
def step_up(request: UserRequest) -> HttpResponse:
    """Redirects to the page for the right proof, which continues to ``next``; directly to ``next`` if the proof is
    fresh.
    """
    back = _safe(request.GET.get("next", ""), request)
    if stepup.is_recent(request):
        return redirect(back)
    if stepup.must_enrol(request.user):
        messages.warning(request, _("This site asks for a second factor before keys change. Set one up, then go on."))
        return redirect("mfa_index")
    methods = get_adapter().get_reauthentication_methods(request.user)
    if not methods:
        messages.warning(request, _("Log out and in again: this account has nothing else to show that it is you."))
        return redirect("llm_credentials:security-detail")
    place: str = methods[0]["url"]
    if stepup.prefers_security_key(request.user):
        place = reverse("mfa_reauthenticate_webauthn")
    return redirect(f"{place}?{urlencode({'next': back})}")


def _safe(url: str, request: UserRequest) -> str:
    if url_has_allowed_host_and_scheme(url, allowed_hosts={request.get_host()}, require_https=request.is_secure()):
        return url
    return reverse("llm_credentials:provider-list")


@require_GET
@never_cache
@login_required
def step_up_done(request: UserRequest) -> HttpResponse:
    """Confirms step-up for a form that waits, with its input, in another browser tab."""
    if not stepup.is_recent(request):
        return redirect(stepup.url(request.path))
    return render(request, "llm_credentials/step_up_done.html")
