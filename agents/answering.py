"""Write one answer of a conversation: claim it, ask the agent, keep what comes, close it however it ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from agents import services
from agents.base import Agent
from agents.database import in_database
from agents.drafts import Draft
from agents.loop import Event
from agents.models import MessageState, StoredMessage
from agents.receipts import AUDIT_UNAVAILABLE, INTERNAL_ERROR, error_json, limit_error, site_error
from agents.registry import get_agent
from agents.services import TURN
from agents.watching import Interrupted, Watch, usable_token, watching
from llm_credentials.audit import AuditUnavailable
from llm_credentials.ledger import writer
from llm_credentials.providers import LLMError, LLMMessage
from llm_credentials.routing.receipt import left_behind

logger = logging.getLogger(__name__)

MAX_TURNS = 200
"""How far back a conversation is read at all; what of that goes to the model is the agent's to say."""


@dataclass
class _Ending:
    """How the answer ends; as it stands here if its reader simply leaves."""

    state: MessageState = MessageState.STOPPED
    error: dict[str, Any] | None = None
    llm_error: LLMError | None = None


@dataclass(frozen=True)
class _Work:
    agent: Agent
    prompt: LLMMessage
    user_id: int
    token_id: UUID | None
    history: list[LLMMessage] = field(default_factory=list)


async def write_answer(message_id: UUID, *, session_key: str | None = None) -> AsyncGenerator[Event, None]:
    """The agent's events. Nothing if the answer is not waiting to be written: then somebody else has it.

    Never raises for what goes wrong: the row says it afterwards. Closing the generator ends the provider's stream; what
    had come is kept and marked as stopped.
    """
    claim = await in_database(services.message_claim, message_id)
    if claim is None:
        return
    draft, ending = Draft(), _Ending()
    left_behind.set(draft.left_behind)
    try:
        async with aclosing(_written(message_id, claim, draft, session_key)) as events:
            async for event in events:
                yield event
        _end_by_itself(draft, ending)
    except Interrupted as interrupted:
        if interrupted.withdrawn:  # else stopped by the user
            ending.error = site_error("AccessWithdrawn", interrupted.withdrawn)
            ending.state = MessageState.INCOMPLETE if draft.text.strip() else MessageState.FAILED
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
    """Write it without showing it meanwhile."""
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
    async with watching(watch), aclosing(work.agent.stream(work.prompt, history=work.history)) as events:
        while True:
            try:
                event = await watch.next(events)
            except StopAsyncIteration:
                return
            draft.take(event)
            if draft.is_due() and not await in_database(services.message_write, message_id, claim, text=draft.text):
                raise Interrupted
            yield event


def _work(message_id: UUID) -> _Work:
    answer = StoredMessage.objects.select_related("conversation__user").get(pk=message_id)
    conversation = answer.conversation
    near = conversation.messages.filter(position__lt=answer.position, position__gte=answer.position - MAX_TURNS * TURN)
    earlier = [row.message for row in near.in_order() if row.parts]
    agent = get_agent(conversation.agent)(
        conversation.user,
        provider=conversation.provider or None,
        model=conversation.model or None,
        token=usable_token(answer.token_id, conversation.user_id),
    )
    return _Work(
        agent=agent,
        prompt=earlier[-1],
        user_id=conversation.user_id,
        token_id=answer.token_id,
        history=earlier[:-1],
    )


def _end_by_itself(draft: Draft, ending: _Ending) -> None:
    ending.state = MessageState.COMPLETE
    if draft.stopped:
        ending.state = MessageState.INCOMPLETE
        ending.error = limit_error(draft.stopped)


async def _close(message_id: UUID, claim: UUID, draft: Draft, ending: _Ending) -> None:
    await writer.flushed()  # whoever sees the answer sees what it cost
    await in_database(
        services.message_finish,
        message_id,
        claim,
        state=ending.state,
        messages=draft.whole_or_text(),
        receipt=draft.receipt(ending.llm_error),
        error=ending.error,
    )
