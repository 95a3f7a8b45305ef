"""What the addresses of agents share: who may, in which words they refuse, and how rows look."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Final, cast
from uuid import UUID

from django.contrib.auth.models import User
from django.urls import reverse
from ninja import Schema
from pydantic import Field

from agents.attachments import MAX_FILES
from agents.models import AgentRun, Conversation, StoredMessage
from agents.registry import agents
from agents.services import MAX_MESSAGE_CHARS, ConversationBusy
from agents.tasks import QueueUnavailable
from llm_credentials.api.auth import ApiRequest, only, token_id_of
from llm_credentials.api.body import StrictSchema
from llm_credentials.api.errors import REFUSALS, ApiError, ErrorOut
from llm_credentials.api.values import Described, Flag, Model, OneOf, ProviderOrNone
from llm_credentials.live.access import Right

READING: Final = only("read", "agents")
"""``auth`` of what only looks."""
ACTING: Final = only("agents")
WORKING: Final = {**REFUSALS, 409: ErrorOut, 503: ErrorOut}
"""Answers of posts that start work, beside the good one."""
EVENTS: Final[dict[str, Any]] = {"responses": {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}}


AgentSlug = Annotated[str, OneOf(lambda: [agent.slug for agent in agents()])]
Cost = Annotated[
    Decimal,
    Described(
        anyOf=[
            {"type": "number", "exclusiveMinimum": 0, "maximum": 1000},
            {"type": "string", "pattern": r"^[1-9][0-9]{0,2}(\.[0-9]{1,2})?$"},
        ]
    ),
]


class Said(StrictSchema):
    provider: ProviderOrNone = Field("", max_length=50, description="Empty: as otherwise settled.")
    model: Model = Field("", max_length=200)


class How(Said):
    """What is settled for a run beside its task, now or on a schedule."""

    options: dict[str, Any] = Field(default_factory=dict, description="See `options` of the agent.")
    max_cost_usd: Cost | None = Field(None, gt=0, le=1000, description="It is ended before it costs more.")
    mail_when_done: Flag = False
    webhook_when_done: Flag = Field(False, description="Tells your webhook: `run_ended`, and `run_waits` for your yes.")


class RunIn(How):
    input: str = Field("", max_length=MAX_MESSAGE_CHARS, description="May be empty where files go along.")
    attachments: list[UUID] = Field(default_factory=list, max_length=10, description="Files of yours that go along.")
    conversation: UUID | None = Field(None, description="What was said there goes along; nothing is added to it.")


class MessageIn(StrictSchema):
    text: str = Field(max_length=MAX_MESSAGE_CHARS, description="May be empty where files go along.")
    attachments: list[UUID] = Field([], max_length=MAX_FILES, description="Of `/api/attachments`.")
    provider: str | None = Field(None, max_length=50, description="Left out: as before in this conversation.")
    model: str | None = Field(None, max_length=200)


class ApprovalsIn(StrictSchema):
    approvals: dict[str, Flag] = Field(description="Yes or no by the `id` of each pending call; left out is a no.")


class PendingOut(Schema):
    id: str
    name: str
    arguments: dict[str, Any]
    description: str = Field(description="What the tool says of itself; of a tool of yours, its server's words.")
    access: str
    answer: bool | None


class RunOut(Schema):
    id: UUID
    agent: str
    conversation: UUID | None
    provider: str
    model: str
    state: str = Field(description="`queued`, `running`, `waiting` (see `pending`), `done`, `failed` or `cancelled`.")
    input: str
    options: dict[str, Any]
    max_cost_usd: Decimal | None
    output: str
    result: Any = Field(description="The answer in the agent's own shape, if it has one.")
    pending: list[PendingOut] | None = Field(description="While `waiting`: calls that are made only with your yes.")
    steps: list[dict[str, Any]] = Field(description="Calls of models and tools, oldest first.")
    receipt: dict[str, Any] | None = Field(description="Who answered, and what it took and cost.")
    error: dict[str, Any] | None
    attempts: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    schedule: UUID | None
    events_url: str


class MessageOut(Schema):
    id: UUID
    role: str
    text: str
    state: str = Field(description="`complete`; of an answer also `waiting`, `streaming`, `asking`, `incomplete`, …")
    pending: list[PendingOut] | None = Field(description="While `asking`: calls that are made only with your yes.")
    files: list[dict[str, Any]] = Field(description="Attachments that went along.")
    variant: int = Field(description="Numbers the answers to one question.")
    is_aside: bool = Field(description="Kept, but no part of what the conversation goes on from.")
    receipt: dict[str, Any] | None
    error: dict[str, Any] | None
    created_at: datetime


class ConversationOut(Schema):
    id: UUID
    agent: str
    title: str
    provider: str
    model: str
    summary: str = Field(description="What the model remembers of messages that it reads no longer; else empty.")
    created_at: datetime
    updated_at: datetime


def run_out(run: AgentRun) -> RunOut:
    computed = {"conversation", "events_url", "schedule", "pending"}
    plain = {name: getattr(run, name) for name in RunOut.model_fields if name not in computed}
    events_url = reverse("api:run_events", kwargs={"run_id": run.pk})
    return RunOut(
        **plain,
        conversation=run.conversation_id,
        schedule=run.schedule_id,
        pending=[PendingOut(**call) for call in run.pending] if run.pending else None,
        events_url=events_url,
    )


def message_out(message: StoredMessage) -> MessageOut:
    return MessageOut(**{name: getattr(message, name) for name in MessageOut.model_fields})


def conversation_out(conversation: Conversation) -> ConversationOut:
    return ConversationOut(**{name: getattr(conversation, name) for name in ConversationOut.model_fields})


def caller(request: ApiRequest) -> User:
    return cast("User", request.user)


def right_of(request: ApiRequest) -> Right:
    """On what it rests that this caller may read along."""
    session_key = None if request.token is not None else request.session.session_key
    return Right(request.user.pk, token_id=token_id_of(request), session_key=session_key)


@contextmanager
def in_words() -> Iterator[None]:
    """The refusals of this app in the shape of the API's errors."""
    try:
        yield
    except ConversationBusy:
        words = "An answer is still being written in this conversation. Wait for its end, then send again."
        raise ApiError(409, "answer_running", words) from None
    except QueueUnavailable as error:
        raise ApiError(503, "queue_unavailable", error.user_message, headers={"Retry-After": "5"}) from None
