"""Do one background run: claim it, let the agent work, keep what comes, close it however it ends."""

from __future__ import annotations

import logging
from contextlib import aclosing
from enum import Enum
from typing import Any
from uuid import UUID

from agents import services
from agents.base import Agent
from agents.database import in_database
from agents.drafts import Draft
from agents.models import AgentRun, RunState
from agents.receipts import AUDIT_UNAVAILABLE, INTERNAL_ERROR, error_json, limit_error, site_error
from agents.registry import UnknownAgent, get_agent
from agents.watching import Interrupted, Watch, usable_token, watching
from llm_credentials.audit import AuditUnavailable
from llm_credentials.ledger import writer
from llm_credentials.models import PersonalAccessToken
from llm_credentials.providers import AccessWithdrawn, LLMError, LLMMessage
from llm_credentials.routing.receipt import left_behind

logger = logging.getLogger(__name__)


class Outcome(Enum):
    ENDED = "ended"
    NOTHING_TO_DO = "nothing to do"
    """The run is over, or its user is gone."""
    HELD_BY_ANOTHER = "held by another"
    """Another worker has it and was alive a moment ago; if it dies, the run must be taken up again."""


async def run_execute(run_id: UUID) -> Outcome:
    """Never raises for what goes wrong: the row says it afterwards."""
    claim = await in_database(services.run_claim, run_id)
    if claim is None:
        running = await in_database(AgentRun.objects.filter(pk=run_id, state=RunState.RUNNING).exists)
        return Outcome.HELD_BY_ANOTHER if running else Outcome.NOTHING_TO_DO
    draft = Draft()
    left_behind.set(draft.left_behind)
    error: dict[str, Any] | None = None
    llm_error: LLMError | None = None
    state = RunState.FAILED
    watch: Watch | None = None
    try:
        run = await in_database(AgentRun.objects.select_related("user", "conversation").get, pk=run_id)
        watch = Watch(model=AgentRun, id=run_id, claim=claim, user_id=run.user_id, token_id=run.token_id)
        await _work(run, watch, draft)
        state = RunState.DONE
        if draft.stopped:
            error = limit_error(draft.stopped)
    except Interrupted as interrupted:
        state = RunState.CANCELLED
        if interrupted.withdrawn:
            error = site_error("AccessWithdrawn", interrupted.withdrawn)
    except LLMError as caught:
        llm_error, error = caught, error_json(caught)
        if isinstance(caught, AccessWithdrawn) and caught.what != "key":
            state = RunState.CANCELLED  # the call heard of it before the run did
    except AgentRun.DoesNotExist:
        return Outcome.NOTHING_TO_DO
    except AuditUnavailable:
        error = AUDIT_UNAVAILABLE
    except Exception:
        logger.exception("a run could not be finished")
        error = INTERNAL_ERROR
    await writer.flushed()  # whoever sees the run sees what it cost
    await in_database(
        services.run_finish,
        run_id,
        claim,
        state=state,
        output=draft.text.strip(),
        steps=draft.steps,
        receipt=draft.receipt(llm_error),
        error=error,
    )
    return Outcome.ENDED


async def _work(run: AgentRun, watch: Watch, draft: Draft) -> None:
    if not run.user.is_active:
        raise Interrupted
    token = await in_database(usable_token, run.token_id, run.user_id)
    history = await in_database(_history, run)
    async with watching(watch), aclosing(_agent(run, token).stream(run.input, history=history)) as events:
        while True:
            try:
                event = await watch.next(events)
            except StopAsyncIteration:
                return
            draft.take(event)
            if draft.is_due() and not await in_database(
                services.run_write, run.pk, watch.claim, output=draft.text, steps=draft.steps
            ):
                raise Interrupted


def _agent(run: AgentRun, token: PersonalAccessToken | None) -> Agent:
    try:
        return get_agent(run.agent)(run.user, provider=run.provider or None, model=run.model or None, token=token)
    except UnknownAgent:
        raise Interrupted from None


def _history(run: AgentRun) -> list[LLMMessage]:
    """What was said in its conversation before; the run reads it and adds nothing."""
    if run.conversation is None:
        return []
    return services.whole_messages(run.conversation)
