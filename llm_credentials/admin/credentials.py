"""Users' own keys."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.auth import get_user_model
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from llm_credentials import services
from llm_credentials.admin.bases import AuditedRemoval, MaskedKey, ProvenChanges, Trace, ViewOnly
from llm_credentials.admin.key_actions import UserKeyActions
from llm_credentials.audit import Action, note
from llm_credentials.models import UserCredential
from llm_credentials.models.sealed import LLMCredential
from llm_credentials.notices import Kind, notify
from llm_credentials.notices.keys import key_facts


class RemovedKeys(AuditedRemoval, ProvenChanges):
    """Notifies the owners."""

    def trace_of_removal(self, obj: LLMCredential) -> Trace:
        target = services.credential_target(obj)
        return {"action": Action.CREDENTIAL_DELETE, "subject": obj.owner_ref(), "target": target}

    def delete_model(self, request: HttpRequest, obj: LLMCredential) -> None:
        with transaction.atomic():
            super().delete_model(request, obj)
            if isinstance(obj, UserCredential):
                notify(obj.user_id, Kind.KEY_REMOVED, **key_facts(obj))


class OwnerFilter(admin.SimpleListFilter):
    """Filters by the kind of account, or by one owner, to whom the list links."""

    title = _("key owner")
    parameter_name = "owner"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        kinds = [("active", _("Active accounts")), ("deactivated", _("Deactivated accounts")), ("staff", _("Staff"))]
        chosen = request.GET.get(self.parameter_name, "")
        user = get_user_model()._default_manager.filter(pk=chosen).first() if chosen.isdecimal() else None
        return [*([(chosen, user.get_username())] if user is not None else []), *kinds]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        match self.value():
            case "active":
                return queryset.filter(user__is_active=True)
            case "deactivated":
                return queryset.filter(user__is_active=False)
            case "staff":
                return queryset.filter(user__is_staff=True)
            case str(owner) if owner.isdecimal() and len(owner) < 19:
                return queryset.filter(user_id=owner)
            case None:
                return queryset
            case _:
                return queryset.none()


@admin.register(UserCredential)
class UserCredentialAdmin(ViewOnly, RemovedKeys, UserKeyActions, MaskedKey):
    """Staff may view, test, turn off and delete keys. They cannot redirect or use a key that is not theirs."""

    list_display = ("title", "owner", "masked_key", "model", "status_now", "last_used")
    list_filter = ("status", "provider", OwnerFilter, "is_active")
    list_select_related = ("user",)
    search_fields = ("user__username", "user__email")
    search_help_text = _("The name or mail address of an owner.")
    ordering = ("user", "priority", "created_at")
    fields = (
        "id",
        "owner",
        "provider",
        "name",
        "masked_key",
        "short_fingerprint",
        "base_url",
        "model",
        "options",
        "is_active",
        "priority",
        "status_now",
        "status_detail",
        "tested_at",
        "last_used_at",
        "request_count",
        "version",
        "created_at",
        "updated_at",
    )

    @admin.display(description=_("owner"), ordering="user__username")
    def owner(self, row: UserCredential) -> str:
        """A link to all keys of this owner."""
        place = reverse("admin:llm_credentials_usercredential_changelist")
        return format_html('<a href="{}?owner={}">{}</a>', place, row.user_id, row.user)

    def change_view(self, request: HttpRequest, object_id: str, *args: Any, **kwargs: Any) -> HttpResponse:
        """Viewing another user's record is audited."""
        credential = self.get_object(request, object_id)
        if credential is not None and self.has_view_permission(request, credential):
            target = services.credential_target(credential)
            note(action=Action.CREDENTIAL_VIEW, subject=credential.owner_ref(), target=target)
        return super().change_view(request, object_id, *args, **kwargs)
