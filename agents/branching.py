"""Alternatives in a conversation: several answers to a question, an edited question, a continued answer.

Nothing is deleted: what is not continued is set aside (``is_aside``) and can be restored (``agents.versions``). Only
the last turn can change; to change an earlier one, users ask its question again, edited, and continue from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Max
from django.utils.translation import gettext as _

from agents import sent_files, versions
from agents.attachments import Attachment
from agents.models import Conversation, MessageState, StoredMessage
from agents.services import (
    TURN,
    Turn,
    answer_reopen,
    check_route,
    is_last_turn,
    message_send,
    quiet_conversation,
)

if TYPE_CHECKING:
    from django.contrib.auth.models import User

MAX_ANSWERS: Final = 4
"""Answers to one question."""
GO_ON: Final = (
    "Your answer broke off. Go on exactly where it ended, in the middle of the word or line if need be. Repeat nothing "
    "of it, and say nothing about having been interrupted."
)


def answer_beside(
    *, user: User, message_id: UUID, provider: str | None, model: str | None, token_id: UUID | None = None
) -> StoredMessage:
    """Another answer to the last question: it waits to be written, and is set aside until the user chooses it.

    Without a provider, the usual choice answers. Raises ConversationBusy while another answer is open, ValidationError
    if it is too late or there are too many answers.
    """
    provider, model = provider or "", model or ""
    found = _own_answer(user, message_id)
    with transaction.atomic():
        conversation = quiet_conversation(user, found.conversation_id)
        _must_be_last(found)
        check_route(user, provider, model)
        _check_pictures(user, conversation, found, provider, model)
        highest = conversation.messages.filter(position=found.position).aggregate(most=Max("variant"))["most"]
        if highest + 1 >= MAX_ANSWERS:
            words = _("There are %(most)d answers to this question already. Go on with one of them.")
            raise ValidationError({"message": [words % {"most": MAX_ANSWERS}]})
        return conversation.messages.create(
            position=found.position,
            variant=highest + 1,
            role="assistant",
            parts=(),
            state=MessageState.WAITING,
            is_aside=True,
            provider=provider,
            model=model,
            token_id=token_id,
        )


def answer_choose(*, user: User, message_id: UUID) -> StoredMessage:
    """Continue the conversation from this answer to its last question."""
    found = _own_answer(user, message_id)
    with transaction.atomic():
        conversation = Conversation.objects.for_user(user).select_for_update().get(pk=found.conversation_id)
        _must_be_last(found)
        begin = found.position - found.position % TURN
        answers = conversation.messages.filter(position__gt=begin, position__lte=found.position)
        answers.exclude(variant=found.variant).update(is_aside=True)
        answers.filter(variant=found.variant).update(is_aside=False)
    found.refresh_from_db()
    return found


def answer_continue(
    *, user: User, message_id: UUID, provider: str | None = None, model: str | None = None, token_id: UUID | None = None
) -> StoredMessage:
    """Queue an incomplete answer to be continued, by another provider and model if ``provider`` and ``model`` are
    given.

    Raises ConversationBusy while another answer is open, ValidationError if there is nothing to continue.
    """
    found = _own_answer(user, message_id)
    with transaction.atomic():
        conversation = quiet_conversation(user, found.conversation_id)
        answer = conversation.messages.get(pk=message_id)
        _must_be_last(answer)
        if not answer.can_continue:
            raise ValidationError({"message": [_("This answer is whole; there is nothing to go on with.")]})
        _check_pictures(user, conversation, answer, provider or answer.provider, model or answer.model)
        answer_reopen(answer, user=user, provider=provider, model=model, token_id=token_id, begun=answer.text)
    return answer


def question_edit(
    *,
    user: User,
    message_id: UUID,
    text: str,
    attachments: Sequence[Attachment] = (),
    provider: str | None = None,
    model: str | None = None,
    token_id: UUID | None = None,
) -> Turn:
    """Ask an edited question: the original and everything after it are set aside, and the conversation continues from
    before it.

    ``message_id``: of the question, or of an answer to it. Raises ConversationBusy and ValidationError, as
    ``message_send`` does.
    """
    found = question_of(StoredMessage.objects.for_user(user).select_related("conversation").get(pk=message_id))
    if found is None:
        raise ValidationError({"message": [_("There is no question to change.")]})
    with transaction.atomic():
        conversation = quiet_conversation(user, found.conversation_id)
        if conversation.messages.get(pk=found.pk).is_aside:
            raise ValidationError({"message": [_("This version is set aside. Go back to it first, then change it.")]})
        asked = versions.asked_in(conversation)
        gone = [one.position for one in asked if not one.is_aside and one.position >= found.position]
        versions.turns_set_aside(conversation, gone)
        if conversation.summary_until is not None and found.position < conversation.summary_until:
            # The summary covers messages that are now set aside.
            Conversation.objects.filter(pk=conversation.pk).update(summary="", summary_until=None)
        return message_send(
            user=user,
            conversation_id=conversation.pk,
            text=text,
            attachments=attachments,
            provider=provider,
            model=model,
            token_id=token_id,
        )


def question_of(message: StoredMessage) -> StoredMessage | None:
    """The question of this message's turn."""
    return message.conversation.messages.filter(
        position=message.position - message.position % TURN, role="user"
    ).first()


def _own_answer(user: User, message_id: UUID) -> StoredMessage:
    found = StoredMessage.objects.for_user(user).select_related("conversation").get(pk=message_id)
    if found.role != "assistant" or found.position % TURN != TURN - 1:
        raise ValidationError({"message": [_("This is no answer.")]})
    return found


def _must_be_last(answer: StoredMessage) -> None:
    if not is_last_turn(answer):
        raise ValidationError({"message": [_("The conversation has gone on since; change its last question instead.")]})


def _check_pictures(user: User, conversation: Conversation, answer: StoredMessage, provider: str, model: str) -> None:
    """Raises ValidationError if the question has an image that the answering model cannot see."""
    question = question_of(answer)
    choice = (provider, model) if provider else (conversation.provider, conversation.model)
    sent_files.check_seen(user, conversation.agent, choice, question.files if question else ())
