"""The models that a key may use, as choices."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_GET, require_POST

from llm_credentials.connection_tests import TestLimited, models_available
from llm_credentials.limits import LimitReached, with_pause
from llm_credentials.views.answers import (
    PAGE,
    UserRequest,
    card_url,
    find_card,
    find_spec,
    refuse,
    show_page,
    too_many,
    typed_form,
)
from llm_credentials.views.cards import opened, providers_page, with_card
from llm_credentials.views.shown_keys import Card


@require_GET
@never_cache
@login_required
def model_list(request: UserRequest, provider: str) -> HttpResponse:
    """For the stored key, when its card opens."""
    card = find_card(providers_page(request.user), find_spec(provider), request.GET.get("name", ""))
    if not request.htmx:
        return redirect(card_url(card))
    try:
        found = models_available(user=request.user, provider=card.spec.slug, name=card.name)
    except TestLimited as limit:
        return _too_many_lists(request, card, limit)
    return render(request, f"{PAGE}#models", {"card": card, "models": found, "asked": True})


@require_POST
@never_cache
@login_required
@sensitive_post_parameters()
def model_list_load(request: UserRequest, provider: str) -> HttpResponse:
    """For the typed input, which may include an unsaved key."""
    card, form = typed_form(request, provider)
    if not form.is_valid():
        return refuse(request, card, form)
    try:
        found = models_available(
            user=request.user, provider=card.spec.slug, name=card.name, unsaved=form.draft if form.differs else None
        )
    except ValidationError as error:
        form.take_errors(error)
        return refuse(request, card, form)
    except TestLimited as limit:
        return _too_many_lists(request, card, limit)
    if not request.htmx:
        return show_page(request, with_card(providers_page(request.user), opened(card, form=form, models=found)))
    return render(request, f"{PAGE}#models", {"card": card, "models": found, "asked": True})


def _too_many_lists(request: UserRequest, card: Card, limit: LimitReached) -> HttpResponse:
    if not request.htmx:
        return too_many(request, card, limit)
    context = {"card": opened(card), "models": opened(card).models, "retry_after_s": limit.retry_after_s}
    return with_pause(render(request, f"{PAGE}#models", context, status=429), limit)
