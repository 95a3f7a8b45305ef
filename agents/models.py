"""Conversations, their messages, and background runs. Every row belongs to one user; managers have ``for_user``."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Self

from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.db import models
from django.urls import reverse
from django.utils import timezone

import agents.attachments
import agents.expenses.models
import agents.servers
import agents.vectors  # noqa: F401 - their models, for Django to find
from agents.fields import PartsField
from agents.schedules import ScheduledRun
from llm_credentials.providers import LLMMessage
from llm_credentials.providers.messages import Role

if TYPE_CHECKING:
    from django.contrib.auth.models import User

HEARTBEAT_S = 2.0
"""Heartbeat interval of the process that works on an answer or a run."""
STALE_AFTER = timedelta(seconds=12)
"""Without a heartbeat for this long, that process is considered dead."""
NO_WORKER_AFTER = timedelta(seconds=4)
"""A run that waits longer than this tells its reader that no worker has taken it."""


def stale_before() -> datetime:
    """A last heartbeat before this moment means that the process is dead."""
    return timezone.now() - STALE_AFTER


class ConversationQuerySet(models.QuerySet["Conversation"]):
    def for_user(self, user: User | AnonymousUser) -> Self:
        return self.filter(user_id=user.pk) if user.is_authenticated else self.none()

    def recent_first(self) -> Self:
        return self.order_by("-updated_at")


class Conversation(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="conversations")
    agent = models.SlugField(max_length=50)
    title = models.CharField(max_length=120, blank=True)
    provider = models.CharField(max_length=50, blank=True)
    """Provider slug; empty: the user's own order decides."""
    model = models.CharField(max_length=200, blank=True)
    summary = models.TextField(blank=True)
    """Summary of the messages before ``summary_until``; see ``agents.memory``."""
    summary_until = models.PositiveIntegerField(null=True, blank=True)
    """Position of the first message that is sent verbatim; None without a summary."""
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects = ConversationQuerySet.as_manager()

    class Meta:
        indexes = [models.Index(fields=["user", "-updated_at"])]

    def __str__(self) -> str:
        return f"Conversation {self.pk}"

    def get_absolute_url(self) -> str:
        return reverse("agents:conversation-detail", args=[self.pk])


class MessageState(models.TextChoices):
    WAITING = "waiting", "waiting"
    STREAMING = "streaming", "being written"
    ASKING = "asking", "waiting for you"
    COMPLETE = "complete", "complete"
    INCOMPLETE = "incomplete", "incomplete"
    STOPPED = "stopped", "stopped"
    FAILED = "failed", "failed"


OPEN_MESSAGE_STATES = (MessageState.WAITING, MessageState.STREAMING)


class StoredMessageQuerySet(models.QuerySet["StoredMessage"]):
    def for_user(self, user: User | AnonymousUser) -> Self:
        return self.filter(conversation__user_id=user.pk) if user.is_authenticated else self.none()

    def in_order(self) -> Self:
        return self.order_by("position", "variant")

    def going_on(self) -> Self:
        """The active messages: without answers that were not chosen and turns whose question was edited."""
        return self.filter(is_aside=False)

    def open(self) -> Self:
        """Answers that were requested and are not finished."""
        return self.filter(state__in=OPEN_MESSAGE_STATES)

    def stale(self) -> Self:
        """Answers whose writer died."""
        return self.filter(state=MessageState.STREAMING, heartbeat_at__lt=stale_before())


