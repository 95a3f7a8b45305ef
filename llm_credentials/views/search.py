"""Web search services for the user's agents: a key or an address for each, tested as soon as it is saved."""

from __future__ import annotations

from typing import Any

from asgiref.sync import async_to_sync
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.http import require_GET, require_POST

from llm_credentials import conf, limits, stepup
from llm_credentials.limits import LimitReached
from llm_credentials.models import SearchCredential
from llm_credentials.providers.search import SEARCH_SPECS
from llm_credentials.search_keys import (
    TEST_RATE,
    SearchDraft,
    changes_search_key,
    search_key_delete,
    search_key_save,
    search_key_test,
    stored_key,
)
from llm_credentials.views.answers import UserRequest

PAGE = "llm_credentials/search_settings.html"


@require_GET
@never_cache
@login_required
def search_settings(request: UserRequest) -> HttpResponse:
    return _show(request)


def _show(request: UserRequest, *, status: int = 200, refused: str = "", **extra: Any) -> HttpResponse:
    """``refused``: the service whose form is shown with errors."""
    stored = {row.provider: row for row in SearchCredential.objects.for_user(request.user)}
    services = [
        {"spec": spec, "row": stored.get(slug), "refused": slug == refused} for slug, spec in SEARCH_SPECS.items()
    ]
    context = {
        "services": services,
        "has_active": any(row.is_active for row in stored.values()),
        "site_searches": bool(conf.searxng_url()),
        "proven": stepup.is_recent(request),
        "proof_url": stepup.url(reverse("llm_credentials:search-settings")),
    }
    return render(request, PAGE, context | extra, status=status)


def _known(provider: str) -> str:
    """Raises Http404."""
    if provider not in SEARCH_SPECS:
        raise Http404
    return provider


@require_POST
@never_cache
@login_required
@sensitive_post_parameters()
@sensitive_variables()
def search_key_change(request: UserRequest, service: str) -> HttpResponse:
    """Store the input; a changed key or address is tested at once."""
    provider = _known(service)
    draft = SearchDraft(
        api_key=request.POST.get("api_key") or None,
        base_url=request.POST.get("base_url"),
        is_active={"on": True, "off": False}.get(request.POST.get("active", "")),
    )
    try:
        if changes_search_key(user=request.user, provider=provider, draft=draft) and not stepup.is_recent(request):
            return stepup.lead(request, reverse("llm_credentials:search-settings"))
        row, _created, changed = search_key_save(user=request.user, provider=provider, draft=draft)
    except ValidationError as error:
        # A rejected address may be a key in the wrong field, so the form does not repeat it.
        return _show(request, status=422, refused=provider, errors=error.message_dict)
    if changed:
        return _tested(request, row)
    messages.success(request, _("%(service)s saved.") % {"service": row.provider_label})
    return redirect("llm_credentials:search-settings")


@require_POST
@never_cache
@login_required
def search_key_try(request: UserRequest, service: str) -> HttpResponse:
    row = stored_key(request.user, _known(service))
    if row is None:
        raise Http404
    return _tested(request, row)


def _tested(request: UserRequest, row: SearchCredential) -> HttpResponse:
    try:
        limits.use("search-test", str(request.user.pk), TEST_RATE)
        row = async_to_sync(search_key_test)(row)
    except LimitReached as reached:
        words = _("There were many tests just now. Test again in %(seconds)d s.") % {"seconds": reached.retry_after_s}
        messages.warning(request, words)
    except SearchCredential.DoesNotExist:
        messages.warning(request, _("It was removed meanwhile."))
    else:
        if row.status == SearchCredential.Status.VALID:
            messages.success(request, _("%(service)s works.") % {"service": row.provider_label})
        else:
            messages.warning(request, row.shown_detail or _("It was not tested."))
    return redirect("llm_credentials:search-settings")


@require_POST
@never_cache
@login_required
def search_key_remove(request: UserRequest, service: str) -> HttpResponse:
    provider = _known(service)
    if stored_key(request.user, provider) is None:
        raise Http404
    if not stepup.is_recent(request):
        return stepup.lead(request, reverse("llm_credentials:search-settings"))
    search_key_delete(user=request.user, provider=provider)
    messages.success(request, _("%(service)s removed.") % {"service": SEARCH_SPECS[provider].label})
    return redirect("llm_credentials:search-settings")
