"""Alerts that owners see on pages, and the webhooks that also receive them."""

from __future__ import annotations

from typing import Final, Self
from uuid import uuid4

from django.conf import settings
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_variables

from llm_credentials.fields import SealedField, Unreadable
from llm_credentials.models.credentials import UserCredential

Status = UserCredential.Status

STATUS_OF: Final = {
    "key_refused": Status.INVALID,
    "key_spent": Status.ERROR,
    "key_needs_reentry": Status.NEEDS_REENTRY,
}
"""Kind of alert → the key's status while the alert holds."""


class AlertQuerySet(models.QuerySet["Alert"]):
    def for_user(self, user: AbstractBaseUser | AnonymousUser) -> Self:
        return self.filter(user_id=user.pk) if user.pk is not None else self.none()

    def holding(self, month: str) -> Self:
        """Alerts still true: the key is active and has the alert's status; for budgets, those of this month."""
        stored = Q(credential__removed_at__isnull=True, credential__is_active=True)
        as_said = Q(kind="key_limited", credential__status_detail=F("detail"))
        for kind, status in STATUS_OF.items():
            as_said |= Q(kind=kind, credential__status=status)
        return self.filter(Q(credential__isnull=True, period__in=("", month)) | (stored & as_said))


class Alert(models.Model):
    """The last deterioration of a key, or of the month's budget. A new one replaces it."""

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="llm_alerts")
    kind = models.CharField(max_length=40)
    """One of ``notices.Kind``."""
    credential = models.ForeignKey(UserCredential, on_delete=models.CASCADE, null=True, blank=True)
    period = models.CharField(max_length=7, blank=True, default="")
    """For budgets: the month, such as 2026-01."""
    detail = models.CharField(max_length=500, blank=True, default="")
    at = models.DateTimeField()
    told_at = models.DateTimeField(null=True, blank=True)
    """When mail and webhook were handled."""
    dismissed_at = models.DateTimeField(null=True, blank=True)

    objects = AlertQuerySet.as_manager()

    class Meta:
        db_table = "llm_alerts"
        constraints = [
            models.UniqueConstraint(
                fields=["credential"], condition=Q(credential__isnull=False), name="one_alert_per_key"
            ),
            models.UniqueConstraint(
                fields=["user", "kind", "period"], condition=Q(credential__isnull=True), name="one_alert_per_period"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} of user {self.user_id}"


class Webhook(models.Model):
    """A user's own endpoint for alerts. Its secret is bound to the address for which it was made."""

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    user = models.OneToOneField(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="llm_webhook")
    url = models.CharField(max_length=2048)
    secret = SealedField(null=True, blank=True)
    muted = models.JSONField(default=list)
    """Kinds of alerts that are not sent."""
    failures = models.PositiveIntegerField(default=0)
    """Consecutive deliveries that were given up."""
    disabled_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        db_table = "llm_webhooks"

    def __str__(self) -> str:
        return f"Webhook of user {self.user_id}"

    def sealing_context(self, field: SealedField) -> str:
        return "|".join((f"{self._meta.db_table}.{field.column}", str(self.pk), str(self.user_id), "webhook", self.url))

    @sensitive_variables()
    def seal(self, secret: str) -> None:
        """Seal the secret into the row for its current owner and address. Does not save."""
        self.secret = _secret_field().seal(self, secret)

    @sensitive_variables()
    def reveal_secret(self) -> str:
        """The signing secret. Raises Unreadable."""
        if self.secret is None:
            raise Unreadable
        return _secret_field().open(self, self.secret)

    @property
    def is_active(self) -> bool:
        return self.disabled_at is None


def _secret_field() -> SealedField:
    field = Webhook._meta.get_field("secret")
    assert isinstance(field, SealedField)
    return field


class WebhookDelivery(models.Model):
    """One message to a webhook, with its outcome."""

    class State(models.TextChoices):
        WAITING = "waiting", _("Waiting")
        DELIVERED = "delivered", _("Delivered")
        GIVEN_UP = "given_up", _("Given up")

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    webhook = models.ForeignKey(Webhook, on_delete=models.CASCADE, related_name="deliveries")
    kind = models.CharField(max_length=40)
    body = models.TextField()
    """JSON, exactly as signed and sent; the same at every attempt."""
    state = models.CharField(max_length=12, choices=State, default=State.WAITING)
    attempts = models.PositiveSmallIntegerField(default=0)
    status_code = models.PositiveSmallIntegerField(null=True, blank=True)
    detail = models.CharField(max_length=300, blank=True, default="")
    created_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "llm_webhook_deliveries"
        verbose_name_plural = _("webhook deliveries")
        indexes = [models.Index(fields=["webhook", "-created_at"], name="deliveries_by_webhook")]

    def __str__(self) -> str:
        return f"{self.kind} to {self.webhook_id}: {self.state}"
