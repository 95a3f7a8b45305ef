"""Background runs: list and start, watch one, cancel, run again."""

from __future__ import annotations

from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from agents import services, tasks
from agents.models import AgentRun
from agents.registry import agents
from agents.turns import choice_parts, choices_for
from agents.views.answers import UserRequest, admit_run, find_run, texts_of
from agents.watching import announce_stop
from llm_credentials.limits import LimitReached

PER_PAGE = 30
LIST = "agents/run_list.html"
DETAIL = "agents/run_detail.html"


@require_GET
@never_cache
@login_required
def run_list(request: UserRequest) -> HttpResponse:
    return _list(request)


@require_POST
@login_required
def run_create(request: UserRequest) -> HttpResponse:
    provider, model = choice_parts(request.POST.get("choice", ""))
    text = request.POST.get("text", "")
    agent = request.POST.get("agent", "")
    try:
        admit_run(request.user, agent, provider, model)
        run = services.run_create(user=request.user, agent=agent, text=text, provider=provider, model=model)
    except ValidationError as error:
        return _list(request, errors=texts_of(error), status=422)
    except LimitReached as limit:
        return _not_now(request, limit)
    try:
        tasks.enqueue_run(run)
    except tasks.QueueUnavailable as error:
        services.run_discard(run)
        return _list(request, errors=[error.user_message], status=503)
    return redirect(run)


@require_GET
@never_cache
@login_required
def run_detail(request: UserRequest, run_id: UUID) -> HttpResponse:
    """The page; for htmx, which asks again while the run lasts, only its live part, or nothing if that is as it was."""
    run = find_run(request.user, run_id)
    if request.htmx and request.GET.get("seen") == run.seen:
        return HttpResponse(status=204)
    return render(request, f"{DETAIL}#live" if request.htmx else DETAIL, {"run": run})


@require_POST
@login_required
def run_cancel(request: UserRequest, run_id: UUID) -> HttpResponse:
    run = services.run_cancel(user=request.user, run_id=find_run(request.user, run_id).pk)
    announce_stop(run.pk)
    if request.htmx:
        return render(request, f"{DETAIL}#live", {"run": run})
    return redirect(run)


@require_POST
@login_required
def run_retry(request: UserRequest, run_id: UUID) -> HttpResponse:
    """Queue an open run once more (only one worker can take it), or a new one like a finished one."""
    run = find_run(request.user, run_id)
    is_new = not run.is_open
    try:
        admit_run(request.user, run.agent, run.provider, run.model)
    except LimitReached as limit:
        return _not_now(request, limit, text=run.input)
    if is_new:
        run = services.run_create(
            user=request.user, agent=run.agent, text=run.input, provider=run.provider, model=run.model
        )
    try:
        tasks.enqueue_run(run)
    except tasks.QueueUnavailable as error:
        if is_new:
            services.run_discard(run)
        return _list(request, errors=[error.user_message], text=run.input, status=503)
    return redirect(run)


def _not_now(request: UserRequest, limit: LimitReached, text: str | None = None) -> HttpResponse:
    words = _("Many runs were started just now. Start this one in %(retry_after_s)s s; your text is still here.") % {
        "retry_after_s": limit.retry_after_s
    }
    response = _list(request, errors=[words], text=text, status=429)
    response["Retry-After"] = str(limit.retry_after_s)
    return response


def _list(
    request: UserRequest, *, errors: list[str] | None = None, text: str | None = None, status: int = 200
) -> HttpResponse:
    runs = AgentRun.objects.for_user(request.user).recent_first()
    context = {
        "page": Paginator(runs, PER_PAGE).get_page(request.GET.get("page")),
        "agents": agents(),
        "chosen_agent": request.POST.get("agent") or request.GET.get("agent", ""),
        "choices": choices_for(request.user),
        "chosen_choice": request.POST.get("choice", ""),
        "text": request.POST.get("text", "") if text is None else text,
        "errors": errors or [],
    }
    return render(request, LIST, context, status=status)
