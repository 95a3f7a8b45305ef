"""Keys and addresses of web search services."""

from __future__ import annotations

from typing import Any, Self

from django.conf import settings
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.db import models

from llm_credentials.models.sealed import LLMCredential
from llm_credentials.providers.search import SEARCH_SPECS, SearchSpec


class SearchCredentialQuerySet(models.QuerySet["SearchCredential"]):
    def for_user(self, user: AbstractBaseUser | AnonymousUser) -> Self:
        return self.filter(user_id=user.pk) if user.pk is not None else self.none()

    def active(self) -> Self:
        return self.filter(is_active=True)

    def in_order(self) -> Self:
        return self.order_by("provider", "name")


class SearchCredential(LLMCredential):
    """A user's own access to a search service: sealed, rotated and covered by the tripwire like any other key.

    ``provider`` is the service's slug. All active ones are queried at once, so they have no order.
    """

    model: Any = None
    options: Any = None
    abilities: Any = None
    priority: Any = None

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="search_credentials")

    objects = SearchCredentialQuerySet.as_manager()

    class Meta:
        db_table = "user_search_credentials"
        constraints = [
            models.UniqueConstraint(fields=["user", "provider", "name"], name="one_search_credential_per_name")
        ]

    def owner_ref(self) -> str:
        return str(self.user_id)

    @property
    def spec(self) -> SearchSpec:  # type: ignore[override]  # what lists and the tripwire ask of one, it has
        """Raises KeyError when this site no longer has the service."""
        return SEARCH_SPECS[self.provider]

    @property
    def spec_or_none(self) -> SearchSpec | None:  # type: ignore[override]
        return SEARCH_SPECS.get(self.provider)
