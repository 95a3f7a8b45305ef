"""Daily sums (UTC) of UsageRecord, so that pages can show a year without scanning the ledger."""

from __future__ import annotations

from typing import Final, Self

from django.conf import settings
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.db import models

from llm_credentials.models.usage import UsageRecord

LATENCY_BOUNDS_MS: Final = (100, 200, 350, 500, 750, 1000, 1500, 2000, 3000, 5000, 8000, 12000, 20000, 30000, 60000)
"""Inclusive upper bounds of the latency histogram's buckets; one more bucket holds everything slower."""
LATENCY_FIELDS: Final = (*(f"latency_to_{bound}_ms" for bound in LATENCY_BOUNDS_MS), "latency_longer")


class UsageSums(models.Model):
    """Sums over finished attempts, without those in progress. Unknown values are not summed."""

    day = models.DateField()
    provider = models.CharField(max_length=40)
    model = models.CharField(max_length=200, blank=True, default="")
    task = models.CharField(max_length=60, blank=True, default="")
    credential_id = models.UUIDField(null=True, blank=True)
    key_owner = models.CharField(max_length=8, choices=UsageRecord.KeyOwner)

    requests = models.PositiveBigIntegerField()
    errors = models.PositiveBigIntegerField()
    estimated = models.PositiveBigIntegerField()
    """Requests whose token counts are estimates."""
    unpriced = models.PositiveBigIntegerField()
    """Requests of unknown cost, which are not in the cost sum."""
    input_tokens = models.PositiveBigIntegerField()
    output_tokens = models.PositiveBigIntegerField()
    cache_read_tokens = models.PositiveBigIntegerField()
    cache_write_tokens = models.PositiveBigIntegerField()
    reasoning_tokens = models.PositiveBigIntegerField()
    cost_usd_e8 = models.BigIntegerField()
    """In units of 1e-8 US dollars, the ledger's precision: integers add up exactly in every database."""
    latency_ms = models.PositiveBigIntegerField()
    """Sum over the answered requests; the histogram's buckets add up to their number."""
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
    """Of one user. The sums outlive the user and then have no owner."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="llm_usage_days",
        db_index=False,  # a prefix of the index below
    )

    objects = UsageDayQuerySet.as_manager()

    class Meta:
        db_table = "llm_usage_days"
        indexes = [
            models.Index(fields=["user", "day"], name="usage_days_by_user"),
            models.Index(fields=["day"], name="usage_days_by_day"),
        ]


class SiteUsageDay(UsageSums):
    """Of all users together, for staff. Only the site's keys have a ``credential_id``."""

    class Meta:
        db_table = "llm_site_usage_days"
        indexes = [models.Index(fields=["day"], name="site_usage_days_by_day")]


class RolledDay(models.Model):
    """A day whose sums are in the two tables above. ``rolled_at`` null: they must be recomputed."""

    day = models.DateField(primary_key=True)
    rolled_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "llm_rolled_days"

    def __str__(self) -> str:
        return str(self.day)
