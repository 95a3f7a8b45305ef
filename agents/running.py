"""Executes one background run: claims it, runs the agent, saves the output and always closes the row."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from agents import pausing, runs, services
from agents.base import Agent, CannotBegin
from agents.database import in_database
from agents.drafts import Draft
from agents.loop import Event, Spent, StepReceipt
from agents.models import MAX_ATTEMPTS, AgentRun, RunState
from agents.pausing import Pause
from agents.receipts import AUDIT_UNAVAILABLE, INTERNAL_ERROR, error_json, limit_error, merged_receipt, site_error
from agents.registry import UnknownAgent, get_agent
from agents.watching import Interrupted, Watch, usable_token, watching
from llm_credentials.audit import AuditUnavailable
from llm_credentials.ledger import writer
from llm_credentials.models import LLMSettings, PersonalAccessToken
from llm_credentials.providers import AccessWithdrawn, LLMError, LLMMessage, SiteUnavailable
from llm_credentials.routing.receipt import left_behind

logger = logging.getLogger(__name__)


class Outcome(Enum):
    ENDED = "ended"
    """Or the run waits for its user."""
    NOTHING_TO_DO = "nothing to do"
    """The run is over, or its user is gone."""
    HELD_BY_ANOTHER = "held by another"
    """Another worker has it and was alive a moment ago; if that worker dies, the run must be retried."""
    LEFT = "left"
    """The ledger was away when a call was to begin. The run starts again once its claim is stale."""


@dataclass
class _Ending:
    state: RunState = RunState.FAILED
    error: dict[str, Any] | None = None
    llm_error: LLMError | None = None


async def run_execute(run_id: UUID) -> Outcome:
    """Never raises for failures; they are stored in the row."""
    claim = await in_database(runs.run_claim, run_id)
    if claim is None:
        running = await in_database(AgentRun.objects.filter(pk=run_id, state=RunState.RUNNING).exists)
        return Outcome.HELD_BY_ANOTHER if running else Outcome.NOTHING_TO_DO
    try:
        run = await in_database(AgentRun.objects.select_related("user", "conversation").get, pk=run_id)
    except AgentRun.DoesNotExist:
        return Outcome.NOTHING_TO_DO
    draft, ending = Draft(), _Ending()
    left_behind.set(draft.left_behind)
    draft.go_on_from(pausing.load(run.paused) if run.paused else None, spent_before_usd=run.spent_usd)
    try:
        await _work(run, claim, draft)
        _end_by_itself(draft, ending)
    except Interrupted as interrupted:
        ending.state = RunState.CANCELLED
        if interrupted.withdrawn:
            ending.error = site_error("AccessWithdrawn", interrupted.withdrawn)
    except CannotBegin as refusal:
        ending.error = site_error("CannotBegin", str(refusal))
    except SiteUnavailable as caught:
        if run.attempts < MAX_ATTEMPTS:
            return Outcome.LEFT
        ending.llm_error, ending.error = caught, error_json(caught)
    except LLMError as caught:
        ending.llm_error, ending.error = caught, error_json(caught)
        if isinstance(caught, AccessWithdrawn) and caught.what != "key":
            ending.state = RunState.CANCELLED  # the call saw the cancellation before the run did
    except AuditUnavailable:
        ending.error = AUDIT_UNAVAILABLE
    except Exception:
        logger.exception("a run could not be finished")
        ending.error = INTERNAL_ERROR
    await writer.flushed()  # so that the cost is visible together with the run
    await _close(run, claim, draft, ending)
    return Outcome.ENDED


def _end_by_itself(draft: Draft, ending: _Ending) -> None:
    if draft.stopped == "approval":
        ending.state = RunState.WAITING
        return
    ending.state = RunState.FAILED if draft.stopped == "output" else RunState.DONE
    if draft.stopped:
        ending.error = limit_error(draft.stopped)


async def _close(run: AgentRun, claim: UUID, draft: Draft, ending: _Ending) -> None:
    receipt = merged_receipt(draft.receipt_before, draft.receipt(ending.llm_error))
    kept: dict[str, Any] = {"steps": draft.steps, "receipt": receipt, "spent_usd": draft.spent_usd}
    if ending.state == RunState.WAITING:
        pause = Pause(
            added=(*draft.added_before, *(draft.messages or ())),
            spent=draft.spent,
            output=draft.text,
            steps=draft.steps,
            receipt=receipt,
        )
        pending = pausing.asked(draft.pending)
        paused = await in_database(pausing.dump, pause)
        await in_database(
            runs.run_pause, run.pk, claim, pending=pending, paused=paused, output=draft.text.strip(), **kept
        )
        return
    result = None if draft.output is None else draft.output.model_dump(mode="json")
    await in_database(
        runs.run_finish,
        run.pk,
        claim,
        state=ending.state,
        output=draft.text.strip(),
        result=result,
        error=ending.error,
        **kept,
    )


async def _work(run: AgentRun, claim: UUID, draft: Draft) -> None:
    if not run.user.is_active:
        raise Interrupted
    watch = Watch(model=AgentRun, id=run.pk, claim=claim, user_id=run.user_id, token_id=run.token_id)
    token = await in_database(usable_token, run.token_id, run.user_id)
    history = await in_database(_history, run)
    agent = await in_database(_agent, run, token)
    async with watching(watch), aclosing(await _events(run, claim, agent, history)) as events:
        while True:
            try:
                event = await watch.next(events)
            except StopAsyncIteration:
                break
            draft.take(event)
            if (draft.is_due() or isinstance(event, StepReceipt)) and not await in_database(
                runs.run_write, run.pk, claim, output=draft.text, steps=draft.steps, spent_usd=draft.spent_usd
            ):
                raise Interrupted
    if draft.output is not None:
        draft.pieces[:] = [agent.shown(draft.output)]


async def _events(run: AgentRun, claim: UUID, agent: Agent, history: list[LLMMessage]) -> AsyncGenerator[Event, None]:
    """Events from the start, or from the pause."""
    if not run.paused:
        return agent.stream(run.input, history=history, spent=Spent(cost_usd=run.spent_usd))
    pause = pausing.load(run.paused)
    is_first = await in_database(runs.run_calls_begin, run.pk, claim)
    answers = pausing.approvals(run.pending or [], begun_before=not is_first)
    messages = (*history, LLMMessage.user(run.input), *pause.added)
    return agent.stream_on(messages, answers, spent=pause.spent)


def _agent(run: AgentRun, token: PersonalAccessToken | None) -> Agent:
    try:
        agent = get_agent(run.agent)
    except UnknownAgent:
        raise Interrupted from None
    return agent(
        run.user,
        provider=run.provider or None,
        model=run.model or None,
        token=token,
        options=run.options,
        attachments=runs.files_of(run, with_content=True),
        max_cost_usd=_limit_usd(run),
    )


def _limit_usd(run: AgentRun) -> Decimal | None:
    """The lower of the run's own limit and the user's limit per run."""
    limits = (run.max_cost_usd, LLMSettings.of(run.user).run_budget_usd)
    return min((limit for limit in limits if limit is not None), default=None)


def _history(run: AgentRun) -> list[LLMMessage]:
    """Earlier messages of its conversation; the run reads them and adds none."""
    if run.conversation is None:
        return []
    return services.whole_messages(run.conversation)
