"""One message: send it, stream its answer, stop it, retry it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final
from uuid import UUID

from asgiref.sync import sync_to_async
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.http import Http404, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from agents import answering, approvals, branching, services, versions
from agents.attachments import Attachment
from agents.models import Conversation, StoredMessage
from agents.sse import answer_events
from agents.turns import answer_of, choice_parts, choices_for, turn_of
from agents.views.answers import (
    BUSY,
    UserRequest,
    admit_message,
    approvals_of,
    find_conversation,
    find_message,
    sent_with,
    texts_of,
    too_many_messages,
)
from agents.views.conversations import page_context
from agents.watching import announce_stop
from llm_credentials import limits
from llm_credentials.limits import LimitReached, with_pause
from llm_credentials.streams import EventStreamResponse

PAGE = "agents/conversation_detail.html"
REFUSALS: Final = (ValidationError, services.ConversationBusy, LimitReached)


@require_POST
@login_required
async def message_create(request: UserRequest, conversation_id: UUID) -> HttpResponse:
    """With htmx: the new turn, whose answer ``message_stream`` then streams. Without: the page, once answered."""
    result = await sync_to_async(_send)(request, conversation_id)
    if isinstance(result, HttpResponse):
        return result
    await answering.finish_answer(result.answer.pk, session_key=request.session.session_key)
    return redirect(f"{result.answer.conversation.get_absolute_url()}#answer-{result.answer.pk}")


def _send(request: UserRequest, conversation_id: UUID) -> HttpResponse | services.Turn:
    conversation = find_conversation(request.user, conversation_id)
    text = request.POST.get("text", "")
    files: list[Attachment] = []
    try:
        admit_message(request.user, conversation, chosen(request)[0])
        files = sent_with(request)
        turn = services.message_send(
            user=request.user, conversation_id=conversation.pk, text=text, attachments=files, **named(request)
        )
    except REFUSALS as refusal:
        return _refused(request, conversation, refusal, text, files)
    if not request.htmx:
        return turn
    if _missed_turns(request, turn):
        return _all_turns(request, turn.answer.conversation)
    context = {
        "turn": turn_of(turn.answer),
        "conversation": turn.answer.conversation,
        "is_first": not turn.question.position,
    }
    return render(request, f"{PAGE}#sent", context)


def _missed_turns(request: UserRequest, turn: services.Turn) -> bool:
    """Whether another tab has sent turns that this page does not show yet."""
    seen = request.POST.get("seen", "")
    follows = turn.question.position - services.TURN if turn.question.follows is None else turn.question.follows
    return seen.isdecimal() and len(seen) < 12 and int(seen) != follows


def _all_turns(request: UserRequest, conversation: Conversation) -> HttpResponse:
    response = render(request, f"{PAGE}#turns", page_context(request.user, conversation))
    response["HX-Retarget"] = "#turns"
    response["HX-Reswap"] = "innerHTML"
    return response


def chosen(request: UserRequest) -> tuple[str | None, str | None]:
    """Provider and model that the form names; both None if it names none."""
    return choice_parts(request.POST["choice"]) if "choice" in request.POST else (None, None)


def named(request: UserRequest) -> dict[str, Any]:
    provider, model = chosen(request)
    return {"provider": provider, "model": model}


def _refused(
    request: UserRequest,
    conversation: Conversation,
    refusal: Exception,
    text: str = "",
    files: Sequence[Attachment] = (),
) -> HttpResponse:
    errors, status = _in_words(refusal)
    if request.htmx:
        response = render(request, f"{PAGE}#composer_errors", {"errors": errors}, status=status)
        response["HX-Retarget"] = "#composer-errors"
        response["HX-Reswap"] = "outerHTML"
    else:
        context = page_context(request.user, conversation, text=text, errors=errors, attachments=files)
        response = render(request, PAGE, context, status=status)
    return with_pause(response, refusal)


def _in_words(refusal: Exception) -> tuple[list[str], int]:
    if isinstance(refusal, LimitReached):
        return [too_many_messages(refusal)], 429
    if isinstance(refusal, services.ConversationBusy):
        return [_(BUSY)], 409
    assert isinstance(refusal, ValidationError)
    return texts_of(refusal), 422


@require_GET
@login_required
async def message_stream(request: UserRequest, message_id: UUID) -> HttpResponseBase:
    """The answer as server-sent events; see ``agents.sse``."""
    user = await request.auser()
    assert isinstance(user, User)
    message = await sync_to_async(find_message)(user, message_id)
    if message.role != "assistant":
        raise Http404
    await sync_to_async(limits.admit)("stream", user)
    return EventStreamResponse(answer_events(request, user, message.pk))


@require_POST
@login_required
def message_stop(request: UserRequest, message_id: UUID) -> HttpResponse:
    message = find_message(request.user, message_id)
    services.message_stop(user=request.user, message_id=message.pk)
    announce_stop(message.pk)
    if request.htmx:
        return HttpResponse(status=204)
    return redirect(message.conversation)


@require_POST
@login_required
async def message_retry(request: UserRequest, message_id: UUID) -> HttpResponse:
    """Write an incomplete answer again, in its place."""
    return await _again(request, message_id, services.message_retry)


@require_POST
@login_required
async def message_continue(request: UserRequest, message_id: UUID) -> HttpResponse:
    """Continue an answer that was cut off."""
    return await _again(request, message_id, branching.answer_continue)


@require_POST
@login_required
async def message_approve(request: UserRequest, message_id: UUID) -> HttpResponse:
    """The user's decision on each call that an answer waits for; the answer is continued in its place."""

    def say(*, user: User, message_id: UUID, **who: Any) -> StoredMessage:
        pending = find_message(user, message_id).pending
        return approvals.message_answer(user=user, message_id=message_id, answers=approvals_of(request, pending))

    return await _again(request, message_id, say)


