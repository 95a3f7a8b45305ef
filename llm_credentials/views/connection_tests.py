"""Starts connection tests and shows their progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_GET, require_POST

from llm_credentials.connection_tests import QueueUnavailable, TestBusy, TestLimited, expire_abandoned, test_start
from llm_credentials.forms import CredentialForm
from llm_credentials.models import ConnectionTest
from llm_credentials.tasks import enqueue_connection_test
from llm_credentials.views.answers import (
    PAGE,
    UserRequest,
    card_url,
    error_slots,
    find_card,
    find_spec,
    refuse,
    show_card,
    too_many,
    typed_form,
    unavailable,
)
from llm_credentials.views.cards import providers_page
from llm_credentials.views.shown_keys import Card
from llm_credentials.views.shown_tests import TestView


@require_POST
@never_cache
@login_required
@sensitive_post_parameters()
def credential_test(request: UserRequest, provider: str) -> HttpResponse:
    """Test the typed key, or the stored one if none was typed."""
    card, form = typed_form(request, provider)
    if not form.is_valid():
        return refuse(request, card, form)
    unsaved = form.draft if form.differs else None
    return begin_test(
        request,
        card,
        form,
        lambda: test_start(user=request.user, provider=card.spec.slug, name=card.name, unsaved=unsaved),
    )


def begin_test(
    request: UserRequest, card: Card, form: CredentialForm, start: Callable[[], ConnectionTest]
) -> HttpResponse:
    """Enqueue the test that ``start`` creates and show it, or say why there is none."""
    try:
        test = start()
        enqueue_connection_test(test)
    except ValidationError as error:
        form.take_errors(error)
        return refuse(request, card, form)
    except TestLimited as limit:
        return too_many(request, card, limit)
    except QueueUnavailable as problem:
        return unavailable(request, card, str(problem))
    except TestBusy as busy:
        if busy.test is None:
            return unavailable(request, card, str(busy))
        test = busy.test
    if not request.htmx:
        return redirect(card_url(card))
    return _show(request, card, test, slots=error_slots(form))


@require_GET
@never_cache
@login_required
def connection_test_detail(request: UserRequest, test_id: UUID) -> HttpResponse:
    """Progress of a test, for the page that polls it. 204 while nothing is new (``seen``)."""
    expire_abandoned(test_id=test_id)
    tests = ConnectionTest.objects.for_user(request.user).defer("api_key")
    test = get_object_or_404(tests, pk=test_id)
    card = find_card(providers_page(request.user), find_spec(test.provider), test.name)
    if not request.htmx:
        return redirect(card_url(card))
    if card.test is not None and card.test.id == test.pk and request.GET.get("seen") == card.test.seen:
        return HttpResponse(status=204)
    if test.replacement == ConnectionTest.Replacement.DONE:
        return _show_replaced(request, card)
    return _show(request, card, test)


def _show_replaced(request: UserRequest, card: Card) -> HttpResponse:
    """The whole card, closed: its form described the key that has been replaced."""
    response = show_card(request, providers_page(request.user), card, changed=True, focus=True)
    response["HX-Retarget"], response["HX-Reswap"] = f"#card-{card.id}", "outerHTML"
    return response


def _show(
    request: UserRequest, card: Card, test: ConnectionTest, *, slots: Sequence[tuple[str, list[str]]] = ()
) -> HttpResponse:
    """The test, the card's updated status, and the error ``slots`` cleared."""
    view = TestView(test=test, spec=card.spec)
    shown = replace(card, test=view)
    return render(request, f"{PAGE}#test_answer", {"card": shown, "test": view, "slots": slots})
