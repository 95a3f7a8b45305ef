"""The list of agents, and each agent's page: what it does, examples, and a form that starts it."""

from __future__ import annotations

from typing import Any

from asgiref.sync import async_to_sync
from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from agents import attachments, runs, schedules, supervisor, tasks
from agents.attachments import Attachment
from agents.base import Agent
from agents.forms import OPTION_PREFIX, HowForm, WhenForm, time_zones
from agents.models import AgentRun, Conversation
from agents.registry import UnknownAgent, agents, get_agent
from agents.services import checked_text
from agents.turns import choices_for
from agents.views.answers import UserRequest, admit_run, texts_of, too_many_messages, too_many_runs
from llm_credentials import limits
from llm_credentials.factory import explain_route
from llm_credentials.limits import LimitReached, with_pause
from llm_credentials.providers import LLMError

RECENT = 5
PAGE = "agents/agent_detail.html"
CHOOSE_YOURSELF = gettext_lazy("Choose an agent below; your text is still here to copy.")


@require_GET
@never_cache
@login_required
def agent_list(request: UserRequest) -> HttpResponse:
    return _list(request)


def _list(request: UserRequest, *, text: str = "", errors: list[str] | None = None, status: int = 200) -> HttpResponse:
    context = {
        "text": text,
        "errors": errors or [],
        "agents": agents(),
        "recent": Conversation.objects.for_user(request.user).recent_first()[:RECENT],
        "has_route": explain_route(request.user).chosen is not None,
    }
    return render(request, "agents/agent_list.html", context, status=status)


@require_GET
@never_cache
@login_required
def agent_detail(request: UserRequest, agent: str) -> HttpResponse:
    """``?example=2`` fills the form with the second example, ``?text=…`` with text typed on another page."""
    found = find_agent(agent)
    text = request.GET.get("text", "")
    number = request.GET.get("example", "")
    if number.isdecimal() and 0 < int(number[:4]) <= len(found.examples):
        text = found.examples[int(number[:4]) - 1]
    return _page(request, found, text=text)


@require_POST
@login_required
def agent_pick(request: UserRequest) -> HttpResponse:
    """The supervisor picks an agent for the text: shows that agent's page with the text, and links to the others."""
    text = request.POST.get("text", "")
    try:
        text = checked_text(text, field="text", user=request.user)
        limits.admit("chat", request.user)
        picked = async_to_sync(supervisor.pick)(request.user, text)
    except ValidationError as error:
        return _list(request, text=text, errors=texts_of(error), status=422)
    except LimitReached as limit:
        return with_pause(_list(request, text=text, errors=[too_many_messages(limit)], status=429), limit)
    except LLMError as error:
        return _list(request, text=text, errors=[_(error.user_message), str(CHOOSE_YOURSELF)], status=200)
    return _page(request, picked.agent, text=text, picked=picked)


@require_POST
@login_required
def agent_open(request: UserRequest, agent: str) -> HttpResponse:
    """An agent's page, filled with text typed on another page."""
    return _page(request, find_agent(agent), text=request.POST.get("text", ""))


@require_POST
@login_required
def run_start(request: UserRequest, agent: str) -> HttpResponse:
    found, how = find_agent(agent), HowForm(request.POST)
    options = option_form(found, request.POST)
    files: list[Attachment] = []
    try:
        settled = settled_for(found, how, options)
        files = _files(request, found)
        admit_run(request.user, agent, settled["provider"], settled["model"])
        run = runs.run_create(user=request.user, agent=agent, text=request.POST.get("text", ""), files=files, **settled)
    except ValidationError as error:
        return _page(request, found, how=how, options=options, files=files, errors=texts_of(error), status=422)
    except LimitReached as limit:
        errors = [too_many_runs(limit)]
        page = _page(request, found, how=how, options=options, files=files, errors=errors, status=429)
        return with_pause(page, limit)
    try:
        tasks.enqueue_run(run)
    except tasks.QueueUnavailable as error:
        runs.run_discard(run)
        errors = [_(error.user_message)]
        return _page(request, found, how=how, options=options, files=files, errors=errors, status=503)
    return redirect(run)


@require_POST
@login_required
def schedule_create(request: UserRequest, agent: str) -> HttpResponse:
    """From the same form: starts every hour, day or week instead of now."""
    found, how, when = find_agent(agent), HowForm(request.POST), WhenForm(request.POST)
    options = option_form(found, request.POST)
    files: list[Attachment] = []
    try:
        settled = settled_for(found, how, options)
        files = _files(request, found)
        if not when.is_valid():
            raise ValidationError(when.errors.as_data())
        said = when.cleaned_data | settled | {"files": files}
        schedule = schedules.schedule_create(user=request.user, agent=agent, text=request.POST.get("text", ""), **said)
    except ValidationError as error:
        errors = texts_of(error)
        return _page(request, found, how=how, when=when, options=options, files=files, errors=errors, status=422)
    messages.success(request, _("It is scheduled; its runs are listed here."))
    return redirect(f"{reverse('agents:schedule-list')}#schedule-{schedule.pk}")


def find_agent(slug: str) -> type[Agent]:
    """Raises Http404."""
    try:
        return get_agent(slug)
    except UnknownAgent:
        raise Http404 from None


def option_form(agent: type[Agent], data: Any = None) -> forms.Form | None:
    return None if agent.form is None else agent.form(data, prefix=OPTION_PREFIX)


def settled_for(agent: type[Agent], how: HowForm, options: forms.Form | None) -> dict[str, Any]:
    """The forms' values as ``runs.run_create`` takes them. Raises ValidationError."""
    for form in (how, options):
        if form is not None and not form.is_valid():
            raise ValidationError({name: list(errors) for name, errors in form.errors.items()})
    return how.how() | {"options": options.cleaned_data if options is not None else {}}


def _files(request: UserRequest, agent: type[Agent]) -> list[Attachment]:
    if not agent.takes_files:
        return []
    return attachments.from_form(request.user, request.POST.getlist("attachment"), request.FILES.getlist("files"))


def _page(
    request: UserRequest,
    agent: type[Agent],
    *,
    text: str | None = None,
    how: HowForm | None = None,
    when: WhenForm | None = None,
    options: forms.Form | None = None,
    files: list[Attachment] | None = None,
    errors: list[str] | None = None,
    picked: supervisor.Pick | None = None,
    status: int = 200,
) -> HttpResponse:
    recent = AgentRun.objects.for_user(request.user).filter(agent=agent.slug).recent_first()
    context = {
        "agent": agent,
        "text": request.POST.get("text", "") if text is None else text,
        "how": how or HowForm(),
        "when": when or WhenForm(),
        "options": options or option_form(agent),
        "attachments": files or [],
        "choices": choices_for(request.user),
        "chosen_choice": request.POST.get("choice", ""),
        "time_zones": time_zones(),
        "runs": recent[:RECENT],
        "errors": errors or [],
        "picked": picked,
        "others": [each for each in agents() if picked is not None and each.slug != agent.slug],
        "has_route": explain_route(request.user, task=agent.slug, needs=agent.all_needs()).chosen is not None,
    }
    return render(request, PAGE, context, status=status)
