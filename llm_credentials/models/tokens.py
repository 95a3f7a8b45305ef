"""Personal access tokens, with which programs sign in. Only a hash is stored."""

from __future__ import annotations

from typing import Self
from uuid import uuid4

from django.conf import settings
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from llm_credentials.providers.registry import specs

TOKEN_PREFIX = "ksw_"  # noqa: S105  (what tokens begin with, not one)


class PersonalAccessTokenQuerySet(models.QuerySet["PersonalAccessToken"]):
    def for_user(self, user: AbstractBaseUser | AnonymousUser) -> Self:
        return self.filter(user_id=user.pk) if user.pk is not None else self.none()

    def listed(self) -> Self:
        """Newest first, without revoked ones."""
        return self.filter(revoked_at__isnull=True).order_by("-created_at", "id")

    def usable(self) -> Self:
        """Neither revoked nor expired, and the user is active."""
        unexpired = Q(expires_at__isnull=True) | Q(expires_at__gt=timezone.now())
        return self.filter(unexpired, revoked_at__isnull=True, user__is_active=True)


class PersonalAccessToken(models.Model):
    class Scope(models.TextChoices):
        READ = "read", _("Read settings and usage")
        CREDENTIALS = "credentials", _("Store, change and delete keys")
        AGENTS = "agents", _("Run agents")
        GATEWAY = "gateway", _("Call models through the gateway")

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="access_tokens")
    name = models.CharField(max_length=100, blank=True, default="")
    prefix = models.CharField(max_length=8, db_index=True, editable=False)
    """The first eight characters after ``ksw_``, shown so that a token can be recognised."""
    hash = models.CharField(max_length=64, unique=True, editable=False)
    """SHA-256 in hex; a slow hash is unnecessary, because a token is 256 random bits."""
    scopes = models.JSONField(default=list)
    budget_usd = models.DecimalField(max_digits=10, decimal_places=2, null=True, blank=True)
    """Most that calls with it may cost a month, on any keys; ``null``: no limit of its own."""
    providers = models.JSONField(blank=True, default=list)
    """Slugs of the providers it may call; empty: all."""
    expires_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    """To the minute."""
    revoked_at = models.DateTimeField(null=True, blank=True)
    made_with = models.UUIDField(null=True, blank=True, db_index=True, editable=False)
    """The token that created this one, and whose revocation revokes it; ``null``: made in a session or by an operator.
    """
    created_at = models.DateTimeField(auto_now_add=True)

    objects = PersonalAccessTokenQuerySet.as_manager()

    class Meta:
        db_table = "personal_access_tokens"

    def __str__(self) -> str:
        return f"{TOKEN_PREFIX}{self.prefix}…"

    @property
    def is_usable(self) -> bool:
        expired = self.expires_at is not None and self.expires_at <= timezone.now()
        return self.revoked_at is None and not expired

    @property
    def scope_labels(self) -> list[str]:
        return [str(label) for scope, label in self.Scope.choices if scope in self.scopes]

    @property
    def provider_labels(self) -> list[str]:
        return [next((spec.label for spec in specs() if spec.slug == slug), slug) for slug in self.providers]

    @property
    def allows_gateway(self) -> bool:
        return self.allows(self.Scope.GATEWAY)

    def allows(self, scope: str) -> bool:
        return scope in self.scopes

    def allows_provider(self, slug: str) -> bool:
        return not self.providers or slug in self.providers
