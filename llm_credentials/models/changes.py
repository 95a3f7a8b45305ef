"""Recent changes, by which processes invalidate their caches."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now


class Change(models.Model):
    """A change of something that routes depend on. Triggers write it in the transaction of the change itself.

    Rows matter for seconds and are removed after some minutes. PostgreSQL adds a column ``xid``, the transaction that
    wrote the row, by which readers find what was committed since they last looked.
    """

    id = models.BigAutoField(primary_key=True)
    subject = models.CharField(max_length=64, blank=True, default="", db_default="")
    """The user's primary key as text; empty for the site."""
    at = models.DateTimeField(db_default=Now(), db_index=True)

    class Meta:
        db_table = "llm_changes"

    def __str__(self) -> str:
        return self.subject or "the site"
