"""The ledger by days (UTC): sums of UsageRecord, so that a year of it can be shown at once."""

from __future__ import annotations

from typing import Final, Self

from django.conf import settings
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.db import models

from llm_credentials.models.usage import UsageRecord

LATENCY_BOUNDS_MS: Final = (100, 200, 350, 500, 750, 1000, 1500, 2000, 3000, 5000, 8000, 12000, 20000, 30000, 60000)
"""Upper ends, inclusive, of the classes in which latencies are counted; a last class holds what took longer."""
LATENCY_FIELDS: Final = (*(f"latency_to_{bound}_ms" for bound in LATENCY_BOUNDS_MS), "latency_longer")


class UsageSums(models.Model):
    """Sums over attempts that have ended; those under way are in no sum. Unknown values are in no sum either."""

    day = models.DateField()
    provider = models.CharField(max_length=40)
    model = models.CharField(max_length=200, blank=True, default="")
    task = models.CharField(max_length=60, blank=True, default="")
    credential_id = models.UUIDField(null=True, blank=True)
    key_owner = models.CharField(max_length=8, choices=UsageRecord.KeyOwner)

    requests = models.PositiveBigIntegerField()
    errors = models.PositiveBigIntegerField()
    estimated = models.PositiveBigIntegerField()
    """Of the requests: those whose numbers are an estimate."""
    unpriced = models.PositiveBigIntegerField()
    """Of the requests: those whose cost is unknown. They add nothing to the cost."""
    input_tokens = models.PositiveBigIntegerField()
    output_tokens = models.PositiveBigIntegerField()
    cache_read_tokens = models.PositiveBigIntegerField()
    cache_write_tokens = models.PositiveBigIntegerField()
    reasoning_tokens = models.PositiveBigIntegerField()
    cost_usd_e8 = models.BigIntegerField()
    """In units of 1e-8 US dollars, the ledger's last decimal: whole numbers add up exactly in every database."""
    latency_ms = models.PositiveBigIntegerField()
    """The sum over the requests that were answered; how many they are is the sum of the classes."""
    ttft_ms = models.PositiveBigIntegerField()
    ttft_count = models.PositiveBigIntegerField()

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return f"{self.day} {self.provider} {self.model}: {self.requests}"


for _name in LATENCY_FIELDS:
    UsageSums.add_to_class(_name, models.PositiveBigIntegerField())


class UsageDayQuerySet(models.QuerySet["UsageDay"]):
    def for_user(self, user: AbstractBaseUser | AnonymousUser) -> Self:
        return self.filter(user_id=user.pk) if user.pk is not None else self.none()


class UsageDay(UsageSums):
    """Of one user. The sums outlive their user, whose they are then no longer told."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="llm_usage_days",
        db_index=False,  # the index below begins with it
    )

    objects = UsageDayQuerySet.as_manager()

    class Meta:
        db_table = "llm_usage_days"
        indexes = [
            models.Index(fields=["user", "day"], name="usage_days_by_user"),
            models.Index(fields=["day"], name="usage_days_by_day"),
        ]


class SiteUsageDay(UsageSums):
    """Of all users together, for staff. ``credential_id`` stands for keys of the site only."""

    class Meta:
        db_table = "llm_site_usage_days"
        indexes = [models.Index(fields=["day"], name="site_usage_days_by_day")]


class RolledDay(models.Model):
    """A day whose sums stand in the two tables above. ``rolled_at`` null: they have to be made anew."""

    day = models.DateField(primary_key=True)
    rolled_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "llm_rolled_days"

    def __str__(self) -> str:
        return str(self.day)
