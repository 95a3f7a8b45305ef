"""Keys of users, keys of the site, and the canary that detects a wrong key ring."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any, ClassVar, Self, TypeVar

from django.conf import settings
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.db import models

from llm_credentials import conf
from llm_credentials.models.sealed import MASK, LLMCredential
from llm_credentials.providers import CredentialUnreadable, ProviderSpec, get_spec, spec_or_none

Row = TypeVar("Row", bound=LLMCredential)


class CredentialQuerySet(models.QuerySet[Row]):
    def active(self) -> Self:
        return self.filter(is_active=True)

    def for_provider(self, slug: str) -> Self:
        return self.filter(provider=slug)

    def in_order(self) -> Self:
        """Smallest priority first, then oldest first."""
        return self.order_by("priority", "created_at", "id")


class UserCredentialQuerySet(CredentialQuerySet["UserCredential"]):
    def for_user(self, user: AbstractBaseUser | AnonymousUser) -> Self:
        return self.filter(user_id=user.pk) if user.pk is not None else self.none()


_Credentials = models.Manager.from_queryset(UserCredentialQuerySet)


class StoredCredentials(_Credentials["UserCredential"]):
    """The default manager: hides removed keys, so that no code uses them by accident."""

    def get_queryset(self) -> UserCredentialQuerySet:
        return UserCredentialQuerySet(self.model, using=self._db).filter(removed_at__isnull=True)


class UserCredential(LLMCredential):
    """A user's own key for one provider."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="llm_credentials")
    removed_at = models.DateTimeField(null=True, blank=True, editable=False)
    """When it was removed. It is out of use and will be destroyed unless that is undone (``removal.py``)."""

    objects = StoredCredentials()
    with_removed = UserCredentialQuerySet.as_manager()

    class Meta:
        db_table = "user_llm_credentials"
        constraints = [
            models.UniqueConstraint(
                fields=["user", "provider", "name"],
                condition=models.Q(removed_at__isnull=True),
                name="one_credential_per_name",
            )
        ]
        indexes = [
            models.Index(fields=["user", "priority", "created_at"], name="credentials_in_order"),
            models.Index(
                fields=["removed_at"], condition=models.Q(removed_at__isnull=False), name="credentials_removed"
            ),
        ]

    def owner_ref(self) -> str:
        return str(self.user_id)


class SystemCredentialQuerySet(CredentialQuerySet["SystemCredential"]):
    pass


class SystemCredential(LLMCredential):
    """A key of the site, for users without their own. Staff only."""

    objects = SystemCredentialQuerySet.as_manager()

    class Meta:
        db_table = "system_llm_credentials"
        constraints = [models.UniqueConstraint(fields=["provider", "name"], name="one_system_credential_per_name")]

    def owner_ref(self) -> str:
        return "system"


_PROCESS_SECRET = secrets.token_bytes(32)


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvironmentCredential:
    """A key of the site from its environment: read-only, with the interface of a SystemCredential."""

    provider: str
    model: str = ""
    base_url: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    _key: str = field(repr=False)

    id: ClassVar[None] = None
    pk: ClassVar[None] = None
    name: ClassVar[str] = "environment"
    source: ClassVar[str] = "environment"
    is_active: ClassVar[bool] = True
    priority: ClassVar[int] = 1_000_000
    status: ClassVar[str] = LLMCredential.Status.UNVERIFIED
    status_detail: ClassVar[str] = ""
    needs_reentry: ClassVar[bool] = False
    is_lost: ClassVar[bool] = False
    tested_at: ClassVar[datetime | None] = None
    last_used_at: ClassVar[datetime | None] = None
    request_count: ClassVar[int] = 0
    fingerprint: ClassVar[str] = ""

    def __str__(self) -> str:
        return f"{self.provider_label} · {self.name}"

    def __reduce__(self) -> str:
        raise TypeError("A key from the environment is never pickled.")

    def reveal(self) -> str:
        """The plain key. Only ``opening.open_client`` calls this."""
        if not self._key and self.spec.key_required:
            raise CredentialUnreadable(provider=self.provider)
        return self._key

    def is_key(self, plain: str) -> bool:
        return bool(self._key) and hmac.compare_digest(self._key.encode(), plain.encode("utf-8", "replace"))

    @property
    def has_key(self) -> bool:
        return bool(self._key)

    @property
    def spec(self) -> ProviderSpec:
        return get_spec(self.provider)

    @property
    def spec_or_none(self) -> ProviderSpec:
        return self.spec

    @property
    def provider_label(self) -> str:
        return self.spec.label

    @property
    def last4(self) -> str:
        return self._key[-4:] if len(self._key) >= LLMCredential.LAST4_FROM_LENGTH else ""

    @property
    def masked(self) -> str:
        return f"{MASK} {self.last4}".strip() if self._key else ""

    @property
    def shown_status(self) -> LLMCredential.Status:
        return LLMCredential.Status.UNVERIFIED

    @property
    def version(self) -> int:
        """Changes with key, address or model; meaningful within this process only."""
        seen = hmac.new(_PROCESS_SECRET, "\0".join((self._key, self.base_url, self.model)).encode(), sha256)
        return int.from_bytes(seen.digest()[:6], "big")


def environment_credentials() -> list[EnvironmentCredential]:
    """Keys from the environment by provider slug; unknown providers and empty keys are skipped."""
    found = []
    for slug, values in sorted(conf.system_keys().items()):
        spec = spec_or_none(slug)
        if spec is None:
            continue
        key = (values.get("api_key") or "").strip()
        if not key and (spec.key_required or not values.get("base_url")):
            continue
        found.append(
            EnvironmentCredential(
                provider=slug,
                _key=key,
                model=values.get("model") or "",
                base_url=values.get("base_url") or "",
                options=values.get("options") or {},
            )
        )
    return found


def system_credentials() -> list[SystemCredential | EnvironmentCredential]:
    """The site's active keys in order: those that staff stored, then those from the environment."""
    return [*SystemCredential.objects.active().in_order(), *environment_credentials()]


class KeyringCanary(models.Model):
    """A known text sealed under one encryption key. If it does not open, that key has changed."""

    key_id = models.CharField(max_length=32, primary_key=True)
    sealed = models.TextField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "keyring_canaries"
        verbose_name_plural = "keyring canaries"

    def __str__(self) -> str:
        return self.key_id
