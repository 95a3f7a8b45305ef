"""Conversations: list, show with composer, start, delete."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.core.paginator import Page, Paginator
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.utils.http import content_disposition_header
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from agents import answering, exporting, indexing, semantic_search, services, text_search
from agents.attachments import Attachment
from agents.models import Conversation
from agents.registry import UnknownAgent, get_agent
from agents.semantic_search import Near
from agents.turns import choices_for, conversation_turns, route_of
from agents.views.answers import (
    UserRequest,
    admit_message,
    find_conversation,
    is_plain,
    sent_with,
    texts_of,
    too_many_messages,
)
from agents.watching import announce_stop
from llm_credentials.limits import LimitReached, with_pause

PER_PAGE = 30
TURNS_SHOWN = 50
MAX_QUERY_CHARS = 200


@require_GET
@never_cache
@login_required
def conversation_list(request: UserRequest) -> HttpResponse:
    query = request.GET.get("q", "").strip()[:MAX_QUERY_CHARS]
    page = Paginator(text_search.conversations_with(request.user, query), PER_PAGE).get_page(request.GET.get("page"))
    found = text_search.snippets(page.object_list, query)
    rows = [(conversation, found.get(conversation.pk)) for conversation in page]
    near = _beside(page, indexing.found_near(request.user, query)) if page.number == 1 else []
    context = {"page": page, "rows": rows, "near": near, "query": query}
    return render(request, "agents/conversation_list.html", context)


def _beside(shown: Page[Conversation], found: Sequence[Near]) -> list[Near]:
    """The first few that are not shown already."""
    known = {conversation.pk for conversation in shown}
    return [near for near in found if near.conversation.pk not in known][: semantic_search.MOST]


@require_POST
@login_required
async def conversation_create(request: UserRequest, agent: str) -> HttpResponse:
    """Start a conversation, with its first message if there is one."""
    user = await _user(request)
    text = request.POST.get("text")
    _find_agent(agent)
    try:
        if text is not None:
            await sync_to_async(admit_message)(user, Conversation(user=user, agent=agent))
        conversation = await sync_to_async(_start)(request, user, agent, text)
    except ValidationError as error:
        await sync_to_async(messages.error)(request, " ".join(texts_of(error)))
        return redirect("agents:agent-list")
    except LimitReached as limit:
        return await sync_to_async(_not_now)(request, user, agent, text or "", limit)
    if is_plain(request):
        async for answer in conversation.messages.open():
            await answering.finish_answer(answer.pk, session_key=request.session.session_key)
    return redirect(conversation)


def _start(request: UserRequest, user: User, agent: str, text: str | None) -> Conversation:
    files = sent_with(request) if text is not None else []
    return services.conversation_start(user=user, agent=agent, text=text, attachments=files)


def _find_agent(slug: str) -> None:
    """Raises Http404."""
    try:
        get_agent(slug)
    except UnknownAgent:
        raise Http404 from None


def _not_now(request: UserRequest, user: User, agent: str, text: str, limit: LimitReached) -> HttpResponse:
    """An empty conversation, with the typed text in its composer."""
    conversation = services.conversation_start(user=user, agent=agent)
    context = page_context(user, conversation, text=text, errors=[too_many_messages(limit)])
    return with_pause(render(request, "agents/conversation_detail.html", context, status=429), limit)


@require_GET
@never_cache
@login_required
def conversation_detail(request: UserRequest, conversation_id: UUID) -> HttpResponse:
    conversation = find_conversation(request.user, conversation_id)
    context = page_context(request.user, conversation, whole="all" in request.GET)
    return render(request, "agents/conversation_detail.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def conversation_delete(request: UserRequest, conversation_id: UUID) -> HttpResponse:
    """Asks on GET, deletes on POST."""
    conversation = find_conversation(request.user, conversation_id)
    if request.method != "POST":
        return render(request, "agents/conversation_delete.html", {"conversation": conversation})
    writing = list(conversation.messages.open())
    services.conversation_delete(user=request.user, conversation_id=conversation.pk)
    for answer in writing:
        announce_stop(answer.pk)
    messages.success(request, _("The conversation was removed."))
    return redirect("agents:conversation-list")


@require_POST
@login_required
def conversation_rename(request: UserRequest, conversation_id: UUID) -> HttpResponse:
    conversation = find_conversation(request.user, conversation_id)
    try:
        services.conversation_rename(
            user=request.user, conversation_id=conversation.pk, title=request.POST.get("title", "")
        )
    except ValidationError as error:
        messages.error(request, " ".join(texts_of(error)))
    return redirect(conversation)


@require_GET
@never_cache
@login_required
def conversation_export(request: UserRequest, conversation_id: UUID) -> HttpResponse:
    conversation = find_conversation(request.user, conversation_id)
    return export_response(conversation, "json" if request.GET.get("format") == "json" else "md")


def export_response(conversation: Conversation, form: exporting.Form) -> HttpResponse:
    name = content_disposition_header(True, exporting.file_name(conversation, form)) or "attachment"
    headers = {"Content-Disposition": name, "X-Content-Type-Options": "nosniff"}
    return HttpResponse(exporting.exported(conversation, form), content_type=exporting.FORMS[form], headers=headers)


def page_context(
    user: User,
    conversation: Conversation,
    *,
    whole: bool = False,
    text: str = "",
    errors: list[str] | None = None,
    attachments: Sequence[Attachment] = (),
) -> dict[str, Any]:
    """The newest turns, or all; ``text``, ``attachments``, ``errors``: a message that could not be sent, and why."""
    services.messages_settle(conversation)
    turns, is_cut = conversation_turns(conversation, None if whole else TURNS_SHOWN)
    route = route_of(user, conversation)
    try:
        agent = get_agent(conversation.agent)
    except UnknownAgent:
        agent = None
    return {
        "conversation": conversation,
        "agent": agent,
        "turns": turns,
        "attachments": attachments,
        "is_cut": is_cut,
        "is_busy": any(one.answer.is_open for turn in turns for one in turn.answers),
        "choices": choices_for(user, conversation),
        "route": route,
        "text": text,
        "errors": errors or [],
    }


async def _user(request: UserRequest) -> User:
    user = await request.auser()
    assert isinstance(user, User)
    return user
