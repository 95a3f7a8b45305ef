"""Two settings on the providers page that save themselves."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

from llm_credentials.models import UserCredential
from llm_credentials.services import settings_update
from llm_credentials.views.answers import PAGE, UserRequest
from llm_credentials.views.cards import providers_page


@require_POST
@never_cache
@login_required
def default_provider_set(request: UserRequest) -> HttpResponse:
    """Set the first provider; the user must have a key for it."""
    provider = request.POST.get("provider", "")
    if not UserCredential.objects.for_user(request.user).for_provider(provider).exists():
        return _refused(_("Add a key for this provider first."))
    try:
        settings_update(user=request.user, default_provider=provider)
    except ValidationError as error:
        return _refused(" ".join(error.messages))
    return _answer(request)


@require_POST
@never_cache
@login_required
def fallback_set(request: UserRequest) -> HttpResponse:
    """Whether the organisation's keys are the fallback for the user's own (``fallback``: ``on`` or ``off``)."""
    wanted = request.POST.get("fallback")
    if wanted not in {"on", "off"}:
        return _refused(_("Say on or off."))
    settings_update(user=request.user, fallback_to_system=wanted == "on")
    return _answer(request)


def _answer(request: UserRequest) -> HttpResponse:
    if not request.htmx:
        return redirect("llm_credentials:provider-list")
    return render(request, f"{PAGE}#preferences_answer", {"page": providers_page(request.user)})


def _refused(words: str) -> HttpResponse:
    return HttpResponse(words, status=422, content_type="text/plain; charset=utf-8")
