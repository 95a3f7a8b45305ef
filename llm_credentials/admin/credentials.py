"""Users' own keys."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db import transaction
from django.http import HttpRequest, HttpResponse

from llm_credentials import services
from llm_credentials.admin.bases import AuditedRemoval, MaskedKey, ProvenChanges, Trace, ViewOnly
from llm_credentials.audit import Action, note
from llm_credentials.models import UserCredential
from llm_credentials.models.sealed import LLMCredential
from llm_credentials.notices import Kind, notify
from llm_credentials.notices.keys import key_facts


class RemovedKeys(AuditedRemoval, ProvenChanges):
    """Their owners are told."""

    def trace_of_removal(self, obj: LLMCredential) -> Trace:
        target = services.credential_target(obj)
        return {"action": Action.CREDENTIAL_DELETE, "subject": obj.owner_ref(), "target": target}

    def delete_model(self, request: HttpRequest, obj: LLMCredential) -> None:
        with transaction.atomic():
            super().delete_model(request, obj)
            if isinstance(obj, UserCredential):
                notify(obj.user_id, Kind.KEY_REMOVED, **key_facts(obj))


@admin.register(UserCredential)
class UserCredentialAdmin(ViewOnly, RemovedKeys, MaskedKey):
    """Staff may look and delete. They cannot redirect or use a key that is not theirs."""

    list_display = (
        "user",
        "provider_label",
        "name",
        "masked_key",
        "model",
        "status_now",
        "is_active",
        "tested_at",
        "last_used_at",
    )
    list_filter = ("provider", "status", "is_active")
    list_select_related = ("user",)
    search_fields = ("user__username", "user__email")
    ordering = ("user", "priority", "created_at")
    fields = (
        "id",
        "user",
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

    def change_view(self, request: HttpRequest, object_id: str, *args: Any, **kwargs: Any) -> HttpResponse:
        """Whoever looks at another's record leaves a trace of it."""
        credential = self.get_object(request, object_id)
        if credential is not None and self.has_view_permission(request, credential):
            target = services.credential_target(credential)
            note(action=Action.CREDENTIAL_VIEW, subject=credential.owner_ref(), target=target)
        return super().change_view(request, object_id, *args, **kwargs)
