"""The ledger: one row per attempt at a provider."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal, Self, cast
from uuid import UUID, uuid4

from django.conf import settings
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _


class UsageRecordQuerySet(models.QuerySet["UsageRecord"]):
    def for_user(self, user: AbstractBaseUser | AnonymousUser) -> Self:
        return self.filter(user_id=user.pk) if user.pk is not None else self.none()

    def reserved(self) -> Self:
        return self.filter(state=UsageRecord.State.RESERVED)


class UsageRecord(models.Model):
    """Inserted as ``reserved`` before the call, then settled or voided once. ``null`` means unknown, never zero."""

    class State(models.TextChoices):
        RESERVED = "reserved", _("Reserved")
        SETTLED = "settled", _("Settled")
        ESTIMATED = "estimated", _("Estimated")
        VOID = "void", _("Void")

    class KeyOwner(models.TextChoices):
        USER = "user", _("Own key")
        SYSTEM = "system", _("System key")

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    call_id = models.UUIDField(default=uuid4)
    """Shared by the attempts of one call."""
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="llm_usage"
    )
    task = models.CharField(max_length=60, blank=True, default="")
    provider = models.CharField(max_length=40)
    model = models.CharField(max_length=200, blank=True, default="")
    credential_id = models.UUIDField(null=True, blank=True)
    """A user's or the system's; not a foreign key, because the ledger outlives it. ``null``: the environment's."""
    token_id = models.UUIDField(null=True, blank=True)
    """The call's access token; not a foreign key, as above. ``null``: none."""
    key_owner = models.CharField(max_length=8, choices=KeyOwner, default=KeyOwner.USER)
    state = models.CharField(max_length=12, choices=State, default=State.RESERVED)
    input_tokens = models.PositiveBigIntegerField(null=True, blank=True)
    """All prompt tokens, including cache reads and writes."""
    output_tokens = models.PositiveBigIntegerField(null=True, blank=True)
    """All generated tokens, including reasoning."""
    cache_read_tokens = models.PositiveBigIntegerField(null=True, blank=True)
    cache_write_tokens = models.PositiveBigIntegerField(null=True, blank=True)
    reasoning_tokens = models.PositiveBigIntegerField(null=True, blank=True)
    reserved_usd = models.DecimalField(max_digits=16, decimal_places=8, null=True, blank=True)
    cost_usd = models.DecimalField(max_digits=16, decimal_places=8, null=True, blank=True)
    price_source = models.CharField(max_length=60, blank=True, default="")
    latency_ms = models.PositiveIntegerField(null=True, blank=True)
    ttft_ms = models.PositiveIntegerField(null=True, blank=True)
    """From the request to a stream's first content."""
    outcome = models.CharField(max_length=40, blank=True, default="")
    """``ok`` or the error's class name."""
    at = models.DateTimeField(default=timezone.now)

    objects = UsageRecordQuerySet.as_manager()

    class Meta:
        db_table = "llm_usage_records"
        indexes = [
            models.Index(fields=["user", "at"], name="usage_by_user_and_time"),
            models.Index(fields=["at"], name="usage_by_time"),
            models.Index(fields=["at"], condition=models.Q(key_owner="system"), name="usage_of_the_site_by_time"),
            models.Index(fields=["at"], condition=models.Q(state="reserved"), name="usage_still_reserved"),
            models.Index(
                fields=["token_id", "at"], condition=models.Q(token_id__isnull=False), name="usage_by_token_and_time"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.provider} {self.model} {self.at:%Y-%m-%d %H:%M}"


class BudgetCounter(models.Model):
    """What counts towards one budget in one period. Updated in the transactions that write the counted rows."""

    id = models.CharField(primary_key=True, max_length=80)
    """``own:<user>:2026-11``, ``system:<user>:2026-11-21``, ``total:2026-11-21`` or ``token:<token>:2026-11``."""
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, null=True, related_name="+")
    """None for the budget of all users together."""
    used_e8 = models.BigIntegerField()
    """Hundred-millionths of a dollar, exact on every database; includes reservations."""
    set_at = models.BigIntegerField()
    """Microseconds since the epoch: the change of the limit for which it was last recomputed."""
    again_at = models.DateTimeField(null=True)
    """When it must be recomputed."""
    ends_at = models.DateTimeField()
    """When it can be deleted."""

    class Meta:
        db_table = "llm_budget_counters"
        indexes = [
            models.Index(fields=["ends_at"], name="budget_counter_ends"),
            models.Index(fields=["again_at"], condition=models.Q(again_at__isnull=False), name="budget_counter_again"),
        ]

    def __str__(self) -> str:
        return self.id

    @property
    def name(self) -> Literal["own", "system", "total", "token"]:
        return cast('Literal["own", "system", "total", "token"]', self.id.partition(":")[0])

    @property
    def subject(self) -> Any:
        """Owner of the counted rows: a user's id or, for ``token``, an access token's."""
        return UUID(self.id.split(":")[1]) if self.name == "token" else self.user_id

    @property
    def began(self) -> datetime:
        """Start of its period."""
        period = self.id.rpartition(":")[2]
        return datetime.fromisoformat(period if len(period) == len("2026-11-21") else f"{period}-01").replace(
            tzinfo=UTC
        )
