"""The routing page: which key answers which task, in what order, and why. Every change saves itself."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from llm_credentials import services
from llm_credentials.forms import RoutingForm
from llm_credentials.models import TaskOverride
from llm_credentials.routing import kinds
from llm_credentials.views.answers import UserRequest, arranged, moved
from llm_credentials.views.routes import own_order, routing_page

PAGE = "llm_credentials/routing_detail.html"


@require_GET
@never_cache
@login_required
def routing_detail(request: UserRequest) -> HttpResponse:
    """The page; for htmx, which sends an assumed failure, only the chains."""
    page = routing_page(request.user, request.GET.get("failed", ""))
    return render(request, f"{PAGE}#chains_answer" if request.htmx else PAGE, {"page": page})


@require_POST
@never_cache
@login_required
def routing_strategy_set(request: UserRequest) -> HttpResponse:
    try:
        services.settings_update(user=request.user, strategy=request.POST.get("strategy", ""))
    except ValidationError as error:
        return _refused(request, " ".join(error.messages))
    return _changed(request)


@require_POST
@never_cache
@login_required
def routing_defaults_set(request: UserRequest) -> HttpResponse:
    """Set the defaults for tasks without an override."""

    def save(form: RoutingForm) -> None:
        services.settings_update(user=request.user, **form.defaults())

    return _save_row(request, "", save)


@require_POST
@never_cache
@login_required
def task_override_set(request: UserRequest, task: str) -> HttpResponse:
    if kinds.get(task) is None:
        raise Http404

    def save(form: RoutingForm) -> None:
        services.task_override_set(user=request.user, task=task, **form.override())

    return _save_row(request, task, save)


@require_POST
@never_cache
@login_required
def task_override_reset(request: UserRequest, task: str) -> HttpResponse:
    """Reset the task to the defaults."""
    if kinds.get(task) is None:
        raise Http404
    with suppress(TaskOverride.DoesNotExist):  # pressed twice
        services.task_override_delete(user=request.user, task=task)
    if not request.htmx:
        return redirect("llm_credentials:routing-detail")
    page = routing_page(request.user, request.POST.get("failed", ""))
    return render(request, f"{PAGE}#row_answer", {"page": page, "row": page.row(task)})


@require_POST
@never_cache
@login_required
def chain_move(request: UserRequest) -> HttpResponse:
    """Move one key one place up or down (``move``)."""
    return _order(request, moved(request, [row.pk for row in own_order(request.user)]))


@require_POST
@never_cache
@login_required
def chain_set(request: UserRequest) -> HttpResponse:
    """Set the whole order after dragging (repeated ``credential``)."""
    return _order(request, arranged(request))


def _order(request: UserRequest, order: list[UUID] | None) -> HttpResponse:
    if order is None:
        return _refused(request, _("This key is not there any more. Reload the page."))
    try:
        services.chain_order(user=request.user, credentials=order)
    except ValidationError as error:
        return _refused(request, " ".join(error.messages))
    return _changed(request)


def _save_row(request: UserRequest, task: str, save: Callable[[RoutingForm], None]) -> HttpResponse:
    """Save one row; only its chain and its error slots are swapped, so that other input is kept."""
    form = RoutingForm(request.POST)
    if form.is_valid():
        try:
            save(form)
        except ValidationError as error:
            form.take_errors(error)
    saved = not form.errors
    if saved and not request.htmx:
        return redirect(f"{reverse('llm_credentials:routing-detail')}#task-{task}")
    page = routing_page(request.user, request.POST.get("failed", ""))
    if not saved:
        page = page.with_form(task, form)
        if not request.htmx:
            return render(request, PAGE, {"page": page}, status=422)
    template = "saved_answer" if task or not saved else "defaults_answer"
    context: dict[str, Any] = {"page": page, "row": page.row(task), "saved": saved}
    return render(request, f"{PAGE}#{template}", context, status=200 if saved else 422)


def _changed(request: UserRequest) -> HttpResponse:
    """Response after a change that affects every chain."""
    if not request.htmx:
        return redirect("llm_credentials:routing-detail")
    page = routing_page(request.user, request.POST.get("failed", ""))
    return render(request, f"{PAGE}#order_answer", {"page": page})


def _refused(request: UserRequest, words: str) -> HttpResponse:
    messages.error(request, words)
    if not request.htmx:
        return redirect("llm_credentials:routing-detail")
    response = render(request, "_partials/toasts_oob.html", status=422)
    response["HX-Reswap"] = "none"
    return response