@require_POST
@login_required
async def message_beside(request: UserRequest, message_id: UUID) -> HttpResponse:
    """Another answer to the same question, beside this one."""
    return await _again(request, message_id, branching.answer_beside, shows="turn")


async def _again(
    request: UserRequest, message_id: UUID, ask: Callable[..., StoredMessage], *, shows: str = "answer"
) -> HttpResponse:
    result = await sync_to_async(_ask_again)(request, message_id, ask, shows)
    if isinstance(result, HttpResponse):
        return result
    await answering.finish_answer(result.pk, session_key=request.session.session_key)
    return redirect(f"{result.conversation.get_absolute_url()}#answer-{result.pk}")


def _ask_again(
    request: UserRequest, message_id: UUID, ask: Callable[..., StoredMessage], shows: str
) -> HttpResponse | StoredMessage:
    message = find_message(request.user, message_id)
    try:
        admit_message(request.user, message.conversation, chosen(request)[0])
        answer = ask(user=request.user, message_id=message.pk, **named(request))
    except REFUSALS as refusal:
        return _refused(request, message.conversation, refusal)
    if not request.htmx:
        return answer
    context = {"turn": turn_of(answer), "shown": answer_of(answer)}
    return render(request, f"{PAGE}#{shows}", context | {"choices": choices_for(request.user, answer.conversation)})


@require_POST
@login_required
def message_choose(request: UserRequest, message_id: UUID) -> HttpResponse:
    """Continue the conversation from this answer, or this version of a question."""
    message = find_message(request.user, message_id)
    try:
        if message.role == "user":
            return _version_chosen(request, message)
        answer = branching.answer_choose(user=request.user, message_id=message.pk)
    except (ValidationError, services.ConversationBusy) as refusal:
        return _refused(request, message.conversation, refusal)
    if not request.htmx:
        return redirect(f"{message.conversation.get_absolute_url()}#answer-{answer.pk}")
    context = {"turn": turn_of(answer), "choices": choices_for(request.user, answer.conversation)}
    return render(request, f"{PAGE}#turn", context)


def _version_chosen(request: UserRequest, message: StoredMessage) -> HttpResponse:
    question = versions.version_choose(user=request.user, message_id=message.pk)
    if not request.htmx:
        return redirect(f"{question.conversation.get_absolute_url()}#message-{question.pk}")
    return _all_turns(request, question.conversation)


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
async def message_edit(request: UserRequest, message_id: UUID) -> HttpResponse:
    """The form on GET; POST asks the edited question."""
    result = await sync_to_async(_edit)(request, message_id)
    if isinstance(result, HttpResponse):
        return result
    await answering.finish_answer(result.answer.pk, session_key=request.session.session_key)
    return redirect(f"{result.answer.conversation.get_absolute_url()}#answer-{result.answer.pk}")


def _edit(request: UserRequest, message_id: UUID) -> HttpResponse | services.Turn:
    question = branching.question_of(find_message(request.user, message_id))
    if question is None:
        raise Http404
    if request.method != "POST":
        kept = [file["id"] for file in question.files]
        found = Attachment.objects.for_user(request.user).without_content().filter(pk__in=kept) if kept else []
        files = sorted(found, key=lambda each: kept.index(str(each.pk)))
        context = {"question": question, "text": question.text, "attachments": files}
        return render(request, f"{PAGE}#edit" if request.htmx else "agents/message_edit.html", context)
    text = request.POST.get("text", "")
    files = []
    try:
        admit_message(request.user, question.conversation)
        files = sent_with(request)
        turn = branching.question_edit(user=request.user, message_id=question.pk, text=text, attachments=files)
    except REFUSALS as refusal:
        if request.htmx:
            return _refused(request, question.conversation, refusal)
        errors, status = _in_words(refusal)
        context = {"question": question, "text": text, "attachments": files, "errors": errors}
        return with_pause(render(request, "agents/message_edit.html", context, status=status), refusal)
    return _all_turns(request, turn.answer.conversation) if request.htmx else turn
