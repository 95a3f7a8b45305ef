"""Responses of the settings views: a fragment for htmx, otherwise a page or a redirect."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django_htmx.middleware import HtmxDetails

from llm_credentials import stepup
from llm_credentials.forms import CredentialForm
from llm_credentials.limits import LimitReached, with_pause
from llm_credentials.providers import ProviderSpec, UnknownProvider
from llm_credentials.providers.registry import get_spec
from llm_credentials.validation import clean_name
from llm_credentials.views.cards import ProvidersPage, opened, providers_page, with_card
from llm_credentials.views.shown_keys import DEFAULT_NAME, Card

PAGE = "llm_credentials/provider_list.html"


class UserRequest(HttpRequest):
    """A request behind ``login_required`` and the htmx middleware."""

    user: User
    htmx: HtmxDetails


def find_spec(provider: str) -> ProviderSpec:
    """Raises Http404."""
    try:
        return get_spec(provider)
    except UnknownProvider:
        raise Http404 from None


def find_card(page: ProvidersPage, spec: ProviderSpec, name: str) -> Card:
    """The card of this provider and name, empty where nothing is stored. Raises Http404 for an invalid name."""
    try:
        name = clean_name(name or DEFAULT_NAME)
    except ValidationError:
        raise Http404 from None
    return page.card(spec.slug, name) or Card(spec=spec, name=name)


def typed_card(request: UserRequest, page: ProvidersPage, spec: ProviderSpec) -> Card | None:
    """The card into which a new key was typed, whatever its typed name; None if the form is for a stored key."""
    if "card" not in request.POST:
        return None
    try:
        name = clean_name(request.POST["card"] or DEFAULT_NAME)
    except ValidationError:
        name = DEFAULT_NAME
    return page.card(spec.slug, name) or Card(spec=spec, name=name)


def typed_form(request: UserRequest, provider: str) -> tuple[Card, CredentialForm]:
    """The submitted card, or that of the stored key, and its form. Raises Http404."""
    spec = find_spec(provider)
    page = providers_page(request.user)
    card = typed_card(request, page, spec) or find_card(page, spec, request.POST.get("name", "").strip())
    return card, CredentialForm(request.POST, spec=spec, name=card.name, credential=card.credential)


def moved(request: UserRequest, order: list[UUID]) -> list[UUID] | None:
    """The order with one key (``credential``) moved one place ``up`` or ``down`` (``move``); None if it cannot be
    moved.
    """
    key = uuid_of(request.POST.get("credential", ""))
    step = {"up": -1, "down": 1}.get(request.POST.get("move", ""))
    if key not in order or step is None:
        return None
    place = order.index(key)
    order.insert(min(max(place + step, 0), len(order) - 1), order.pop(place))
    return order


def arranged(request: UserRequest) -> list[UUID] | None:
    """The whole order after dragging (repeated ``credential``); None if one id is invalid."""
    ids = [uuid_of(text) for text in request.POST.getlist("credential")]
    return None if None in ids else [pk for pk in ids if pk]


def uuid_of(text: str) -> UUID | None:
    """None if the text is not an id."""
    try:
        return UUID(text)
    except ValueError:
        return None


def show_page(request: UserRequest, page: ProvidersPage, *, status: int = 200) -> HttpResponse:
    return render(request, PAGE, {"page": page}, status=status)


def show_region(request: UserRequest, page: ProvidersPage, *, focus: str) -> HttpResponse:
    """Replaces everything below the tabs, whatever the request's target, for changes that move cards.

    ``focus``: id of the card that gets keyboard focus.
    """
    response = render(request, f"{PAGE}#region_answer", {"page": page, "focus": focus})
    response["HX-Retarget"] = "#providers"
    response["HX-Reswap"] = "outerHTML"
    return response


def show_card(
    request: UserRequest, page: ProvidersPage, card: Card, *, changed: bool = False, focus: bool = False
) -> HttpResponse:
    """One card; after a change also the chain and the other cards' positions. ``focus``: move keyboard focus to it."""
    context = {"page": page, "card": card, "changed": changed, "focus": card.id if focus else ""}
    return render(request, f"{PAGE}#card_answer", context)


def show_errors(request: UserRequest, card: Card, form: CredentialForm) -> HttpResponse:
    """Swaps only the error slots, so that the input is kept."""
    context = {"card": card, "form": form, "slots": error_slots(form)}
    response = render(request, f"{PAGE}#errors_answer", context, status=422)
    response["HX-Reswap"] = "none"
    return response


def error_slots(form: CredentialForm) -> list[tuple[str, list[str]]]:
    """Each field with its own error slot, with its errors."""
    names = ["api_key", "model", "base_url"] + ["name"] * (form.credential is None)
    return [(name, [str(text) for text in form.errors.get(name, [])]) for name in names if name in form.fields]


def refuse(request: UserRequest, card: Card, form: CredentialForm) -> HttpResponse:
    """Invalid input: shows the errors beside their fields. The response contains no key."""
    if request.htmx:
        return show_errors(request, card, form)
    form.forget_refused()
    page = providers_page(request.user)
    return show_page(request, with_card(page, opened(card, form=form)), status=422)


def ask_proof(request: UserRequest, card: Card, form: CredentialForm) -> HttpResponse:
    """Requires step-up before anything is saved; the input stays in the browser only.

    Without scripts the form comes back without the key, which must be entered again.
    """
    proof = stepup.url(reverse("llm_credentials:step-up-done"))
    if request.htmx:
        context = {"card": card, "form": form, "slots": error_slots(form), "proof": proof, "key_kept": True}
        response = render(request, f"{PAGE}#errors_answer", context, status=401)
        response["HX-Reswap"] = "none"
        return response
    page = with_card(providers_page(request.user), opened(card, form=form))
    return render(request, PAGE, {"page": page, "proof": proof}, status=401)


def too_many(request: UserRequest, card: Card, limit: LimitReached) -> HttpResponse:
    context: dict[str, Any] = {"card": card, "retry_after_s": limit.retry_after_s}
    template = f"{PAGE}#too_many" if request.htmx else "429.html"
    return with_pause(render(request, template, context, status=429), limit)


def unavailable(request: UserRequest, card: Card, reason: str) -> HttpResponse:
    template = f"{PAGE}#unavailable" if request.htmx else "503.html"
    return render(request, template, {"card": card, "reason": reason}, status=503)


def card_url(card: Card) -> str:
    return reverse("llm_credentials:credential-edit", args=[card.spec.slug]) + card.query
