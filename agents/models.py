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
"""How often the process that works on an answer or a run says that it is alive."""
STALE_AFTER = timedelta(seconds=12)
"""Without a heartbeat for this long, that process is taken to be dead."""
NO_WORKER_AFTER = timedelta(seconds=4)
"""A run that waits longer than this tells its reader that no worker has taken it."""


def stale_before() -> datetime:
    """The moment before which a last heartbeat means death."""
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
    """What the model remembers of the messages before ``summary_until``; see ``agents.memory``."""
    summary_until = models.PositiveIntegerField(null=True, blank=True)
    """Position of the first message that goes to the model word by word; None without a summary."""
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
        """What the conversation goes on from: no answer that was not chosen, no turn whose question was changed."""
        return self.filter(is_aside=False)

    def open(self) -> Self:
        """Answers that are asked for and not yet there."""
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
    """Attachments that went along: ``{"id", "name", "media_type", "size_bytes"}``; see ``agents.sent_files``."""
    provider = models.CharField(max_length=50, blank=True)
    """Who was asked for this answer, where that was not the conversation's own choice."""
    model = models.CharField(max_length=200, blank=True)
    variant = models.PositiveSmallIntegerField(default=0)
    """Numbers the answers to one question; the tool traffic of each has its number."""
    is_aside = models.BooleanField(default=False)
    """Kept, but no part of what goes on; see ``agents.branching``."""
    follows = models.IntegerField(null=True, blank=True)
    """Of a question: position of the one it was asked after, -1 for nothing; None: the one before it in position."""
    chosen = models.PositiveSmallIntegerField(default=0)
    """Of a question that is set aside: the variant of its answer that went on."""
    begun = models.TextField(blank=True)
    """Of an answer that goes on after it broke off: what was there before."""
    search_text = models.TextField(blank=True)
    """What is said, in lower case; see ``agents.text_search``."""
    state = models.CharField(max_length=10, choices=MessageState, default=MessageState.COMPLETE)
    receipt = models.JSONField(null=True, blank=True)
    """Who answered and what it took; see ``agents.receipts``."""
    error = models.JSONField(null=True, blank=True)
    """What went wrong, with the fields of LLMError; see ``agents.receipts``."""
    pending = models.JSONField(null=True, blank=True)
    """Calls that wait for the user's yes, or had it; as those of a run."""
    paused = models.TextField(blank=True, default="", editable=False)
    """Where to go on after the user was asked; see ``agents.pausing``."""
    claim = models.UUIDField(null=True, blank=True)
    """Of the one writer of this answer; nobody else may change it while it is being written."""
    token_id = models.UUIDField(null=True, blank=True, editable=False)
    """Of the access token that asked for this answer; without it, or past what it allows, the answer ends."""
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
        """Whether it waits for its user's yes."""
        return self.state == MessageState.ASKING

    @property
    def can_retry(self) -> bool:
        """Whether a new answer may be asked for in its place."""
        return self.role == "assistant" and self.state not in (MessageState.COMPLETE, MessageState.STREAMING)

    @property
    def can_continue(self) -> bool:
        """Whether it ended before its end, with something that can be gone on from."""
        cut = self.state == MessageState.COMPLETE and (self.receipt or {}).get("finish_reason") == "length"
        broken = self.state in (MessageState.INCOMPLETE, MessageState.STOPPED)
        return self.role == "assistant" and (cut or broken) and bool(self.text.strip())

    @property
    def choice(self) -> tuple[str, str]:
        """Provider and model to ask for this answer; two empty ones: as the user's order says."""
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
"""A run whose workers died so often is given up: it may be what kills them."""


