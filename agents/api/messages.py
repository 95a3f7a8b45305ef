"""``/api/messages``: stop an answer, ask for another, go on with one, ask a question again, changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.http import HttpResponse
from ninja import Router
from pydantic import Field

from agents import answering, approvals, attachments, branching, services, versions
from agents.api.shared import ACTING, WORKING, ApprovalsIn, MessageOut, caller, in_words, message_out, right_of
from agents.models import StoredMessage
from agents.services import MAX_MESSAGE_CHARS
from agents.views.answers import admit_message, find_message
from agents.watching import announce_stop
from llm_credentials.api.auth import ApiRequest, token_id_of
from llm_credentials.api.body import StrictSchema
from llm_credentials.api.errors import REFUSALS, ApiError
from llm_credentials.api.idempotency import IdempotencyKey, once

router = Router()


class AgainIn(StrictSchema):
    provider: str | None = Field(None, max_length=50, description="Left out: whoever was to answer before.")
    model: str | None = Field(None, max_length=200)


class EditIn(AgainIn):
    text: str = Field(max_length=MAX_MESSAGE_CHARS)
    attachments: list[UUID] = Field([], max_length=attachments.MAX_FILES)


@router.post("/{uuid:message_id}/stop", response={200: MessageOut, **REFUSALS}, url_name="message_stop", auth=ACTING)
def message_stop(request: ApiRequest, message_id: UUID) -> MessageOut:
    """An answer that is being written ends, and what had come is kept; one that has ended stays as it is."""
    found = find_message(caller(request), message_id)
    stopped = services.message_stop(user=caller(request), message_id=found.pk)
    announce_stop(stopped.pk)
    return message_out(stopped)


@router.post(
    "/{uuid:message_id}/choose", response={200: MessageOut, **REFUSALS}, url_name="message_choose", auth=ACTING
)
def message_choose(request: ApiRequest, message_id: UUID) -> MessageOut:
    """Let the conversation go on with this of several answers to its last question, or with this version of a question
    and what followed it."""
    found = find_message(caller(request), message_id)
    if found.role == "user":
        with in_words():
            return message_out(versions.version_choose(user=caller(request), message_id=found.pk))
    return message_out(branching.answer_choose(user=caller(request), message_id=found.pk))


def _again(name: str, ask: Callable[..., StoredMessage], words: str) -> None:
    """An address that asks for an answer once more, in the way that ``ask`` has it."""

    @router.post(
        f"/{{uuid:message_id}}/{name}",
        response={200: MessageOut, **WORKING},
        operation_id=f"agents_api_messages_message_{name}",
        summary=f"Message {name.title()}",
        description=words,
        url_name=f"message_{name}",
        auth=ACTING,
    )
    def again(
        request: ApiRequest,
        message_id: UUID,
        payload: AgainIn,
        response: HttpResponse,
        idempotency_key: IdempotencyKey = None,
    ) -> Any:
        return _answered(request, message_id, payload, response, idempotency_key, ask)


_again("retry", services.message_retry, "A new answer in the place of one that is not whole.")
_again(
    "beside",
    branching.answer_beside,
    "Another answer to the same question; the conversation goes on with the first until this one is chosen.",
)
_again(
    "continue",
    branching.answer_continue,
    "Go on with an answer that ended before its end; it comes back whole.",
)


@router.post("/{uuid:message_id}/edit", response={200: MessageOut, **WORKING}, url_name="message_edit", auth=ACTING)
def message_edit(
    request: ApiRequest,
    message_id: UUID,
    payload: EditIn,
    response: HttpResponse,
    idempotency_key: IdempotencyKey = None,
) -> Any:
    """Ask a question again, changed: it and what followed are set aside. Gives the new answer."""

    def edit(**asked: Any) -> StoredMessage:
        files = attachments.find(caller(request), payload.attachments)
        return branching.question_edit(**asked, text=payload.text, attachments=files).answer

    return _answered(request, message_id, payload, response, idempotency_key, edit)


@router.post(
    "/{uuid:message_id}/approvals", response={200: MessageOut, **WORKING}, url_name="message_approve", auth=ACTING
)
def message_approve(
    request: ApiRequest,
    message_id: UUID,
    payload: ApprovalsIn,
    response: HttpResponse,
    idempotency_key: IdempotencyKey = None,
) -> Any:
    """Say yes or no to the calls for which an answer waits (`asking`). It goes on with that, once, and comes back."""

    def say(*, user: User, message_id: UUID, token_id: UUID | None, **who: Any) -> StoredMessage:
        return approvals.message_answer(user=user, message_id=message_id, answers=payload.approvals, token_id=token_id)

    return _answered(request, message_id, AgainIn(provider=None, model=None), response, idempotency_key, say)


def _answered(
    request: ApiRequest,
    message_id: UUID,
    payload: AgainIn,
    response: HttpResponse,
    idempotency_key: str | None,
    ask: Callable[..., StoredMessage],
) -> Any:
    """The answer that ``ask`` lets wait, once it is written."""
    found = find_message(caller(request), message_id)
    if (payload.provider is None) != (payload.model is None):
        raise ApiError(422, "invalid_request", "Name provider and model together.", "body.model")

    def answered() -> tuple[int, MessageOut]:
        admit_message(caller(request), found.conversation, payload.provider)
        answer = ask(
            user=caller(request),
            message_id=found.pk,
            provider=payload.provider,
            model=payload.model,
            token_id=token_id_of(request),
        )
        async_to_sync(answering.finish_answer)(answer.pk, session_key=right_of(request).session_key)
        answer.refresh_from_db()
        return 200, message_out(answer)

    with in_words():
        return once(request, idempotency_key, response, answered)
