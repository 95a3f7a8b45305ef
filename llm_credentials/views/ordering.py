"""The order of the keys, changed on the providers page: with buttons, or by dragging."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.http import HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

from llm_credentials.services import chain_arrange
from llm_credentials.views.answers import UserRequest, arranged, moved, show_region
from llm_credentials.views.cards import providers_page


@require_POST
@never_cache
@login_required
def key_move(request: UserRequest) -> HttpResponse:
    """One key a place up or down in the chain (``credential``, ``move``), as the page shows it."""
    order = [card.credential.pk for card in providers_page(request.user).chain if card.credential]
    return _arranged(request, moved(request, order))


@require_POST
@never_cache
@login_required
def key_order(request: UserRequest) -> HttpResponse:
    """The whole chain at once, as somebody dragged it (``credential``, many times)."""
    return _arranged(request, arranged(request))


def _arranged(request: UserRequest, order: list[UUID] | None) -> HttpResponse:
    """The page as it is now: after a refusal the cards go back to where they were."""
    try:
        if order is None:
            raise ValidationError(_("This key is not there any more, or not in use. Nothing was moved."))
        chain_arrange(user=request.user, credentials=order)
    except ValidationError as error:
        messages.warning(request, " ".join(error.messages))
    if not request.htmx:
        return redirect("llm_credentials:provider-list")
    return show_region(request, providers_page(request.user), focus="")
