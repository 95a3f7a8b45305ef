"""All writes to conversations and messages. Invalid input raises ValidationError with ``{field: [text]}``.

Rows of other users raise DoesNotExist, as missing rows do. An answer belongs to one writer at a time, which holds a
claim taken by a conditional update; nobody can change the answer without it.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Max, Q
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from agents import sent_files
from agents.attachments import Attachment
from agents.models import Conversation, MessageState, StoredMessage
from agents.receipts import site_error
from agents.registry import UnknownAgent, get_agent
from agents.texts import one_line, storable
from llm_credentials.factory import tripwire_for
from llm_credentials.policies import check_choice, policy_of
from llm_credentials.providers import LLMMessage, TextPart, UnknownProvider, get_spec
from llm_credentials.providers.calls import model_id_fault
from llm_credentials.providers.messages import Part

if TYPE_CHECKING:
    from django.contrib.auth.models import User

MAX_MESSAGE_CHARS = 100_000
TITLE_CHARS = 70
HISTORY_ROWS = 400
TURN = 1000
"""Positions per turn: the question has a whole multiple, the answer the last position, tool traffic those between."""


class ConversationBusy(Exception):
    """An answer is being written in this conversation."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    question: StoredMessage
    answer: StoredMessage


# Conversations


def conversation_start(
    *,
    user: User,
    agent: str,
    text: str | None = None,
    provider: str = "",
    model: str = "",
    attachments: Sequence[Attachment] = (),
) -> Conversation:
    """Create an empty conversation, or with ``text`` one whose first answer waits to be written.

    An existing empty conversation is reused.
    """
    check_agent(agent)
    check_route(user, provider, model)
    with transaction.atomic():
        if text is None:
            empty = Conversation.objects.for_user(user).filter(agent=agent, messages=None).recent_first().first()
            if empty is not None:
                return empty
        conversation = Conversation.objects.create(user=user, agent=agent, provider=provider, model=model)
        if text is not None:
            message_send(user=user, conversation_id=conversation.pk, text=text, attachments=attachments)
            conversation.refresh_from_db()
    return conversation


def conversation_rename(*, user: User, conversation_id: UUID, title: str) -> Conversation:
    """Raises ValidationError for an empty or too long title."""
    title = one_line(storable(title.replace("\x00", "")))
    most = Conversation._meta.get_field("title").max_length or 0
    if not title or len(title) > most:
        raise ValidationError({"title": [_("A title has between 1 and %(most)s characters.") % {"most": most}]})
    conversation = Conversation.objects.for_user(user).get(pk=conversation_id)
    conversation.title = title
    conversation.save(update_fields=["title"])
    return conversation


def conversation_delete(*, user: User, conversation_id: UUID) -> None:
    """Deletes its messages as well; an answer that is being written loses its row and ends."""
    Conversation.objects.for_user(user).get(pk=conversation_id).delete()


# Messages


def message_send(
    *,
    user: User,
    conversation_id: UUID,
    text: str,
    provider: str | None = None,
    model: str | None = None,
    token_id: UUID | None = None,
    attachments: Sequence[Attachment] = (),
) -> Turn:
    """Create the user's message and the answer that waits to be written. ``provider`` and ``model``: None = as before.
    ``token_id``: the access token that the answer depends on. ``attachments``: the user's own; with one, the text may
    be empty.

    Raises ConversationBusy while another answer is open.
    """
    text = "" if attachments and not text.strip() else checked_text(text, field="text", user=user)
    files = sent_files.listed(attachments)
    names = ", ".join(file["name"] for file in files)
    with transaction.atomic():
        conversation = quiet_conversation(user, conversation_id)
        if provider is not None and model is not None:
            check_route(user, provider, model)
            conversation.provider, conversation.model = provider, model
        sent_files.check_seen(user, conversation.agent, (conversation.provider, conversation.model), files)
        conversation.title = conversation.title or _title(text or names)
        conversation.save(update_fields=["title", "provider", "model", "updated_at"])
        # A user who continues without approving has refused.
        asking = conversation.messages.filter(state=MessageState.ASKING)
        asking.update(state=MessageState.STOPPED, pending=None, paused="")
        begin, follows = _next_place(conversation)
        question = conversation.messages.create(
            position=begin,
            follows=follows,
            role="user",
            parts=text_parts(text),
            files=files,
            search_text=searchable(f"{text} {names}"),
        )
        sent_files.link(attachments, question)
        answer = conversation.messages.create(
            position=begin + TURN - 1, role="assistant", parts=(), state=MessageState.WAITING, token_id=token_id
        )
    return Turn(question=question, answer=answer)


