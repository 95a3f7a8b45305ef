"""``/api/runs``: background runs, and what happens in them as server-sent events."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from django.http import HttpResponse
from ninja import Header, Query, Router
from ninja.responses import Status

from agents import runs, tasks
from agents.api.events import run_events as events_of
from agents.api.shared import ACTING, EVENTS, READING, WORKING, ApprovalsIn, RunOut, caller, in_words, right_of, run_out
from agents.models import AgentRun
from agents.views.answers import admit_run, find_run
from agents.watching import announce_stop
from llm_credentials import limits
from llm_credentials.api.auth import ApiRequest, token_id_of
from llm_credentials.api.errors import REFUSALS
from llm_credentials.api.idempotency import IdempotencyKey, once
from llm_credentials.api.pages import PageIn, PageOut, page_of
from llm_credentials.streams import EventStreamResponse

router = Router()
LastEventId = Annotated[
    str | None, Header(alias="Last-Event-ID", max_length=100, description="Of the last event seen: go on after it.")
]


class RunList(PageOut):
    items: list[RunOut]


@router.get("", response={200: RunList, **REFUSALS}, url_name="run_list", auth=READING)
def run_list(request: ApiRequest, where: Query[PageIn]) -> dict[str, Any]:
    """Newest first."""
    return page_of(AgentRun.objects.for_user(caller(request)).recent_first(), where, run_out)


@router.get("/{uuid:run_id}", response={200: RunOut, **REFUSALS}, url_name="run_get", auth=READING)
def run_get(request: ApiRequest, run_id: UUID) -> RunOut:
    return run_out(find_run(caller(request), run_id))


@router.get(
    "/{uuid:run_id}/events", response={200: None, **REFUSALS}, url_name="run_events", openapi_extra=EVENTS, auth=READING
)
def run_events(request: ApiRequest, run_id: UUID, last_event_id: LastEventId = None) -> Any:
    """`text` (`{"text", "replace"}`), `steps` (`{"steps"}`), at the end `done`, `error` or `approval` (the run)."""
    run = find_run(caller(request), run_id)
    limits.admit("stream", request.user)
    return EventStreamResponse(events_of(run.pk, right_of(request), last_event_id or ""))


@router.post("/{uuid:run_id}/cancel", response={200: RunOut, **REFUSALS}, url_name="run_cancel", auth=ACTING)
def run_cancel(request: ApiRequest, run_id: UUID) -> RunOut:
    """One that waits ends at once; one that is worked on is asked to end."""
    run = runs.run_cancel(user=caller(request), run_id=find_run(caller(request), run_id).pk)
    announce_stop(run.pk)
    return run_out(run)


@router.post("/{uuid:run_id}/approvals", response={202: RunOut, **WORKING}, url_name="run_approve", auth=ACTING)
def run_approve(request: ApiRequest, run_id: UUID, payload: ApprovalsIn) -> Any:
    """Say yes or no to the calls for which a run waits. It goes on with that, once."""
    run = find_run(caller(request), run_id)
    with in_words():
        answered = runs.run_answer(user=caller(request), run_id=run.pk, answers=payload.approvals)
        return Status(202, run_out(begin(answered, is_new=False)))


@router.post("/{uuid:run_id}/retry", response={202: RunOut, **WORKING}, url_name="run_retry", auth=ACTING)
def run_retry(request: ApiRequest, run_id: UUID, response: HttpResponse, idempotency_key: IdempotencyKey = None) -> Any:
    """A new run like one that has ended; one that is open is handed to the workers once more and stays one run."""
    run = find_run(caller(request), run_id)

    def start() -> tuple[int, RunOut]:
        admit_run(caller(request), run.agent, run.provider, run.model)
        if run.is_open:
            return 202, run_out(begin(run, is_new=False))
        again = runs.run_again(run, token_id=token_id_of(request))
        return 202, run_out(begin(again, is_new=True))

    with in_words():
        return once(request, idempotency_key, response, start)


def begin(run: AgentRun, *, is_new: bool) -> AgentRun:
    """Hand it to the workers. Raises QueueUnavailable; a new run is taken back then."""
    try:
        tasks.enqueue_run(run)
    except tasks.QueueUnavailable:
        if is_new:
            runs.run_discard(run)
        raise
    return run