class StoredMessage(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    conversation = models.ForeignKey(Conversation, on_delete=models.CASCADE, related_name="messages")
    position = models.PositiveIntegerField()
    role = models.CharField(max_length=10)
    parts = PartsField()
    files = models.JSONField(default=list, blank=True)
    """Attachments: ``{"id", "name", "media_type", "size_bytes"}``; see ``agents.sent_files``."""
    provider = models.CharField(max_length=50, blank=True)
    """The provider for this answer, if it differs from the conversation's."""
    model = models.CharField(max_length=200, blank=True)
    variant = models.PositiveSmallIntegerField(default=0)
    """Number of the answer among the answers to one question; its tool traffic has the same number."""
    is_aside = models.BooleanField(default=False)
    """Kept, but no longer an active part of the conversation; see ``agents.branching``."""
    follows = models.IntegerField(null=True, blank=True)
    """Of a question: position of the question it follows, -1 for none; None: the one before it in position."""
    chosen = models.PositiveSmallIntegerField(default=0)
    """Of a question that is set aside: the variant of its chosen answer."""
    begun = models.TextField(blank=True)
    """Of a continued answer: the text before the interruption."""
    search_text = models.TextField(blank=True)
    """The text in lower case; see ``agents.text_search``."""
    state = models.CharField(max_length=10, choices=MessageState, default=MessageState.COMPLETE)
    receipt = models.JSONField(null=True, blank=True)
    """Provider, model, usage and cost; see ``agents.receipts``."""
    error = models.JSONField(null=True, blank=True)
    """The failure, with the fields of LLMError; see ``agents.receipts``."""
    pending = models.JSONField(null=True, blank=True)
    """Calls that wait for the user's approval or have it; same format as in a run."""
    paused = models.TextField(blank=True, default="", editable=False)
    """Where to continue after an approval; see ``agents.pausing``."""
    claim = models.UUIDField(null=True, blank=True)
    """Claim of the one writer of this answer; nobody else may change it meanwhile."""
    token_id = models.UUIDField(null=True, blank=True, editable=False)
    """Of the access token that asked for this answer; if it is revoked or its limits are reached, the answer ends."""
    heartbeat_at = models.DateTimeField(null=True, blank=True)
    stop_requested_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = StoredMessageQuerySet.as_manager()

    class Meta:
        ordering = ["position", "variant"]
        constraints = [
            models.UniqueConstraint(fields=["conversation", "position", "variant"], name="message_variant_once")
        ]
        indexes = [models.Index(fields=["state", "heartbeat_at"])]

    def __str__(self) -> str:
        return f"{self.role} message {self.pk}"

    @property
    def message(self) -> LLMMessage:
        return LLMMessage(role=self._role, parts=self.parts)

    @property
    def _role(self) -> Role:
        return self.role  # type: ignore[return-value]  # written by our services only

    @property
    def text(self) -> str:
        return self.message.text

    @property
    def reasoning(self) -> str:
        return self.message.reasoning

    @property
    def is_open(self) -> bool:
        return self.state in OPEN_MESSAGE_STATES

    @property
    def is_asking(self) -> bool:
        """Whether it waits for its user's approval."""
        return self.state == MessageState.ASKING

    @property
    def can_retry(self) -> bool:
        """Whether the user may ask for a new answer in its place."""
        return self.role == "assistant" and self.state not in (MessageState.COMPLETE, MessageState.STREAMING)

    @property
    def can_continue(self) -> bool:
        """Whether it was cut off with something to continue from."""
        cut = self.state == MessageState.COMPLETE and (self.receipt or {}).get("finish_reason") == "length"
        broken = self.state in (MessageState.INCOMPLETE, MessageState.STOPPED)
        return self.role == "assistant" and (cut or broken) and bool(self.text.strip())

    @property
    def choice(self) -> tuple[str, str]:
        """Provider and model for this answer; both empty: the user's order decides."""
        if self.provider:
            return self.provider, self.model
        return self.conversation.provider, self.conversation.model


class RunState(models.TextChoices):
    QUEUED = "queued", "queued"
    RUNNING = "running", "running"
    WAITING = "waiting", "waiting for you"
    DONE = "done", "done"
    FAILED = "failed", "failed"
    CANCELLED = "cancelled", "cancelled"


OPEN_RUN_STATES = (RunState.QUEUED, RunState.RUNNING, RunState.WAITING)
MAX_ATTEMPTS = 5
"""A run whose workers died this often is given up: it may be what kills them."""


class AgentRunQuerySet(models.QuerySet["AgentRun"]):
    def for_user(self, user: User | AnonymousUser) -> Self:
        return self.filter(user_id=user.pk) if user.is_authenticated else self.none()

    def recent_first(self) -> Self:
        return self.order_by("-created_at")

    def open(self) -> Self:
        return self.filter(state__in=OPEN_RUN_STATES)

    def claimable(self) -> Self:
        """Queued runs, and running ones whose worker died."""
        abandoned = models.Q(state=RunState.RUNNING, heartbeat_at__lt=stale_before())
        return self.filter(models.Q(state=RunState.QUEUED) | abandoned)

    def orphaned(self) -> Self:
        """Runs queued a while ago without a worker: their message may be lost."""
        return self.claimable().filter(enqueued_at__lt=stale_before())

    def ending_at_once(self) -> Self:
        """Runs without an active worker, which can be cancelled directly."""
        abandoned = models.Q(state=RunState.RUNNING, heartbeat_at__lt=stale_before())
        return self.filter(models.Q(state__in=(RunState.QUEUED, RunState.WAITING)) | abandoned)

    def in_flight(self) -> Self:
        """Handed to the workers and unfinished."""
        return self.filter(state__in=(RunState.QUEUED, RunState.RUNNING), enqueued_at__isnull=False)

    def held_back(self) -> Self:
        """Queued, but not yet handed to the workers, because the user's other runs come first."""
        return self.filter(state=RunState.QUEUED, enqueued_at=None)

    def untold(self) -> Self:
        """Finished runs whose user asked for a notification and has not had it."""
        wanted = models.Q(mail_when_done=True) | models.Q(webhook_when_done=True)
        return self.filter(wanted, told_at=None, finished_at__isnull=False)


class AgentRun(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="agent_runs")
    agent = models.SlugField(max_length=50)
    conversation = models.ForeignKey(
        Conversation, null=True, blank=True, on_delete=models.SET_NULL, related_name="runs"
    )
    provider = models.CharField(max_length=50, blank=True)
    model = models.CharField(max_length=200, blank=True)
    weight = models.CharField(max_length=10, default="normal")
    """The agent's weight when the run was started; decides the queue."""
    input = models.TextField()
    options = models.JSONField(default=dict)
    """Options chosen beside the task, as cleaned by the agent's form."""
    attachment_ids = models.JSONField(default=list)
    """Its files, by id; those deleted meanwhile are skipped."""
    max_cost_usd = models.DecimalField(max_digits=10, decimal_places=4, null=True, blank=True)
    """The user's cost limit; the agent's own limit applies as well."""
    state = models.CharField(max_length=10, choices=RunState, default=RunState.QUEUED)
    output = models.TextField(blank=True)
    result = models.JSONField(null=True, blank=True)
    """The answer in the agent's own shape."""
    pending = models.JSONField(null=True, blank=True)
    """Calls that wait for the user's approval or have it: ``[{"id", "name", "arguments", "description", "access",
    "answer": null|true|false}]``.
    """
    paused = models.TextField(blank=True, default="", editable=False)
    """Where to continue after an approval; see ``agents.pausing``."""
    calls_begun_at = models.DateTimeField(null=True, blank=True, editable=False)
    """When the approved calls were begun; they are never begun again."""
    spent_usd = models.DecimalField(max_digits=14, decimal_places=8, default=0, editable=False)
    """Cost of all attempts so far, as far as it is known."""
    receipt = models.JSONField(null=True, blank=True)
    error = models.JSONField(null=True, blank=True)
    steps = models.JSONField(default=list)
    """Steps so far: ``{"type": "model"|"tool"|"progress", …}``, oldest first."""
    attempts = models.PositiveIntegerField(default=0)
    """How often a worker began it; above one only if a worker died."""
    claim = models.UUIDField(null=True, blank=True)
    token_id = models.UUIDField(null=True, blank=True, editable=False)
    """Of the access token that started it; if it is revoked or its limits are reached, the run ends."""
    heartbeat_at = models.DateTimeField(null=True, blank=True)
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    enqueued_at = models.DateTimeField(null=True, blank=True, editable=False)
    """When it was last handed to the workers; None while the user's other runs come first."""
    mail_when_done = models.BooleanField(default=False)
    webhook_when_done = models.BooleanField(default=False)
    told_at = models.DateTimeField(null=True, blank=True, editable=False)
    schedule = models.ForeignKey(ScheduledRun, null=True, blank=True, on_delete=models.SET_NULL, related_name="runs")
    due_at = models.DateTimeField(null=True, blank=True, editable=False)
    """Of a scheduled run: the scheduled time that it is for."""
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    objects = AgentRunQuerySet.as_manager()

    class Meta:
        indexes = [models.Index(fields=["user", "-created_at"]), models.Index(fields=["state", "heartbeat_at"])]
        constraints = [
            models.UniqueConstraint(
                fields=["schedule", "due_at"], condition=models.Q(schedule__isnull=False), name="one_run_a_due_time"
            )
        ]

    def __str__(self) -> str:
        return f"Run {self.pk}"

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for its user's approval."""
        return self.state == RunState.WAITING

    @property
    def is_held_back(self) -> bool:
        return self.state == RunState.QUEUED and self.enqueued_at is None

    def get_absolute_url(self) -> str:
        return reverse("agents:run-detail", args=[self.pk])

    @property
    def is_open(self) -> bool:
        return self.state in OPEN_RUN_STATES

    @property
    def is_without_worker(self) -> bool:
        """Whether it has waited so long that there seems to be no worker."""
        handed = self.enqueued_at
        return self.state == RunState.QUEUED and handed is not None and timezone.now() - handed > NO_WORKER_AFTER

    @property
    def seen(self) -> str:
        """Changes whenever its page would; lets a polling reader say what it has seen."""
        marks = (self.is_without_worker, self.is_abandoned, self.cancel_requested_at is not None, self.is_held_back)
        steps = "".join(str(step.get("state", ""))[:1] for step in self.steps)
        parts = (self.state, self.attempts, len(self.output), len(self.steps), steps, *map(int, marks))
        return "-".join(map(str, parts))

    @property
    def is_abandoned(self) -> bool:
        """Whether its worker has stopped sending heartbeats."""
        return self.state == RunState.RUNNING and self.heartbeat_at is not None and self.heartbeat_at < stale_before()

    @property
    def duration_ms(self) -> int | None:
        if self.started_at is None or self.finished_at is None:
            return None
        return round((self.finished_at - self.started_at).total_seconds() * 1000)
