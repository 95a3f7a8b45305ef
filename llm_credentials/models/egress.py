"""Addresses beyond the public internet that staff let this site call."""

from __future__ import annotations

from typing import Self
from uuid import uuid4

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from llm_credentials.providers import EgressBlocked, egress


class EgressAllowanceQuerySet(models.QuerySet["EgressAllowance"]):
    def in_order(self) -> Self:
        return self.order_by("host", "port")


class EgressAllowance(models.Model):
    """A host, address or network with one port that may be private and plain http. Users can never set one."""

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    host = models.CharField(_("host or network"), max_length=253)
    port = models.PositiveIntegerField(validators=[MinValueValidator(1), MaxValueValidator(65535)])
    for_providers = models.BooleanField(_("for calls with keys"), default=True)
    for_tools = models.BooleanField(_("for pages that agents read"), default=False)
    note = models.CharField(max_length=200, blank=True, default="")
    added_by = models.CharField(max_length=40, blank=True, default="", editable=False)
    """Id of the staff member; not a foreign key, because the allowance outlives the account."""
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects = EgressAllowanceQuerySet.as_manager()

    class Meta:
        db_table = "egress_allowances"
        verbose_name = _("allowed address")
        verbose_name_plural = _("allowed addresses")
        constraints = [
            models.UniqueConstraint(
                fields=["host", "port"],
                name="one_allowance_a_destination",
                violation_error_message=_("This host and port are allowed already."),
            ),
            models.CheckConstraint(
                condition=Q(for_providers=True) | Q(for_tools=True),
                name="allowance_is_for_something",
                violation_error_message=_("Choose what it is for."),
            ),
        ]

    def __str__(self) -> str:
        return self.entry

    @property
    def entry(self) -> str:
        """In the format of a policy's entries."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def clean(self) -> None:
        """Normalises the host and rejects addresses that are never called. Raises ValidationError on ``host``."""
        if self.host and self.port:
            self.host = normal_host(self.host, self.port)


def normal_host(host: str, port: int) -> str:
    """Raises ValidationError."""
    try:
        entry = egress.allowance(host, port)
    except EgressBlocked as refusal:
        raise ValidationError({"host": [str(refusal)]}) from None
    return entry.rpartition(":")[0].removeprefix("[").removesuffix("]")
