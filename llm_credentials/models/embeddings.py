"""Vector indexes: they record which model made which vectors, so that only comparable vectors are compared."""

from __future__ import annotations

from datetime import timedelta
from typing import Final
from uuid import uuid4

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

HEARTBEAT_LOST_AFTER: Final = timedelta(minutes=2)


class EmbeddingIndex(models.Model):
    """One provider, model and dimension; the vectors are stored with the objects they represent."""

    class State(models.TextChoices):
        ACTIVE = "active", _("in use")
        BUILDING = "building", _("being made")
        RETIRED = "retired", _("replaced")

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    provider = models.CharField(max_length=40)
    model = models.CharField(max_length=200)
    dimension = models.PositiveIntegerField(null=True, blank=True)
    """Dimension of its vectors, set by the first of them."""
    state = models.CharField(max_length=10, choices=State, default=State.ACTIVE)
    heartbeat_at = models.DateTimeField(null=True, blank=True, editable=False)
    """When its builder last made progress."""
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        db_table = "embedding_index"
        verbose_name_plural = _("embedding indexes")
        constraints = [
            models.UniqueConstraint(
                fields=["state"], condition=models.Q(state__in=("active", "building")), name="one_index_of_each_state"
            )
        ]

    def __str__(self) -> str:
        return f"{self.provider} {self.model}"

    def claim(self) -> bool:
        """Whether this process may build it, because no other has worked on it recently."""
        now = timezone.now()
        free = models.Q(heartbeat_at=None) | models.Q(heartbeat_at__lt=now - HEARTBEAT_LOST_AFTER)
        rows = EmbeddingIndex.objects.filter(free, pk=self.pk, state=self.State.BUILDING)
        return bool(rows.update(heartbeat_at=now))
