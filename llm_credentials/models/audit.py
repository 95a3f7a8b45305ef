"""Audit events: who did what to what. Rows are written once, and each signature covers the previous one."""

from __future__ import annotations

from typing import Any, Self
from uuid import uuid4

from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.db import models


class AuditEventQuerySet(models.QuerySet["AuditEvent"]):
    def for_user(self, user: AbstractBaseUser | AnonymousUser) -> Self:
        """Events about this user's keys and account, whoever caused them."""
        return self.filter(subject=str(user.pk)) if user.pk is not None else self.none()

    def recent_first(self) -> Self:
        return self.order_by("-at", "-seq", "shard")


class AuditEvent(models.Model):
    """Append-only: the database itself refuses UPDATE and DELETE. Never holds a key or a person's name or address."""

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    shard = models.PositiveSmallIntegerField(editable=False)
    """The chain it belongs to; there are several, so that writers rarely wait for each other."""
    seq = models.PositiveBigIntegerField(editable=False)
    """Its position in the chain, from 1 without gaps."""
    at = models.DateTimeField()
    actor = models.CharField(max_length=40, blank=True, default="")
    """Id of the user who did it, not a foreign key because events outlive users; empty: the site itself, or unknown."""
    subject = models.CharField(max_length=40, blank=True, default="")
    """Id of the user whose key or account it was; empty for the site's own."""
    action = models.CharField(max_length=40)
    target = models.CharField(max_length=200, blank=True, default="")
    """The affected object, as ``kind:…:id``."""
    result = models.CharField(max_length=40, default="ok")
    ip = models.CharField(max_length=45, blank=True, default="")
    """The caller's network (/24, /48) instead of the full address, because the row stays when a person leaves."""
    request_id = models.CharField(max_length=64, blank=True, default="")
    channel = models.CharField(max_length=10, blank=True, default="")
    """How the request came in: page, api, gateway, job or python."""
    key_id = models.CharField(max_length=32, editable=False)
    """Id of the encryption key whose audit key signed it."""
    previous = models.CharField(max_length=64, editable=False)
    """The ``mac`` of the previous event in its chain."""
    mac = models.CharField(max_length=64, editable=False)
    """HMAC-SHA256 in hex over all other fields."""

    objects = AuditEventQuerySet.as_manager()

    class Meta:
        db_table = "audit_events"
        constraints = [models.UniqueConstraint(fields=["shard", "seq"], name="one_event_a_place")]
        indexes = [
            models.Index(fields=["subject", "-at"], name="audit_by_subject_and_time"),
            models.Index(fields=["-at"], name="audit_by_time"),
        ]

    def __str__(self) -> str:
        return f"{self.action} {self.target} {self.at:%Y-%m-%d %H:%M}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("Audit events are written by audit.record() alone.")

    def delete(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("Audit events are not deleted; old ones are archived by audit_archive.")


class AuditHead(models.Model):
    """The end of a chain; advanced by compare-and-swap with each group of events."""

    shard = models.PositiveSmallIntegerField(primary_key=True)
    seq = models.PositiveBigIntegerField(default=0)
    mac = models.CharField(max_length=64)
    key_id = models.CharField(max_length=32, blank=True, default="")
    seal = models.CharField(max_length=64, blank=True, default="")
    """HMAC over the other fields."""

    class Meta:
        db_table = "audit_heads"

    def __str__(self) -> str:
        return f"chain {self.shard}, {self.seq} events"


class AuditCheckpoint(models.Model):
    """Replaces an archived part of a chain, which continues from its ``mac``. Append-only too."""

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    shard = models.PositiveSmallIntegerField()
    seq = models.PositiveBigIntegerField()
    """The last archived event."""
    mac = models.CharField(max_length=64)
    archive_sha256 = models.CharField(max_length=64)
    """Of the archive file."""
    key_id = models.CharField(max_length=32)
    seal = models.CharField(max_length=64)
    at = models.DateTimeField()

    class Meta:
        db_table = "audit_checkpoints"
        constraints = [models.UniqueConstraint(fields=["shard", "seq"], name="one_checkpoint_a_place")]

    def __str__(self) -> str:
        return f"chain {self.shard}, archived up to {self.seq}"


class AuditKey(models.Model):
    """The audit key of one encryption key, sealed under the ring, so that signatures can be verified after it left the
    ring.
    """

    key_id = models.CharField(max_length=32, primary_key=True)
    sealed = models.TextField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "audit_keys"

    def __str__(self) -> str:
        return self.key_id
