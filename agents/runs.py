"""All writes to runs. Invalid input raises ValidationError with ``{field: [text]}``.

Rows of other users raise DoesNotExist. A run belongs to one worker at a time, which holds a claim taken by a
conditional update; nobody can change the run without it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from django.core.exceptions import ValidationError
from django.core.serializers.json import DjangoJSONEncoder
from django.db import transaction
from django.db.models import F
from django.utils import timezone
from django.utils.translation import gettext as _

from agents.attachments import Attachment
from agents.models import MAX_ATTEMPTS, AgentRun, Conversation, RunState
from agents.receipts import site_error
from agents.registry import get_agent
from agents.sent_files import check_seen, listed
from agents.services import check_agent, check_route, checked_text
from agents.texts import storable

if TYPE_CHECKING:
    from django.contrib.auth.models import User

    from agents.base import Agent

MAX_COST_USD = Decimal(1000)


HOW: Final = ("provider", "model", "options", "max_cost_usd", "mail_when_done", "webhook_when_done")
"""Settings of a run beside its task; scheduled runs have the same ones."""


def run_create(
    *,
    user: User,
    agent: str,
    text: str,
    conversation_id: UUID | None = None,
    token_id: UUID | None = None,
    files: Sequence[Attachment] = (),
    **how: Any,
) -> AgentRun:
    """Create a queued run; the caller hands it to a worker after commit (``agents.tasks.enqueue_run``).

    ``conversation_id``: its messages are included. ``token_id``: the access token that the run depends on. ``how``: see
    ``run_checked``.
    """
    checked = run_checked(user=user, agent=agent, text=text, files=files, **how)
    if conversation_id is not None and not Conversation.objects.for_user(user).filter(pk=conversation_id).exists():
        raise ValidationError({"conversation": [_("There is no such conversation.")]})
    with transaction.atomic():
        run = AgentRun.objects.create(
            user=user,
            weight=get_agent(agent).weight,
            conversation_id=conversation_id,
            token_id=token_id,
            attachment_ids=[str(file.pk) for file in files],
            **checked,
        )
        # Claim the files: unused ones are deleted after a while.
        Attachment.objects.for_user(user).unused().filter(pk__in=[file.pk for file in files]).update(run=run)
    return run


def run_checked(
    *,
    user: User,
    agent: str,
    text: str,
    files: Sequence[Attachment] = (),
    provider: str = "",
    model: str = "",
    options: Mapping[str, Any] | None = None,
    max_cost_usd: Decimal | None = None,
    mail_when_done: bool = False,
    webhook_when_done: bool = False,
) -> dict[str, Any]:
    """Validated columns for a new run; ``options`` are for the agent's own form. With files the text may be empty and
    defaults to their names.

    Raises ValidationError.
    """
    check_agent(agent)
    check_route(user, provider, model)
    if files and get_agent(agent).sees_pictures:
        check_seen(user, agent, (provider, model), listed(files))
    if files and not text.strip():
        text = ", ".join(file.name for file in files)
    if max_cost_usd is not None and not 0 < max_cost_usd <= MAX_COST_USD:
        raise ValidationError({"max_cost_usd": [_("Give an amount above 0 and up to $1,000, or leave it empty.")]})
    return {
        "agent": agent,
        "input": checked_text(text, field="text", user=user),
        "options": cleaned_options(get_agent(agent), options or {}),
        "provider": provider,
        "model": model,
        "max_cost_usd": max_cost_usd,
        "mail_when_done": mail_when_done,
        "webhook_when_done": webhook_when_done,
    }


def run_again(run: AgentRun, *, token_id: UUID | None = None) -> AgentRun:
    """Create a new run with the same settings."""
    return run_create(
        user=run.user,
        agent=run.agent,
        text=run.input,
        conversation_id=run.conversation_id,
        token_id=token_id,
        files=files_of(run),
        **{name: getattr(run, name) for name in HOW},
    )


def files_of(run: AgentRun, *, with_content: bool = False) -> list[Attachment]:
    """Files of the run that still exist, in their order."""
    rows = Attachment.objects.for_user(run.user).filter(pk__in=run.attachment_ids)
    found = {str(row.pk): row for row in (rows if with_content else rows.without_content())}
    return [found[key] for key in run.attachment_ids if key in found]


def cleaned_options(agent: type[Agent], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options cleaned by the agent's form, as JSON; omitted fields get their initial values."""
    if agent.form is None:
        if given:
            raise ValidationError({"options": [_("This agent has no options.")]})
        return {}
    unknown = sorted(set(given) - set(agent.form.base_fields))
    if unknown:
        raise ValidationError({"options": [_("There is no option %(name)s.") % {"name": unknown[0][:50]}]})
    initial = {name: field.initial for name, field in agent.form.base_fields.items() if field.initial is not None}
    form = agent.form({**initial, **given})
    if not form.is_valid():
        faults = [
            f"{form.fields[name].label or name}: {text}" if name in form.fields else text
            for name, texts in form.errors.items()
            for text in map(str, texts)
        ]
        raise ValidationError({"options": faults})
    options: dict[str, Any] = json.loads(json.dumps(form.cleaned_data, cls=DjangoJSONEncoder))
    return options


def run_discard(run: AgentRun) -> None:
    """Delete a run that could not be queued; its files stay for the next try."""
    Attachment.objects.filter(run=run).update(run=None)
    AgentRun.objects.filter(pk=run.pk, state=RunState.QUEUED, attempts=0).delete()


