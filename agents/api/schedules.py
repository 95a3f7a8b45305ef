"""``/api/schedules``: runs that start by themselves."""

from __future__ import annotations

from datetime import datetime, time
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from django.http import HttpResponse
from django.shortcuts import get_object_or_404
from ninja import Query, Router, Schema
from ninja.responses import Status
from pydantic import Field

from agents import attachments, schedules
from agents.api.shared import ACTING, READING, AgentSlug, How, caller
from agents.attachments import MAX_FILES
from agents.runs import HOW
from agents.schedules import ScheduledRun
from agents.services import MAX_MESSAGE_CHARS
from llm_credentials.api.auth import ApiRequest, token_id_of
from llm_credentials.api.body import StrictSchema
from llm_credentials.api.errors import REFUSALS
from llm_credentials.api.pages import PageIn, PageOut, page_of
from llm_credentials.api.values import Flag, Whole

router = Router()


class ScheduleIn(How):
    agent: AgentSlug = Field(max_length=50)
    input: str = Field("", max_length=MAX_MESSAGE_CHARS, description="May be empty where files go along.")
    attachments: list[UUID] = Field(default_factory=list, max_length=MAX_FILES, description="Go along with each run.")
    every: Literal["hour", "day", "week"]
    at: time = Field(description="On the clock of `time_zone`; of an hourly one only the minutes count.")
    weekday: Whole = Field(0, ge=0, le=6, description="Of a weekly one; Monday is 0.")
    time_zone: str = Field("UTC", max_length=64, description="Such as `Europe/Berlin`.")


class ScheduleOut(Schema):
    id: UUID
    agent: str
    input: str
    provider: str
    model: str
    options: dict[str, Any]
    attachments: list[UUID] = Field(description="Files of its own: what was in use elsewhere was copied.")
    max_cost_usd: Decimal | None
    mail_when_done: bool
    webhook_when_done: bool
    every: str
    at: time
    weekday: int
    time_zone: str
    is_active: bool
    problem: str = Field(description="Why it was switched off, or its last time passed over.")
    next_at: datetime
    last_at: datetime | None


class ScheduleList(PageOut):
    items: list[ScheduleOut]


class SwitchIn(StrictSchema):
    is_active: Flag


def schedule_out(schedule: ScheduledRun) -> ScheduleOut:
    plain = {name: getattr(schedule, name) for name in ScheduleOut.model_fields if name != "attachments"}
    return ScheduleOut(**plain, attachments=[UUID(key) for key in schedule.attachment_ids])


def _find(request: ApiRequest, schedule_id: UUID) -> ScheduledRun:
    return get_object_or_404(ScheduledRun.objects.for_user(caller(request)), pk=schedule_id)


@router.get("", response={200: ScheduleList, **REFUSALS}, url_name="schedule_list", auth=READING)
def schedule_list(request: ApiRequest, where: Query[PageIn]) -> dict[str, Any]:
    return page_of(ScheduledRun.objects.for_user(caller(request)).order_by("-created_at"), where, schedule_out)


@router.post("", response={201: ScheduleOut, **REFUSALS}, url_name="schedule_create", auth=ACTING)
def schedule_create(request: ApiRequest, payload: ScheduleIn) -> Any:
    """Its runs rest on the token that made it, and end with it."""
    made = schedules.schedule_create(
        user=caller(request),
        agent=payload.agent,
        text=payload.input,
        files=attachments.find(caller(request), payload.attachments),
        token_id=token_id_of(request),
        **payload.dict(include={*HOW, "every", "at", "weekday", "time_zone"}),
    )
    return Status(201, schedule_out(made))


@router.patch("/{uuid:schedule_id}", response={200: ScheduleOut, **REFUSALS}, url_name="schedule_update", auth=ACTING)
def schedule_update(request: ApiRequest, schedule_id: UUID, payload: SwitchIn) -> ScheduleOut:
    """Switch it off or on again."""
    found = _find(request, schedule_id)
    return schedule_out(
        schedules.schedule_switch(user=caller(request), schedule_id=found.pk, is_active=payload.is_active)
    )


@router.delete("/{uuid:schedule_id}", response={204: None, **REFUSALS}, url_name="schedule_delete", auth=ACTING)
def schedule_delete(request: ApiRequest, schedule_id: UUID) -> Any:
    """The runs that it started stay."""
    schedules.schedule_delete(user=caller(request), schedule_id=_find(request, schedule_id).pk)
    return HttpResponse(status=204)
