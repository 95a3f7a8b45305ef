"""Writes one answer of a conversation: claims it, runs the agent, saves the output and always closes the row."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

from agents import approvals, memory, pausing, sent_files, services
from agents.attachments import Attachment
from agents.base import Agent, CannotBegin
from agents.branching import GO_ON
from agents.database import in_database
from agents.drafts import Draft
from agents.loop import Event
from agents.memory import Past
from agents.models import MessageState, StoredMessage
from agents.pausing import Pause
from agents.receipts import AUDIT_UNAVAILABLE, INTERNAL_ERROR, error_json, limit_error, merged_receipt, site_error
from agents.registry import get_agent
from agents.services import TURN
from agents.watching import Interrupted, Watch, usable_token, watching
from llm_credentials.audit import AuditUnavailable
from llm_credentials.ledger import writer
from llm_credentials.providers import LLMError, LLMMessage
from llm_credentials.routing.receipt import left_behind

if TYPE_CHECKING:
    from django.contrib.auth.models import User

logger = logging.getLogger(__name__)

MAX_TURNS = 200
"""Turns of a conversation that are read at all; the agent decides how many of them go to the model."""


@dataclass
class _Ending:
    """How the answer ends; the defaults apply when the reader disconnects."""

    state: MessageState = MessageState.STOPPED
    error: dict[str, Any] | None = None
    llm_error: LLMError | None = None
    receipt: dict[str, Any] | None = None
    """Receipt of the earlier part of a continued answer."""


@dataclass(frozen=True)
class _Work:
    agent: Agent
    question: LLMMessage
    user_id: int
    token_id: UUID | None
    past: Past
    pause: Pause | None
    """Where the answer paused to ask its user."""
    approvals: Mapping[str, bool | None]


async def write_answer(message_id: UUID, *, session_key: str | None = None) -> AsyncGenerator[Event, None]:
    """Yield the agent's events; none if the answer is not waiting to be written, because another writer has it.

    Never raises for failures; they are stored in the row. Closing the generator ends the provider's stream; the partial
    answer is kept and marked as stopped.
    """
    claim = await in_database(services.message_claim, message_id)
    if claim is None:
        return
    begun, paused, receipt = await in_database(services.message_begun, message_id)
    draft, ending = Draft(begun=begun), _Ending(receipt=receipt)
    draft.go_on_from(pausing.load(paused) if paused else None, spent_before_usd=Decimal(0))
    left_behind.set(draft.left_behind)
    try:
        async with aclosing(_written(message_id, claim, draft, session_key)) as events:
            async for event in events:
                yield event
        _end_by_itself(draft, ending)
    except Interrupted as interrupted:
        if interrupted.withdrawn:  # otherwise stopped by the user
            ending.error = site_error("AccessWithdrawn", interrupted.withdrawn)
            ending.state = MessageState.INCOMPLETE if draft.text.strip() else MessageState.FAILED
    except CannotBegin as refusal:
        ending.error, ending.state = site_error("CannotBegin", str(refusal)), MessageState.FAILED
    except LLMError as error:
        ending.llm_error, ending.error = error, error_json(error)
        ending.state = MessageState.INCOMPLETE if draft.text.strip() else MessageState.FAILED
    except AuditUnavailable:
        ending.error = AUDIT_UNAVAILABLE
        ending.state = MessageState.INCOMPLETE if draft.text.strip() else MessageState.FAILED
    except Exception:
        logger.exception("an answer could not be written")
        ending.error = INTERNAL_ERROR
        ending.state = MessageState.INCOMPLETE if draft.text.strip() else MessageState.FAILED
    finally:
        await asyncio.shield(_close(message_id, claim, draft, ending))


async def finish_answer(message_id: UUID, *, session_key: str | None = None) -> None:
    """Write the answer without streaming it to anyone."""
    async with aclosing(write_answer(message_id, session_key=session_key)) as events:
        async for _ in events:
            pass


async def _written(message_id: UUID, claim: UUID, draft: Draft, session_key: str | None) -> AsyncGenerator[Event, None]:
    work = await in_database(_work, message_id)
    watch = Watch(
        model=StoredMessage,
        id=message_id,
        claim=claim,
        user_id=work.user_id,
        session_key=session_key,
        token_id=work.token_id,
    )
    async with watching(watch), aclosing(_events(work, draft)) as events:
        while True:
            try:
                event = await watch.next(events)
            except StopAsyncIteration:
                return
            draft.take(event)
            if draft.is_due() and not await in_database(services.message_write, message_id, claim, text=draft.text):
                raise Interrupted
            yield event


async def _events(work: _Work, draft: Draft) -> AsyncGenerator[Event, None]:
    history = await memory.recalled(work.agent, work.past, draft)
    prompt = work.question
    if draft.begun:
        history, prompt = [*history, prompt, LLMMessage.assistant(draft.begun)], LLMMessage.user(GO_ON)
    stream = work.agent.stream(prompt, history=history)
    if work.pause is not None:
        said = (*history, prompt, *work.pause.added)
        stream = work.agent.stream_on(said, work.approvals, spent=work.pause.spent)
    async with aclosing(stream) as events:
        async for event in events:
            yield event


def _work(message_id: UUID) -> _Work:
    answer = StoredMessage.objects.select_related("conversation__user").get(pk=message_id)
    conversation = answer.conversation
    provider, model = answer.choice
    kind = get_agent(conversation.agent)
    begin = answer.position - answer.position % TURN
    question = conversation.messages.get(position=begin)
    summary, until = conversation.summary, conversation.summary_until or 0
    if until > begin:
        summary, until = "", 0
    first = max(until, begin - MAX_TURNS * TURN)
    rows = list(conversation.messages.going_on().filter(position__gte=first, position__lt=begin).in_order())
    files = _files(conversation.user, [*rows, question])
    agent = kind(
        conversation.user,
        provider=provider or None,
        model=model or None,
        token=usable_token(answer.token_id, conversation.user_id),
        attachments=list(files.values()) if kind.takes_files else (),
    )
    seen = any(each.is_image for each in files.values()) and sent_files.sees(agent.user, kind.slug, provider, model)

    def read(row: StoredMessage) -> LLMMessage:
        """The message as the model reads it; agents that take files add them themselves."""
        if kind.takes_files:
            return row.message if row.parts else LLMMessage.user(sent_files.SEE_FILES)
        return sent_files.message_with_files(row, files, seen=seen or row is question)

    said = [row for row in rows if row.parts or row.files]
    asked = read(question)
    past = Past(
        conversation_id=conversation.pk,
        summary=summary,
        until=conversation.summary_until,
        messages=[read(row) for row in said],
        positions=[row.position for row in said],
        room_tokens=memory.room_of(agent, asked),
    )
    return _Work(
        agent=agent,
        question=asked,
        user_id=agent.user.pk,
        token_id=answer.token_id,
        past=past,
        pause=pausing.load(answer.paused) if answer.paused else None,
        # Calls are begun once: if the writer of an answer dies, the answer is asked for anew, never continued.
        approvals=pausing.approvals(answer.pending or [], begun_before=False),
    )


def _files(user: User, rows: Iterable[StoredMessage]) -> dict[str, Attachment]:
    """Files that still exist, by id, oldest first."""
    ids = dict.fromkeys(file["id"] for row in rows for file in row.files)
    found = {str(each.pk): each for each in Attachment.objects.for_user(user).filter(pk__in=[*ids])} if ids else {}
    return {each: found[each] for each in ids if each in found}


def _end_by_itself(draft: Draft, ending: _Ending) -> None:
    ending.state = MessageState.COMPLETE
    if draft.stopped == "approval":
        ending.state = MessageState.ASKING
    elif draft.stopped:
        ending.state = MessageState.INCOMPLETE
        ending.error = limit_error(draft.stopped)


async def _close(message_id: UUID, claim: UUID, draft: Draft, ending: _Ending) -> None:
    await writer.flushed()  # so that the cost is visible together with the answer
    receipt = merged_receipt(ending.receipt, draft.receipt(ending.llm_error))
    if ending.state == MessageState.ASKING:
        added = (*draft.added_before, *(draft.messages or ()))
        pause = Pause(added=added, spent=draft.spent, output=draft.text.removeprefix(draft.begun))
        await in_database(
            approvals.message_pause,
            message_id,
            claim,
            pending=pausing.asked(draft.pending),
            paused=pausing.dump(pause),
            text=draft.text.strip(),
            receipt=receipt,
        )
        return
    await in_database(
        services.message_finish,
        message_id,
        claim,
        state=ending.state,
        messages=draft.whole_or_text(),
        receipt=receipt,
        error=ending.error,
    )
