"""Tool calls that need the user's approval: the answer pauses, waits, and continues once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils.translation import gettext as _

from agents.models import MessageState, StoredMessage
from agents.services import claimed, is_last_turn, quiet_conversation, searchable, text_parts

if TYPE_CHECKING:
    from django.contrib.auth.models import User


def message_pause(
    message_id: UUID,
    claim: UUID,
    *,
    pending: Sequence[Mapping[str, Any]],
    paused: str,
    text: str,
    receipt: dict[str, Any] | None,
) -> bool:
    """Release an answer until its user has approved or refused. Returns False when the claim is lost."""
    return bool(
        claimed(message_id, claim).update(
            state=MessageState.ASKING,
            claim=None,
            heartbeat_at=None,
            parts=text_parts(text),
            search_text=searchable(text),
            pending=[{**each, "answer": None} for each in pending],
            paused=paused,
            receipt=receipt,
            error=None,
        )
    )


def message_answer(
    *, user: User, message_id: UUID, answers: Mapping[str, bool], token_id: UUID | None = None
) -> StoredMessage:
    """Store the user's decisions by call id (a missing one is a no) and queue the message to be continued.

    Raises ConversationBusy while another answer is open, ValidationError when this one no longer waits for a decision.
    """
    found = StoredMessage.objects.for_user(user).get(pk=message_id)
    with transaction.atomic():
        conversation = quiet_conversation(user, found.conversation_id)
        answer = conversation.messages.get(pk=message_id)
        calls = answer.pending or []
        if answer.state != MessageState.ASKING or not is_last_turn(answer):
            raise ValidationError({"message": [_("This answer waits for nothing. It was answered, or it has ended.")]})
        if unknown := sorted(set(answers) - {call["id"] for call in calls}):
            raise ValidationError({"approvals": [_("No call %(id)s waits for you.") % {"id": unknown[0][:100]}]})
        answer.pending = [{**call, "answer": answers.get(call["id"]) is True} for call in calls]
        answer.state, answer.token_id, answer.stop_requested_at = MessageState.WAITING, token_id, None
        answer.save(update_fields=["pending", "state", "token_id", "stop_requested_at"])
    return answer
