"""Background runs: list, start, watch, cancel, run again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.core.paginator import Paginator
from django.http import Http404, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.template import TemplateDoesNotExist
from django.template.loader import get_template, render_to_string
from django.utils.http import content_disposition_header
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.clickjacking import xframe_options_sameorigin
from django.views.decorators.http import require_GET, require_POST

from agents import runs, tasks
from agents.models import AgentRun
from agents.registry import UnknownAgent, agents, get_agent
from agents.sse import FOLLOW_EVERY_S
from agents.turns import choice_parts, choices_for
from agents.views.answers import UserRequest, admit_run, approvals_of, find_run, texts_of, too_many_runs
from agents.watching import announce_stop
from llm_credentials import limits
from llm_credentials.limits import LimitReached, with_pause
from llm_credentials.live.access import may_see
from llm_credentials.streams import HEARTBEAT, RETRY, EventStreamResponse, in_database, sse

PER_PAGE = 30
LIST = "agents/run_list.html"
DETAIL = "agents/run_detail.html"
FRAMED = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
"""For pages written by a model: they run, submit and fetch nothing."""


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
        run = runs.run_create(user=request.user, agent=agent, text=text, provider=provider, model=model)
    except ValidationError as error:
        return _list(request, errors=texts_of(error), status=422)
    except LimitReached as limit:
        return _not_now(request, limit)
    try:
        tasks.enqueue_run(run)
    except tasks.QueueUnavailable as error:
        runs.run_discard(run)
        return _list(request, errors=[error.user_message], status=503)
    return redirect(run)


@require_GET
@never_cache
@login_required
def run_detail(request: UserRequest, run_id: UUID) -> HttpResponse:
    """The page; for htmx polling, only its live part, or nothing if unchanged."""
    run = find_run(request.user, run_id)
    if request.htmx and request.GET.get("seen") == run.seen:
        return HttpResponse(status=204)
    return render(request, f"{DETAIL}#live" if request.htmx else DETAIL, shown_run(run))


@require_GET
@login_required
async def run_stream(request: UserRequest, run_id: UUID) -> HttpResponseBase:
    """Streams the live part of the page on each change: ``live`` with ``{"html"}``, finally ``end``."""
    user = await request.auser()
    assert isinstance(user, User)
    run = await sync_to_async(find_run)(user, run_id)
    await sync_to_async(limits.admit)("stream", user)
    return EventStreamResponse(_events(request, user, run.pk))


async def _events(request: UserRequest, user: User, run_id: UUID) -> AsyncGenerator[bytes, None]:
    session_key = request.session.session_key
    seen = ""
    yield RETRY
    while True:
        state, html, is_open = await in_database(_live, request, user, session_key, run_id, seen)
        yield sse("live", {"html": html}) if html else HEARTBEAT
        if not is_open:
            yield sse("end", {})
            return
        seen = state
        await asyncio.sleep(FOLLOW_EVERY_S)


def _live(request: UserRequest, user: User, session_key: str | None, run_id: UUID, seen: str) -> tuple[str, str, bool]:
    """The new ``seen`` value, the live part of the page if it changed, and whether more may follow."""
    run = AgentRun.objects.for_user(user).filter(pk=run_id).first()
    if run is None or not may_see(user.pk, session_key):
        return "", "", False
    html = "" if run.seen == seen else render_to_string(f"{DETAIL}#live", shown_run(run), request)
    # A run may wait for its user for days; the page polls in that case.
    return run.seen, html, run.is_open and not run.is_waiting


def shown_run(run: AgentRun) -> dict[str, Any]:
    """Template context of a run, including the agent's own result template if it has one."""
    part = f"agents/{run.agent}/result.html"
    try:
        get_template(part)
    except TemplateDoesNotExist:
        part = ""
    return {"run": run, "result_part": part, "files": runs.files_of(run) if run.attachment_ids else []}


@require_GET
@never_cache
@xframe_options_sameorigin
@login_required
def run_file(request: UserRequest, run_id: UUID, name: str) -> HttpResponse:
    """A part of the result as a download; with ``?show``, if allowed, inside a frame of the run's page."""
    run = find_run(request.user, run_id)
    try:
        files = get_agent(run.agent).result_files(run.result) if isinstance(run.result, dict) else ()
    except UnknownAgent:
        files = ()
    found = next((each for each in files if each.name == name), None)
    if found is None:
        raise Http404
    is_shown = found.is_page and "show" in request.GET
    headers = {
        "Content-Disposition": content_disposition_header(not is_shown, found.name) or "attachment",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": FRAMED if is_shown else "sandbox; default-src 'none'",
    }
    return HttpResponse(found.content, content_type=f"{found.media_type}; charset=utf-8", headers=headers)


@require_POST
@login_required
def run_approve(request: UserRequest, run_id: UUID) -> HttpResponse:
    """The user's decision on each call that the run waits for."""
    run = find_run(request.user, run_id)
    answers = approvals_of(request, run.pending)
    try:
        run = runs.run_answer(user=request.user, run_id=run.pk, answers=answers)
        tasks.enqueue_run(run)
    except ValidationError as error:
        messages.error(request, " ".join(texts_of(error)))
    except tasks.QueueUnavailable:
        messages.warning(request, _("Your answer is kept. The run goes on as soon as the queue is back."))
    return redirect(run)


@require_POST
@login_required
def run_cancel(request: UserRequest, run_id: UUID) -> HttpResponse:
    run = runs.run_cancel(user=request.user, run_id=find_run(request.user, run_id).pk)
    announce_stop(run.pk)
    if request.htmx:
        return render(request, f"{DETAIL}#live", shown_run(run))
    return redirect(run)


@require_POST
@login_required
def run_retry(request: UserRequest, run_id: UUID) -> HttpResponse:
    """Queue an open run again (only one worker can claim it), or a new one like a finished run."""
    run = find_run(request.user, run_id)
    is_new = not run.is_open
    try:
        admit_run(request.user, run.agent, run.provider, run.model)
    except LimitReached as limit:
        return _not_now(request, limit, text=run.input)
    if is_new:
        try:
            run = runs.run_again(run)
        except ValidationError as error:
            return _list(request, errors=texts_of(error), text=run.input, status=422)
    try:
        tasks.enqueue_run(run)
    except tasks.QueueUnavailable as error:
        if is_new:
            runs.run_discard(run)
        return _list(request, errors=[error.user_message], text=run.input, status=503)
    return redirect(run)


def _not_now(request: UserRequest, limit: LimitReached, text: str | None = None) -> HttpResponse:
    return with_pause(_list(request, errors=[too_many_runs(limit)], text=text, status=429), limit)


def _list(
    request: UserRequest, *, errors: list[str] | None = None, text: str | None = None, status: int = 200
) -> HttpResponse:
    found = AgentRun.objects.for_user(request.user).recent_first()
    context = {
        "page": Paginator(found, PER_PAGE).get_page(request.GET.get("page")),
        "agents": agents(),
        "chosen_agent": request.POST.get("agent") or request.GET.get("agent", ""),
        "choices": choices_for(request.user),
        "chosen_choice": request.POST.get("choice", ""),
        "text": request.POST.get("text", "") if text is None else text,
        "errors": errors or [],
    }
    return render(request, LIST, context, status=status)
