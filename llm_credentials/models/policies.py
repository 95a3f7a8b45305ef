"""What staff allow groups of users and single users."""

from __future__ import annotations

from typing import Self
from uuid import uuid4

from django.conf import settings
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser, Group
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from llm_credentials.routing.policy import Policy


class GroupPolicyQuerySet(models.QuerySet["GroupPolicy"]):
    def for_user(self, user: AbstractBaseUser | AnonymousUser) -> Self:
        """Policies for everybody and for the user's groups."""
        return self.filter(Q(group__isnull=True) | Q(group__user=user.pk)) if user.pk is not None else self.none()


class GroupPolicy(models.Model):
    """All policies that apply to a user must allow a thing; see ``routing.policy``."""

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    group = models.ForeignKey(Group, on_delete=models.CASCADE, null=True, blank=True, related_name="llm_policies")
    """``None``: everybody."""
    allowed_providers = models.JSONField(blank=True, default=list)
    """Slugs; empty: all."""
    allowed_models = models.JSONField(blank=True, default=list)
    """Patterns ``provider/model``; empty: all."""
    own_keys = models.BooleanField(default=True)
    custom_addresses = models.BooleanField(default=True)
    system_keys = models.BooleanField(default=True)
    system_daily_usd = models.DecimalField(
        max_digits=10, decimal_places=2, null=True, blank=True, validators=[MinValueValidator(0)]
    )
    """Per user and day; empty: no limit from this policy."""
    rates = models.JSONField(blank=True, default=dict)
    """Kind of call → rate such as ``10/m``."""
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects = GroupPolicyQuerySet.as_manager()

    class Meta:
        db_table = "llm_group_policies"
        verbose_name = "policy"
        verbose_name_plural = "policies"

    def __str__(self) -> str:
        return f"Policy for {self.group.name if self.group else 'everybody'}"

    @property
    def value(self) -> Policy:
        return Policy(
            providers=(frozenset(self.allowed_providers),) if self.allowed_providers else (),
            models=(tuple(self.allowed_models),) if self.allowed_models else (),
            own_keys=self.own_keys,
            custom_addresses=self.custom_addresses,
            system_keys=self.system_keys,
            system_daily_usd=self.system_daily_usd,
            rates={kind: (rate,) for kind, rate in self.rates.items()},
        )


class UserAllowance(models.Model):
    """One user's daily allowance on the site's keys; overrides those of the site and of policies."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, primary_key=True, related_name="llm_allowance"
    )
    daily_usd = models.DecimalField(max_digits=10, decimal_places=2, validators=[MinValueValidator(0)])
    note = models.CharField(max_length=200, blank=True, default="")
    """The reason, for other staff."""
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        db_table = "llm_user_allowances"
        verbose_name = _("allowance of a user")
        verbose_name_plural = _("allowances of users")

    def __str__(self) -> str:
        return f"${self.daily_usd} a day for user {self.user_id}"