def run_cancel(*, user: User, run_id: UUID) -> AgentRun:
    """A run that waits, or whose worker died, ends at once; a running one is asked to stop."""
    run = AgentRun.objects.for_user(user).get(pk=run_id)
    now = timezone.now()
    row = AgentRun.objects.filter(pk=run.pk)
    if not row.ending_at_once().update(state=RunState.CANCELLED, finished_at=now, cancel_requested_at=now, claim=None):
        row.filter(state=RunState.RUNNING).update(cancel_requested_at=now)
    run.refresh_from_db()
    return run


def run_claim(run_id: UUID) -> UUID | None:
    """Claim a run that is queued, or whose worker died. None if it is neither."""
    claim = uuid.uuid4()
    now = timezone.now()
    row = AgentRun.objects.filter(pk=run_id).claimable()
    row.filter(attempts__gte=MAX_ATTEMPTS, state=RunState.RUNNING).update(
        state=RunState.FAILED, error=WORKERS_DIED, heartbeat_at=None, finished_at=now
    )
    taken = row.update(
        state=RunState.RUNNING,
        claim=claim,
        started_at=now,
        heartbeat_at=now,
        attempts=F("attempts") + 1,
        steps=[],
        output="",
    )
    return claim if taken else None


WORKERS_DIED = site_error("WorkerDied", "The worker on this run died each time that it was begun; it was given up.")


def run_write(
    run_id: UUID, claim: UUID, *, output: str, steps: list[dict[str, Any]], spent_usd: Decimal | None = None
) -> bool:
    """Save the output so far. Returns False when the claim is lost."""
    spent = {} if spent_usd is None else {"spent_usd": spent_usd}
    return bool(
        _claimed(run_id, claim).update(output=storable(output), steps=steps, heartbeat_at=timezone.now(), **spent)
    )


def run_finish(
    run_id: UUID,
    claim: UUID,
    *,
    state: RunState,
    output: str,
    steps: list[dict[str, Any]],
    receipt: dict[str, Any] | None = None,
    error: dict[str, Any] | None = None,
    result: Any = None,
    spent_usd: Decimal | None = None,
) -> bool:
    """Close a run. Returns False, changing nothing, when the claim is lost."""
    spent = {} if spent_usd is None else {"spent_usd": spent_usd}
    return bool(
        _claimed(run_id, claim).update(
            state=state,
            output=storable(output),
            result=result,
            steps=steps,
            receipt=receipt,
            error=error,
            paused="",
            heartbeat_at=None,
            finished_at=timezone.now(),
            **spent,
        )
    )


def run_give_up(run_id: UUID, *, error: dict[str, Any]) -> None:
    """Fail a run from outside its worker's loop, such as after a task time limit."""
    worked_on = AgentRun.objects.filter(pk=run_id).open().exclude(state=RunState.WAITING)
    worked_on.update(state=RunState.FAILED, error=error, heartbeat_at=None, finished_at=timezone.now())


# Approvals


def run_pause(
    run_id: UUID,
    claim: UUID,
    *,
    pending: Sequence[Mapping[str, Any]],
    paused: str,
    output: str,
    steps: list[dict[str, Any]],
    receipt: dict[str, Any] | None,
    spent_usd: Decimal,
) -> bool:
    """Release a run until its user has approved or refused. Returns False when the claim is lost."""
    return bool(
        _claimed(run_id, claim).update(
            state=RunState.WAITING,
            claim=None,
            heartbeat_at=None,
            enqueued_at=None,
            calls_begun_at=None,
            attempts=0,
            pending=[{**each, "answer": None} for each in pending],
            paused=paused,
            output=storable(output),
            steps=steps,
            receipt=receipt,
            spent_usd=spent_usd,
        )
    )


def run_answer(*, user: User, run_id: UUID, answers: Mapping[str, bool]) -> AgentRun:
    """Store the user's decisions by call id (a missing one is a no) and queue the run; the caller hands it to a worker
    after commit.

    Raises ValidationError if the run no longer waits for a decision, or not for one on these calls.
    """
    with transaction.atomic():
        run = AgentRun.objects.for_user(user).select_for_update().get(pk=run_id)
        calls = run.pending or []
        if not run.is_waiting:
            raise ValidationError({"run": [_("This run waits for no answer. It was answered, or it has ended.")]})
        if unknown := sorted(set(answers) - {call["id"] for call in calls}):
            raise ValidationError({"approvals": [_("No call %(id)s waits for you.") % {"id": unknown[0][:100]}]})
        run.pending = [{**call, "answer": answers.get(call["id"]) is True} for call in calls]
        run.state, run.enqueued_at, run.attempts = RunState.QUEUED, None, 0
        taken = AgentRun.objects.filter(pk=run.pk, state=RunState.WAITING).update(
            pending=run.pending, state=run.state, enqueued_at=None, attempts=0
        )
        if not taken:
            raise ValidationError({"run": [_("This run waits for no answer. It was answered, or it has ended.")]})
    return run


def run_calls_begin(run_id: UUID, claim: UUID) -> bool:
    """Record that the approved calls are being made now. Returns False if an earlier attempt has already done so."""
    return bool(_claimed(run_id, claim).filter(calls_begun_at=None).update(calls_begun_at=timezone.now()))


# Queueing


def run_hand_over(run: AgentRun, *, at: datetime | None = None) -> None:
    """Record when the run was handed to the workers; None: it could not be."""
    run.enqueued_at = at
    AgentRun.objects.filter(pk=run.pk).update(enqueued_at=at)


def _claimed(run_id: UUID, claim: UUID) -> Any:
    return AgentRun.objects.filter(pk=run_id, claim=claim, state=RunState.RUNNING)
