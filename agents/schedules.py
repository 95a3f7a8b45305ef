"""Runs that start on a schedule: every hour, day or week, at a time in the user's zone.

The scheduler calls ``start_due``. A conditional update takes a due time in the same transaction that creates its run,
so each run starts once, however many schedulers there are. Times missed while the site was down lead to a single run.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING, Any, Final, Self
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator
from django.db import models, transaction
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, gettext_noop

from agents.attachments import Attachment, find, of_its_own

if TYPE_CHECKING:
    from django.contrib.auth.models import User

    from agents.models import AgentRun

MAX_SCHEDULES: Final = 50
"""Per user."""


class ScheduledRunQuerySet(models.QuerySet["ScheduledRun"]):
    def for_user(self, user: User | AnonymousUser) -> Self:
        return self.filter(user_id=user.pk) if user.is_authenticated else self.none()

    def due(self) -> Self:
        return self.filter(is_active=True, next_at__lte=timezone.now())


class Every(models.TextChoices):
    HOUR = "hour", gettext_lazy("Every hour")
    DAY = "day", gettext_lazy("Every day")
    WEEK = "week", gettext_lazy("Every week")


class ScheduledRun(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="scheduled_runs")
    agent = models.SlugField(max_length=50)
    input = models.TextField()
    options = models.JSONField(default=dict)
    attachment_ids = models.JSONField(default=list)
    """Files attached to each run, in their order; they belong to the schedule."""
    provider = models.CharField(max_length=50, blank=True)
    model = models.CharField(max_length=200, blank=True)
    max_cost_usd = models.DecimalField(max_digits=10, decimal_places=4, null=True, blank=True)
    mail_when_done = models.BooleanField(default=False)
    webhook_when_done = models.BooleanField(default=False)
    every = models.CharField(max_length=4, choices=Every)
    at = models.TimeField()
    """In the user's time zone; an hourly schedule uses only the minutes."""
    weekday = models.PositiveSmallIntegerField(default=0, validators=[MaxValueValidator(6)])
    """For weekly schedules; Monday is 0."""
    time_zone = models.CharField(max_length=64, default="UTC")
    is_active = models.BooleanField(default=True)
    problem = models.CharField(max_length=300, blank=True)
    """Why it was switched off, or why its last time was skipped."""
    token_id = models.UUIDField(null=True, blank=True, editable=False)
    """Of the access token that created it; its runs depend on that token."""
    next_at = models.DateTimeField()
    last_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects = ScheduledRunQuerySet.as_manager()

    class Meta:
        indexes = [
            models.Index(fields=["is_active", "next_at"]),
            models.Index(fields=["user", "-created_at"]),
        ]

    def __str__(self) -> str:
        return f"Schedule {self.pk}"

    def time_after(self, moment: datetime) -> datetime:
        """The first time after this moment, in UTC. A local time skipped by a clock change is an hour later."""
        zone = ZoneInfo(self.time_zone)
        local = moment.astimezone(zone)
        if self.every == Every.HOUR:
            first = local.astimezone(UTC) - timedelta(minutes=local.minute - self.at.minute)
            step, first = timedelta(hours=1), first.replace(second=0, microsecond=0)
            return first if first > moment else first + step
        day = local.date()
        if self.every == Every.WEEK:
            day += timedelta(days=(self.weekday - day.weekday()) % 7)
        step = timedelta(days=7 if self.every == Every.WEEK else 1)
        while True:
            found = datetime.combine(day, self.at, zone).astimezone(UTC)
            if found > moment:
                return found
            day += step


