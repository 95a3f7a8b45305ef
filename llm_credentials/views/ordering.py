"""Reorders keys on the providers page, with buttons or by dragging."""

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
    """Move one key (``credential``) one place up or down (``move``) in the chain as shown."""
    order = [card.credential.pk for card in providers_page(request.user).chain if card.credential]
    return _arranged(request, moved(request, order))


@require_POST
@never_cache
@login_required
def key_order(request: UserRequest) -> HttpResponse:
    """Set the whole chain after dragging (repeated ``credential``)."""
    return _arranged(request, arranged(request))


def _arranged(request: UserRequest, order: list[UUID] | None) -> HttpResponse:
    """The page as stored now; after a refusal the cards return to their old positions."""
    try:
        if order is None:
            raise ValidationError(_("This key is not there any more, or not in use. Nothing was moved."))
        chain_arrange(user=request.user, credentials=order)
    except ValidationError as error:
        messages.warning(request, " ".join(error.messages))
    if not request.htmx:
        return redirect("llm_credentials:provider-list")
    return show_region(request, providers_page(request.user), focus="")
