"""Replaces a key with one that was tested first."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_POST

from llm_credentials import stepup
from llm_credentials.forms import CredentialForm
from llm_credentials.models import ConnectionTest, UserCredential
from llm_credentials.replacement import ReplacementOver, replacement_start
from llm_credentials.replacement import replacement_save as save_replacement
from llm_credentials.views.answers import (
    UserRequest,
    ask_proof,
    card_url,
    find_card,
    find_spec,
    refuse,
    show_card,
)
from llm_credentials.views.cards import providers_page
from llm_credentials.views.connection_tests import begin_test
from llm_credentials.views.credentials import find_stored


@require_POST
@never_cache
@login_required
@sensitive_post_parameters()
def credential_replace(request: UserRequest, provider: str) -> HttpResponse:
    """Test the typed key, and replace the stored one if it works."""
    card = find_stored(request, provider, request.POST.get("name", "").strip())
    form = CredentialForm(request.POST, spec=card.spec, name=card.name, credential=card.credential)
    if not form.is_valid():
        return refuse(request, card, form)
    if not stepup.is_recent(request):
        return ask_proof(request, card, form)

    def start() -> ConnectionTest:
        try:
            return replacement_start(user=request.user, provider=card.spec.slug, name=card.name, unsaved=form.draft)
        except UserCredential.DoesNotExist:
            raise Http404 from None

    return begin_test(request, card, form, start)


@require_POST
@never_cache
@login_required
def replacement_save(request: UserRequest, test_id: UUID) -> HttpResponse:
    """Use the new key although its test failed or the stored one has changed."""
    test = get_object_or_404(ConnectionTest.objects.for_user(request.user).defer("api_key"), pk=test_id)
    card = find_card(providers_page(request.user), find_spec(test.provider), test.name)
    if not stepup.is_recent(request):
        return stepup.lead(request, card_url(card))
    try:
        save_replacement(user=request.user, test_id=test_id)
        messages.success(request, _("%(provider)s saved with the new key.") % {"provider": card.title})
    except ReplacementOver as over:
        messages.warning(request, _(str(over)))
    except ValidationError as refusal:
        messages.warning(request, " ".join(refusal.messages))
    page = providers_page(request.user)
    card = find_card(page, card.spec, card.name)
    return show_card(request, page, card, changed=True) if request.htmx else redirect(card_url(card))
