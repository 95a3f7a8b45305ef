"""Read-only lists of users' settings, tokens and tests."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db import models, transaction
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from llm_credentials import services
from llm_credentials.admin.bases import ViewOnly
from llm_credentials.audit import Action, note, target_of
from llm_credentials.models import ConnectionTest, LLMSettings, PersonalAccessToken
from llm_credentials.notices import Kind, notify


@admin.register(LLMSettings)
class LLMSettingsAdmin(ViewOnly):
    list_display = ("user", "default_provider", "fallback_to_system", "strategy", "monthly_budget_usd", "updated_at")
    list_filter = ("default_provider", "fallback_to_system", "strategy")
    list_select_related = ("user",)
    search_fields = ("user__username", "user__email")
    fields = (
        "user",
        "default_provider",
        "fallback_to_system",
        "temperature",
        "max_tokens",
        "strategy",
        "monthly_budget_usd",
        "budget_stops",
        "alerts",
        "created_at",
        "updated_at",
    )


@admin.register(PersonalAccessToken)
class PersonalAccessTokenAdmin(ViewOnly):
    list_display = ("__str__", "user", "name", "scope_names", "created_at", "expires_at", "last_used_at", "revoked_at")
    list_select_related = ("user",)
    search_fields = ("user__username", "user__email", "prefix")
    fields = (
        *("id", "user", "name", "prefix", "scopes", "providers", "budget_usd"),
        *("created_at", "expires_at", "last_used_at", "revoked_at"),
    )
    actions = ("revoke",)

    @admin.display(description=gettext_lazy("scopes"))
    def scope_names(self, token: PersonalAccessToken) -> str:
        return ", ".join(token.scopes)

    @admin.action(description=gettext_lazy("Revoke the selected tokens"), permissions=["delete"])
    def revoke(self, request: HttpRequest, queryset: models.QuerySet[PersonalAccessToken]) -> None:
        usable = queryset.filter(revoked_at__isnull=True)
        with transaction.atomic():
            tokens = list(usable)
            usable.update(revoked_at=timezone.now())
            for token in tokens:
                note(action=Action.TOKEN_REVOKE, subject=str(token.user_id), target=target_of("token", token.pk))
                notify(token.user_id, Kind.TOKEN_REVOKED, **services.token_facts(token))
        words = ngettext("%(n)d token is revoked.", "%(n)d tokens are revoked.", len(tokens)) % {"n": len(tokens)}
        self.message_user(request, words if tokens else _("Nothing was to be done."), messages.SUCCESS)


@admin.register(ConnectionTest)
class ConnectionTestAdmin(ViewOnly):
    list_display = ("created_at", "user", "provider", "name", "state", "finished_at")
    list_filter = ("state", "provider")
    list_select_related = ("user",)
    search_fields = ("user__username", "user__email")
    ordering = ("-created_at",)
    fields = (
        "id",
        "user",
        "provider",
        "name",
        "base_url",
        "model",
        "state",
        "steps",
        "detail",
        "created_at",
        "started_at",
        "finished_at",
    )

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
