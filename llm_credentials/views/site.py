"""The home page and the style guide."""

from __future__ import annotations

from decimal import Decimal

from django.conf import settings
from django.contrib.auth.models import User
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.views.decorators.http import require_GET

from llm_credentials.models import LLMSettings, UserCredential, system_credentials
from llm_credentials.policies import policy_of
from llm_credentials.providers import ProviderSpec
from llm_credentials.providers.registry import specs


@require_GET
def home(request: HttpRequest) -> HttpResponse:
    """The first useful page for a user; for anyone else, what this site is."""
    if not request.user.is_authenticated:
        return render(request, "home.html", {"shown": _examples()})
    if _has_nothing_to_start_with(request.user):
        return redirect("llm_credentials:provider-start")
    try:
        return redirect(reverse("agents:agent-list"))
    except NoReverseMatch:
        return redirect("llm_credentials:provider-list")


@require_GET
def styleguide(request: HttpRequest) -> HttpResponse:
    if not settings.DEBUG:
        raise Http404
    return render(
        request,
        "llm_credentials/styleguide.html",
        {"specs": specs(), "now": timezone.now(), "cost": Decimal("0.0042")},
    )


def _has_nothing_to_start_with(user: User) -> bool:
    """Neither a key of their own nor one of the organisation as fallback."""
    if not policy_of(user).own_keys or UserCredential.objects.for_user(user).exists():
        return False
    return not (LLMSettings.of(user).fallback_to_system and system_credentials())


def _examples() -> list[ProviderSpec]:
    """Three providers for the picture of a chain: any known ones for which anyone can make a key."""
    return [spec for spec in specs() if spec.key_required and spec.base_url][:3]
