"""Model preferences of users and staff, apart from the keys."""

from __future__ import annotations

from typing import Self
from uuid import uuid4

from django.conf import settings
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from llm_credentials.models.credentials import UserCredential


class LLMSettings(models.Model):
    """One row per user; without a row the defaults apply."""

    class Strategy(models.TextChoices):
        PRIORITY = "priority", _("In my order")
        CHEAPEST = "cheapest", _("Cheapest first")
        FASTEST = "fastest", _("Fastest first")
        BALANCED = "balanced", _("Balanced")

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, primary_key=True, related_name="llm_settings"
    )
    default_provider = models.CharField(max_length=40, blank=True, default="")
    """Empty: the first of the user's own chain, else the site's."""
    fallback_to_system = models.BooleanField(default=True)
    temperature = models.FloatField(null=True, blank=True)
    max_tokens = models.PositiveIntegerField(null=True, blank=True)
    strategy = models.CharField(max_length=16, choices=Strategy, default=Strategy.PRIORITY)
    monthly_budget_usd = models.DecimalField(max_digits=10, decimal_places=2, null=True, blank=True)
    run_budget_usd = models.DecimalField(max_digits=10, decimal_places=2, null=True, blank=True)
    """Most that one background run may cost, on anybody's keys; runs may ask for less."""
    budget_stops = models.BooleanField(default=True)
    """Whether calls on the user's own keys stop at the budget; otherwise the user is only notified."""
    alerts = models.BooleanField(default=True)
    """Whether any alert is mailed."""
    muted = models.JSONField(default=list, blank=True)
    """Kinds of alerts that are not mailed."""
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        db_table = "llm_settings"
        verbose_name = _("LLM settings")
        verbose_name_plural = _("LLM settings")

    def __str__(self) -> str:
        return f"Settings of user {self.user_id}"

    @classmethod
    def of(cls, user: AbstractBaseUser) -> LLMSettings:
        """The user's row, or an unsaved one with the defaults."""
        return cls.objects.filter(user_id=user.pk).first() or cls(user_id=user.pk)


class TaskOverrideQuerySet(models.QuerySet["TaskOverride"]):
    def for_user(self, user: AbstractBaseUser | AnonymousUser) -> Self:
        return self.filter(user_id=user.pk) if user.pk is not None else self.none()


class TaskOverride(models.Model):
    """Another key, provider or model for one kind of task. ``null`` and empty mean "inherited"."""

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="llm_task_overrides")
    task = models.CharField(max_length=60)
    credential = models.ForeignKey(UserCredential, on_delete=models.SET_NULL, null=True, blank=True)
    provider = models.CharField(max_length=40, blank=True, default="")
    model = models.CharField(max_length=200, blank=True, default="")
    temperature = models.FloatField(null=True, blank=True)
    max_tokens = models.PositiveIntegerField(null=True, blank=True)
    fallback_to_system = models.BooleanField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects = TaskOverrideQuerySet.as_manager()

    class Meta:
        db_table = "llm_task_overrides"
        constraints = [
            models.UniqueConstraint(fields=["user", "task"], name="one_override_per_task"),
            models.CheckConstraint(
                condition=Q(credential__isnull=True) | Q(provider=""), name="override_names_credential_or_provider"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.task} of user {self.user_id}"


class SystemConfig(models.Model):
    """A site setting that staff change at runtime. ``value`` never holds a key; it names a SystemCredential."""

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    category = models.CharField(max_length=50)
    key = models.CharField(max_length=100)
    value = models.JSONField()
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        db_table = "system_config"
        verbose_name_plural = _("system config")
        constraints = [models.UniqueConstraint(fields=["category", "key"], name="one_value_per_config_key")]

    def __str__(self) -> str:
        return f"{self.category}/{self.key}"
