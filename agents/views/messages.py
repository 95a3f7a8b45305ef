"""One message: send, read its answer as it is written, stop it, ask again."""

from __future__ import annotations

from uuid import UUID

from asgiref.sync import sync_to_async
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.http import Http404, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST

from agents import answering, services
from agents.models import Conversation, StoredMessage
from agents.sse import answer_events
from agents.turns import choice_parts, turn_of
from agents.views.answers import (
    BUSY,
    UserRequest,
    admit_message,
    find_conversation,
    find_message,
    texts_of,
    too_many_messages,
)
from agents.views.conversations import page_context
from agents.watching import announce_stop
from llm_credentials import limits
from llm_credentials.limits import LimitReached
from llm_credentials.streams import EventStreamResponse

PAGE = "agents/conversation_detail.html"


@require_POST
@login_required
async def message_create(request: UserRequest, conversation_id: UUID) -> HttpResponse:
    """With htmx: the new turn, whose answer is then read from ``message_stream``. Without: the page, once answered."""
    result = await sync_to_async(_send)(request, conversation_id)
    if isinstance(result, HttpResponse):
        return result
    await answering.finish_answer(result.answer.pk, session_key=request.session.session_key)
    return redirect(f"{result.answer.conversation.get_absolute_url()}#answer-{result.answer.pk}")


def _send(request: UserRequest, conversation_id: UUID) -> HttpResponse | services.Turn:
    conversation = find_conversation(request.user, conversation_id)
    text = request.POST.get("text", "")
    provider = model = None
    if "choice" in request.POST:
        provider, model = choice_parts(request.POST["choice"])
    try:
        admit_message(request.user, conversation, provider)
        turn = services.message_send(
            user=request.user, conversation_id=conversation.pk, text=text, provider=provider, model=model
        )
    except ValidationError as error:
        return _refused(request, conversation, text, texts_of(error), status=422)
    except services.ConversationBusy:
        return _refused(request, conversation, text, [_(BUSY)], status=409)
    except LimitReached as limit:
        return _refused_for_now(request, conversation, text, limit)
    if request.htmx:
        shown = {
            "turn": turn_of(turn.answer),
            "conversation": turn.answer.conversation,
            "is_first": not turn.question.position,
        }
        return render(request, f"{PAGE}#sent", shown)
    return turn


def _refused(
    request: UserRequest, conversation: Conversation, text: str, errors: list[str], *, status: int
) -> HttpResponse:
    if not request.htmx:
        context = page_context(request.user, conversation, text=text, errors=errors)
        return render(request, PAGE, context, status=status)
    response = render(request, f"{PAGE}#composer_errors", {"errors": errors}, status=status)
    response["HX-Retarget"] = "#composer-errors"
    response["HX-Reswap"] = "outerHTML"
    return response


def _refused_for_now(request: UserRequest, conversation: Conversation, text: str, limit: LimitReached) -> HttpResponse:
    response = _refused(request, conversation, text, [too_many_messages(limit)], status=429)
    response["Retry-After"] = str(limit.retry_after_s)
    return response


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
    """Ask once more for an answer that is not whole."""
    result = await sync_to_async(_retry)(request, message_id)
    if isinstance(result, HttpResponse):
        return result
    await answering.finish_answer(result.pk, session_key=request.session.session_key)
    return redirect(f"{result.conversation.get_absolute_url()}#answer-{result.pk}")


def _retry(request: UserRequest, message_id: UUID) -> HttpResponse | StoredMessage:
    message = find_message(request.user, message_id)
    try:
        admit_message(request.user, message.conversation)
        answer = services.message_retry(user=request.user, message_id=message.pk)
    except ValidationError as error:
        return _refused(request, message.conversation, "", texts_of(error), status=422)
    except services.ConversationBusy:
        return _refused(request, message.conversation, "", [_(BUSY)], status=409)
    except LimitReached as limit:
        return _refused_for_now(request, message.conversation, "", limit)
    if request.htmx:
        return render(request, f"{PAGE}#answer", {"turn": turn_of(answer)})
    return answer
