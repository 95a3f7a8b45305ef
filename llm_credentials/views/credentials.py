"""Changes one key: save, turn on and off, remove."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_GET, require_POST

from llm_credentials import removal, stepup
from llm_credentials.connection_tests import QueueUnavailable, TestBusy, TestLimited, test_start
from llm_credentials.forms import CredentialForm
from llm_credentials.models import UserCredential
from llm_credentials.services import changes_key
from llm_credentials.services import credential_save as save_credential
from llm_credentials.tasks import enqueue_connection_test
from llm_credentials.views.answers import (
    PAGE,
    UserRequest,
    ask_proof,
    find_card,
    find_spec,
    refuse,
    show_card,
    show_page,
    show_region,
    typed_card,
)
from llm_credentials.views.cards import ProvidersPage, opened, providers_page, removed_keys, with_card
from llm_credentials.views.shown_keys import Card, key_words


def find_stored(request: UserRequest, provider: str, name: str) -> Card:
    """The card of a stored key of the user. Raises Http404."""
    return stored_card(providers_page(request.user), provider, name)


def stored_card(page: ProvidersPage, provider: str, name: str) -> Card:
    """Raises Http404."""
    card = find_card(page, find_spec(provider), name)
    if card.credential is None:
        raise Http404
    return card


@require_POST
@never_cache
@login_required
@sensitive_post_parameters()
def credential_save(request: UserRequest, provider: str) -> HttpResponse:
    """Store the input; a new key is tested at once."""
    spec = find_spec(provider)
    page = providers_page(request.user)
    # The form reports an invalid name beside its field.
    typed_name = request.POST.get("name", "").strip()
    card = typed_card(request, page, spec) or page.card(spec.slug, typed_name) or Card(spec=spec)
    form = CredentialForm(request.POST, spec=spec, name=card.name, credential=card.credential)
    if not form.is_valid():
        return refuse(request, card, form)
    draft, name = form.draft, form.cleaned_data["name"] or card.name
    namesake = page.card(spec.slug, name)
    if card.credential is None and namesake is not None and namesake.credential is not None:
        form.add_error("name", _("You have a key of this name. Choose another one."))
        return refuse(request, card, form)
    try:
        if changes_key(user=request.user, provider=spec.slug, name=name, draft=draft) and not stepup.is_recent(request):
            return ask_proof(request, card, form)
        saved = save_credential(
            user=request.user,
            provider=spec.slug,
            name=name,
            api_key=draft.api_key,
            model=draft.model,
            base_url=draft.base_url,
            options=draft.options,
        )
    except ValidationError as error:
        form.take_errors(error)
        return refuse(request, card, form)
    if saved.key_changed or saved.created:
        test_new_key(request, saved.credential)
    else:
        messages.success(request, _("%(provider)s saved.") % {"provider": card.title})
    return _answer_saved(request, saved.credential, moved=saved.created)


def test_new_key(request: UserRequest, credential: UserCredential) -> None:
    """The key stays saved whatever the result; if no test can start, the message says why."""
    try:
        enqueue_connection_test(test_start(user=request.user, provider=credential.provider, name=credential.name))
    except TestBusy:
        return
    except TestLimited as limit:
        text = _("Key saved. It was not tested: there were many tests just now. Test it in %(seconds)d s.")
        messages.warning(request, text % {"seconds": limit.retry_after_s})
    except QueueUnavailable:
        messages.warning(request, _("Key saved. It could not be tested: background jobs cannot be started just now."))


test_new_key.__test__ = False  # type: ignore[attr-defined]


def _answer_saved(request: UserRequest, credential: UserCredential, *, moved: bool) -> HttpResponse:
    if not request.htmx:
        place = f"#card-{credential.provider}-{credential.name}"
        return redirect(reverse("llm_credentials:provider-list") + place)
    page = providers_page(request.user)
    if moved:
        return show_region(request, page, focus=f"{credential.provider}-{credential.name}")
    return show_card(request, page, find_card(page, credential.spec, credential.name), changed=True, focus=True)


@require_POST
@never_cache
@login_required
def credential_toggle(request: UserRequest, provider: str) -> HttpResponse:
    """Turn the key on or off (``active``: ``on`` or ``off``)."""
    card = find_stored(request, provider, request.POST.get("name", ""))
    wanted = request.POST.get("active")
    if wanted not in {"on", "off"}:
        return HttpResponse(_("Say on or off."), status=422, content_type="text/plain")
    save_credential(user=request.user, provider=card.spec.slug, name=card.name, is_active=wanted == "on")
    if not request.htmx:
        return redirect("llm_credentials:provider-list")
    page = providers_page(request.user)
    return show_card(request, page, find_card(page, card.spec, card.name), changed=True)


@require_GET
@never_cache
@login_required
def credential_confirm_removal(request: UserRequest, provider: str) -> HttpResponse:
    """Shows what would be removed, with the button to confirm."""
    page = providers_page(request.user)
    stored = stored_card(page, provider, request.GET.get("name", ""))
    if not stepup.is_recent(request):
        return stepup.lead(request, removal_url(stored))
    card = replace(opened(stored), asks_removal=True)
    return show_card(request, page, card) if request.htmx else show_page(request, with_card(page, card))


def removal_url(card: Card) -> str:
    return reverse("llm_credentials:credential-confirm-removal", args=[card.spec.slug]) + card.query


@require_POST
@never_cache
@login_required
def credential_delete(request: UserRequest, provider: str) -> HttpResponse:
    card = find_stored(request, provider, request.POST.get("name", ""))
    if not stepup.is_recent(request):
        return stepup.lead(request, removal_url(card))
    try:
        removal.remove(user=request.user, provider=card.spec.slug, name=card.name)
    except UserCredential.DoesNotExist:
        raise Http404 from None
    if not request.htmx:
        return redirect("llm_credentials:provider-list")
    # Focus goes to the undo button.
    return show_region(request, providers_page(request.user), focus="undo")


@require_GET
@never_cache
@login_required
def removed_list(request: UserRequest) -> HttpResponse:
    """Keys that can be restored; the page polls this when a key's undo time ends."""
    if not request.htmx:
        return redirect("llm_credentials:provider-list")
    return render(request, f"{PAGE}#removed", {"removed": removed_keys(request.user)})


@require_POST
@never_cache
@login_required
def credential_undo(request: UserRequest, credential_id: UUID) -> HttpResponse:
    """Restore a removed key. Needs no step-up of its own, because the removal required one."""
    focus = ""
    try:
        row = removal.undo(user=request.user, credential_id=credential_id)
    except UserCredential.DoesNotExist:
        raise Http404 from None
    except removal.UndoRefused as refused:
        messages.warning(request, str(refused))
    else:
        messages.success(request, _("%(key)s is back.") % {"key": capfirst(key_words(row))})
        focus = f"{row.provider}-{row.name}"
    if not request.htmx:
        return redirect("llm_credentials:provider-list")
    return show_region(request, providers_page(request.user), focus=focus)