def _next_place(conversation: Conversation) -> tuple[int, int | None]:
    """Where the next question goes, and what it follows if that is not the turn before it; see ``agents.versions``."""
    going_on = Max("position", filter=Q(role="user", is_aside=False))
    found = conversation.messages.aggregate(last=Max("position"), before=going_on)
    if found["last"] is None:
        return 0, None
    begin = (found["last"] // TURN + 1) * TURN
    before = -1 if found["before"] is None else found["before"]
    return begin, None if before == begin - TURN else before


def message_retry(
    *, user: User, message_id: UUID, provider: str | None = None, model: str | None = None, token_id: UUID | None = None
) -> StoredMessage:
    """Retry an incomplete answer, with another provider and model if ``provider`` and ``model`` are given. It must
    belong to the last turn of its conversation.

    Raises ConversationBusy while it is being written.
    """
    found = StoredMessage.objects.for_user(user).get(pk=message_id)
    with transaction.atomic():
        conversation = Conversation.objects.for_user(user).select_for_update().get(pk=found.conversation_id)
        messages_settle(conversation)
        answer = conversation.messages.get(pk=message_id)
        if answer.state == MessageState.STREAMING:
            raise ConversationBusy
        if not answer.can_retry or not is_last_turn(answer):
            raise ValidationError(
                {"message": [_("Only the last answer can be asked for again, and only if it is not whole.")]}
            )
        if conversation.messages.open().exclude(pk=answer.pk).exists():
            raise ConversationBusy
        answer_reopen(answer, user=user, provider=provider, model=model, token_id=token_id)
    return answer


def answer_reopen(
    answer: StoredMessage,
    *,
    user: User,
    provider: str | None,
    model: str | None,
    token_id: UUID | None,
    begun: str = "",
) -> None:
    """Queue a finished answer to be written again, after ``begun``."""
    if provider is not None and model is not None:
        check_route(user, provider, model)
        answer.provider, answer.model = provider, model
    answer.state, answer.error, answer.begun, answer.parts = MessageState.WAITING, None, begun, text_parts(begun)
    answer.receipt = answer.receipt if begun else None
    answer.pending, answer.paused = None, ""
    answer.claim = answer.heartbeat_at = answer.stop_requested_at = None
    answer.token_id = token_id
    answer.save()
    answer.vectors.all().delete()  # its text will change


def message_stop(*, user: User, message_id: UUID) -> StoredMessage:
    """Record the stop request, which its writer will see. An answer without a writer ends here."""
    message = StoredMessage.objects.for_user(user).get(pk=message_id)
    row = StoredMessage.objects.filter(pk=message.pk)
    quiet = row.filter(state__in=(MessageState.WAITING, MessageState.ASKING))
    if not quiet.update(state=MessageState.STOPPED, pending=None, paused=""):
        row.filter(state=MessageState.STREAMING).update(stop_requested_at=timezone.now())
    message.refresh_from_db()
    return message


def message_claim(message_id: UUID) -> UUID | None:
    """Claim a waiting answer. None if it is not waiting any more."""
    claim = uuid.uuid4()
    taken = StoredMessage.objects.filter(pk=message_id, state=MessageState.WAITING).update(
        state=MessageState.STREAMING, claim=claim, heartbeat_at=timezone.now(), stop_requested_at=None
    )
    return claim if taken else None


def message_begun(message_id: UUID) -> tuple[str, str, dict[str, Any] | None]:
    """What an answer continues from: its text, the saved pause, and the receipt so far. All empty for a new answer."""
    begun, paused, receipt = StoredMessage.objects.values_list("begun", "paused", "receipt").get(pk=message_id)
    return begun, paused, receipt if begun or paused else None


def message_write(message_id: UUID, claim: UUID, *, text: str) -> bool:
    """Save the text so far. Returns False when the claim is lost."""
    return bool(claimed(message_id, claim).update(parts=text_parts(text), heartbeat_at=timezone.now()))


def message_finish(
    message_id: UUID,
    claim: UUID,
    *,
    state: MessageState,
    messages: Sequence[LLMMessage],
    receipt: dict[str, Any] | None = None,
    error: dict[str, Any] | None = None,
) -> bool:
    """Close an answer: the last message is its text, those before it (tool traffic) get rows of their own.

    Returns False, changing nothing, when the claim is lost.
    """
    *traffic, final = messages or (LLMMessage.assistant(()),)
    with transaction.atomic():
        closed = claimed(message_id, claim).update(
            state=state,
            parts=final.parts,
            receipt=receipt,
            error=error,
            heartbeat_at=None,
            begun="",
            pending=None,
            paused="",
            search_text=searchable(final.text),
        )
        if not closed:
            return False
        answer = StoredMessage.objects.select_related("conversation").get(pk=message_id)
        begin = answer.position - answer.position % TURN + 1
        beside = {"conversation": answer.conversation, "variant": answer.variant, "is_aside": answer.is_aside}
        StoredMessage.objects.bulk_create(
            StoredMessage(position=begin + index, role=step.role, parts=step.parts, **beside)
            for index, step in enumerate(traffic[: TURN - 2])
        )
        answer.conversation.save(update_fields=["updated_at"])
    return True


def messages_settle(conversation: Conversation) -> None:
    """Mark answers whose writer died as incomplete; their text is kept."""
    stale = conversation.messages.stale()
    # Query first: readers of a page should not wait for a database write lock.
    if stale.exists():
        stale.update(state=MessageState.INCOMPLETE, claim=None, heartbeat_at=None, error=WRITER_DIED)


def whole_messages(conversation: Conversation) -> list[LLMMessage]:
    """Its newest answered turns, as a model reads them."""
    rows = conversation.messages.going_on().order_by("-position")
    newest = [row for row in rows[:HISTORY_ROWS] if not row.is_open][::-1]
    while newest and newest[0].role != "user":
        newest.pop(0)
    while newest and newest[-1].role == "user":
        newest.pop()
    return sent_files.messages_with_files(conversation.user_id, newest)


def claimed(message_id: UUID, claim: UUID) -> Any:
    return StoredMessage.objects.filter(pk=message_id, claim=claim, state=MessageState.STREAMING)


def quiet_conversation(user: User, conversation_id: UUID) -> Conversation:
    """The conversation, locked until the transaction ends. Raises ConversationBusy while one of its answers is open."""
    conversation = Conversation.objects.for_user(user).select_for_update().get(pk=conversation_id)
    messages_settle(conversation)
    if conversation.messages.open().exists():
        raise ConversationBusy
    return conversation


def is_last_turn(row: StoredMessage) -> bool:
    """Whether it is active and no later question exists, so that its answer may still change."""
    newest = row.conversation.messages.going_on().filter(role="user").aggregate(last=Max("position"))["last"]
    return bool(newest == row.position - row.position % TURN)


WRITER_DIED = site_error(
    "WriterDied",
    gettext_noop("The answer broke off because the site was restarted. What had come is kept; you can ask again."),
)


# Shared by all of them


def searchable(text: str) -> str:
    """Normalised for search; see ``agents.text_search``."""
    return storable(text).casefold()


def text_parts(text: str) -> tuple[Part, ...]:
    return (TextPart(text=text),) if text else ()


def checked_text(text: str, *, field: str, user: User) -> str:
    text = text.replace("\x00", "").replace("\r\n", "\n").strip()
    if not text:
        raise ValidationError({field: [_("Write a message first.")]})
    if len(text) > MAX_MESSAGE_CHARS:
        raise ValidationError(
            {
                field: [
                    _("This message has %(count)s characters; at most %(chars)s fit. Shorten it.")
                    % {"count": f"{len(text):,}", "chars": f"{MAX_MESSAGE_CHARS:,}"}
                ]
            }
        )
    if secret := tripwire_for(user).name_in(text):
        raise ValidationError(
            {
                field: [
                    _("Your message contains %(secret)s; it was not sent. Remove it and send the message again.")
                    % {"secret": secret}
                ]
            }
        )
    return text


def check_agent(slug: str) -> None:
    try:
        get_agent(slug)
    except UnknownAgent:
        raise ValidationError({"agent": [_("There is no such agent.")]}) from None


def check_route(user: User, provider: str, model: str) -> None:
    """The router decides whether the user has a key; this refuses only what no key could make valid."""
    if model and (fault := model_id_fault(model)):
        raise ValidationError({"choice": [fault]})
    if not provider:
        return
    try:
        check_choice(policy_of(user), get_spec(provider), model)
    except UnknownProvider:
        raise ValidationError({"choice": [_("There is no such provider.")]}) from None
    except ValidationError as refusal:
        raise ValidationError({"choice": refusal.messages}) from None


def _title(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= TITLE_CHARS else f"{line[:TITLE_CHARS].rsplit(' ', 1)[0]}…"