def schedule_create(
    *,
    user: User,
    agent: str,
    text: str,
    every: str,
    at: time,
    weekday: int = 0,
    time_zone: str = "UTC",
    token_id: UUID | None = None,
    files: Sequence[Attachment] = (),
    **how: Any,
) -> ScheduledRun:
    """``files`` are attached to each run; one that something else uses is copied.

    ``how``: provider, model, options, max_cost_usd, mail_when_done and webhook_when_done, as ``runs.run_create``.
    Raises ValidationError.
    """
    from agents import runs

    if every not in Every.values:
        raise ValidationError({"every": [_("Choose hour, day or week.")]})
    if not 0 <= weekday <= 6:
        raise ValidationError({"weekday": [_("Give a day of the week from 0 (Monday) to 6.")]})
    checked = runs.run_checked(user=user, agent=agent, text=text, files=files, **how)
    schedule = ScheduledRun(
        user=user,
        every=every,
        at=at.replace(second=0, microsecond=0, tzinfo=None),
        weekday=weekday,
        time_zone=_checked_zone(time_zone),
        token_id=token_id,
        **checked,
    )
    schedule.next_at = schedule.time_after(timezone.now())
    with transaction.atomic():
        if ScheduledRun.objects.for_user(user).count() >= MAX_SCHEDULES:
            words = _("You have %(most)s schedules, which is as many as fit. Remove one first.")
            raise ValidationError({"every": [words % {"most": MAX_SCHEDULES}]})
        own = [of_its_own(user, file) for file in files]
        schedule.attachment_ids = [str(file.pk) for file in own]
        schedule.save()
        Attachment.objects.filter(pk__in=[file.pk for file in own]).update(schedule=schedule)
    return schedule


def _checked_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        words = _("There is no time zone of this name. Give one such as Europe/Berlin.")
        raise ValidationError({"time_zone": [words]}) from None
    return name


def schedule_switch(*, user: User, schedule_id: UUID, is_active: bool) -> ScheduledRun:
    schedule = ScheduledRun.objects.for_user(user).get(pk=schedule_id)
    schedule.is_active, schedule.problem = is_active, ""
    schedule.next_at = schedule.time_after(timezone.now())
    schedule.save(update_fields=["is_active", "problem", "next_at", "updated_at"])
    return schedule


def schedule_delete(*, user: User, schedule_id: UUID) -> None:
    """Its runs stay; its files are deleted with the last of them."""
    with transaction.atomic():
        schedule = ScheduledRun.objects.for_user(user).get(pk=schedule_id)
        last = schedule.runs.order_by("-created_at").first()
        Attachment.objects.filter(schedule=schedule).update(run=last)
        schedule.delete()


def files_of(schedule: ScheduledRun) -> list[Attachment]:
    """In their order, without content. Raises ValidationError if one was deleted."""
    return find(schedule.user, schedule.attachment_ids)


STILL_OPEN = gettext_noop("The last time was passed over: the run before it had not ended.")


def schedule_start(schedule: ScheduledRun) -> AgentRun | None:
    """Take the due time and create its run, for the caller to hand to a worker; None if another scheduler took it, or
    no run may start.
    """
    from agents import runs
    from agents.models import AgentRun

    now = timezone.now()
    due = ScheduledRun.objects.filter(pk=schedule.pk, next_at=schedule.next_at, is_active=True)
    with transaction.atomic():
        if not due.update(next_at=schedule.time_after(now), last_at=now, problem=""):
            return None
        row = ScheduledRun.objects.filter(pk=schedule.pk)
        if not schedule.user.is_active:
            row.update(is_active=False)
            return None
        if AgentRun.objects.open().filter(schedule=schedule).exists():
            row.update(problem=STILL_OPEN)
            return None
        try:
            with transaction.atomic():
                run = runs.run_create(
                    user=schedule.user,
                    agent=schedule.agent,
                    text=schedule.input,
                    token_id=schedule.token_id,
                    files=files_of(schedule),
                    **{name: getattr(schedule, name) for name in runs.HOW},
                )
                AgentRun.objects.filter(pk=run.pk).update(schedule=schedule, due_at=schedule.next_at)
        except ValidationError as error:
            row.update(is_active=False, problem=" ".join(error.messages)[:300])
            return None
    return run