class AgentRunQuerySet(models.QuerySet["AgentRun"]):
    def for_user(self, user: User | AnonymousUser) -> Self:
        return self.filter(user_id=user.pk) if user.is_authenticated else self.none()

    def recent_first(self) -> Self:
        return self.order_by("-created_at")

    def open(self) -> Self:
        return self.filter(state__in=OPEN_RUN_STATES)

    def claimable(self) -> Self:
        """Queued ones, and running ones whose worker died."""
        abandoned = models.Q(state=RunState.RUNNING, heartbeat_at__lt=stale_before())
        return self.filter(models.Q(state=RunState.QUEUED) | abandoned)

    def orphaned(self) -> Self:
        """Handed to the workers a while ago, and nobody works on them: their message may be lost."""
        return self.claimable().filter(enqueued_at__lt=stale_before())

    def ending_at_once(self) -> Self:
        """Those on which nobody works now, so that nobody has to be asked to end."""
        abandoned = models.Q(state=RunState.RUNNING, heartbeat_at__lt=stale_before())
        return self.filter(models.Q(state__in=(RunState.QUEUED, RunState.WAITING)) | abandoned)

    def in_flight(self) -> Self:
        """Handed to the workers and not over."""
        return self.filter(state__in=(RunState.QUEUED, RunState.RUNNING), enqueued_at__isnull=False)

    def held_back(self) -> Self:
        """Queued, but not yet handed to the workers, since others of the same user come first."""
        return self.filter(state=RunState.QUEUED, enqueued_at=None)

    def untold(self) -> Self:
        """Over, and their user wants to hear of it and has not."""
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
    """Of the agent, when it was started: which queue it goes through."""
    input = models.TextField()
    options = models.JSONField(default=dict)
    """What was chosen beside the task, as the agent's form cleaned it."""
    attachment_ids = models.JSONField(default=list)
    """Of the files that go along; those that were removed meanwhile stay away."""
    max_cost_usd = models.DecimalField(max_digits=10, decimal_places=4, null=True, blank=True)
    """What the user lets it cost at most; the agent's own limit holds besides."""
    state = models.CharField(max_length=10, choices=RunState, default=RunState.QUEUED)
    output = models.TextField(blank=True)
    result = models.JSONField(null=True, blank=True)
    """The answer in the agent's own shape."""
    pending = models.JSONField(null=True, blank=True)
    """Calls that wait for the user's yes, or had it: ``[{"id", "name", "arguments", "description", "access",
    "answer": null|true|false}]``."""
    paused = models.TextField(blank=True, default="", editable=False)
    """Where to go on after the user was asked; see ``agents.pausing``."""
    calls_begun_at = models.DateTimeField(null=True, blank=True, editable=False)
    """When the calls that had a yes were begun: they are never begun again."""
    spent_usd = models.DecimalField(max_digits=14, decimal_places=8, default=0, editable=False)
    """What all attempts have cost so far, as far as it is known."""
    receipt = models.JSONField(null=True, blank=True)
    error = models.JSONField(null=True, blank=True)
    steps = models.JSONField(default=list)
    """What has happened so far: ``{"type": "model"|"tool"|"progress", …}``, oldest first."""
    attempts = models.PositiveIntegerField(default=0)
    """How often a worker began it; more than once only after a worker died."""
    claim = models.UUIDField(null=True, blank=True)
    token_id = models.UUIDField(null=True, blank=True, editable=False)
    """Of the access token that started it; without it, or past what it allows, the run ends."""
    heartbeat_at = models.DateTimeField(null=True, blank=True)
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    enqueued_at = models.DateTimeField(null=True, blank=True, editable=False)
    """When it was last handed to the workers; None while others of the same user come first."""
    mail_when_done = models.BooleanField(default=False)
    webhook_when_done = models.BooleanField(default=False)
    told_at = models.DateTimeField(null=True, blank=True, editable=False)
    schedule = models.ForeignKey(ScheduledRun, null=True, blank=True, on_delete=models.SET_NULL, related_name="runs")
    due_at = models.DateTimeField(null=True, blank=True, editable=False)
    """Of a scheduled run: which time of the schedule it is."""
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
        """Whether it waits for its user's yes."""
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
        """Whether it has waited so long that no worker seems to be there."""
        handed = self.enqueued_at
        return self.state == RunState.QUEUED and handed is not None and timezone.now() - handed > NO_WORKER_AFTER

    @property
    def seen(self) -> str:
        """Changes whenever its page would: what a reader who asks again has seen already."""
        marks = (self.is_without_worker, self.is_abandoned, self.cancel_requested_at is not None, self.is_held_back)
        steps = "".join(str(step.get("state", ""))[:1] for step in self.steps)
        parts = (self.state, self.attempts, len(self.output), len(self.steps), steps, *map(int, marks))
        return "-".join(map(str, parts))

    @property
    def is_abandoned(self) -> bool:
        """Whether its worker has stopped giving signs of life."""
        return self.state == RunState.RUNNING and self.heartbeat_at is not None and self.heartbeat_at < stale_before()

    @property
    def duration_ms(self) -> int | None:
        if self.started_at is None or self.finished_at is None:
            return None
        return round((self.finished_at - self.started_at).total_seconds() * 1000)
