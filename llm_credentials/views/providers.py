"""The providers page and its cards, open and closed."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import redirect
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from llm_credentials import stepup
from llm_credentials.views.answers import UserRequest, card_url, find_card, find_spec, show_card, show_page
from llm_credentials.views.cards import opened, providers_page, with_card


@require_GET
@never_cache
@login_required
def settings_index(request: UserRequest) -> HttpResponse:
    return redirect("llm_credentials:provider-list")


@require_GET
@never_cache
@login_required
def provider_list(request: UserRequest) -> HttpResponse:
    return show_page(request, providers_page(request.user))


@require_GET
@never_cache
@login_required
def credential_edit(request: UserRequest, provider: str) -> HttpResponse:
    """The page with this card open; for htmx only the open card."""
    page = providers_page(request.user)
    card = find_card(page, find_spec(provider), request.GET.get("name", ""))
    proven = stepup.is_recent(request)
    if card.credential is None and not proven:
        # Step-up comes before any input, so that no key has to be kept meanwhile.
        return stepup.lead(request, card_url(card))
    card = opened(card, locked=not proven)
    return show_card(request, page, card) if request.htmx else show_page(request, with_card(page, card))


@require_GET
@never_cache
@login_required
def credential_detail(request: UserRequest, provider: str) -> HttpResponse:
    """The closed card; without htmx the whole page."""
    page = providers_page(request.user)
    card = find_card(page, find_spec(provider), request.GET.get("name", ""))
    return show_card(request, page, card, focus=True) if request.htmx else redirect("llm_credentials:provider-list")
