"""Base classes of the admin pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from django.contrib import admin, messages
from django.db import models, transaction
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from llm_credentials import stepup
from llm_credentials.audit import Action, note
from llm_credentials.models.sealed import LLMCredential
from llm_credentials.templatetags.keyswitch import ago, pill

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin

UNCONFIRMED = _("Nothing was done: your last confirmation is too long ago. Confirm that it is you, and do it again.")
Status = LLMCredential.Status
_MEANINGS = {
    Status.VALID: "valid",
    Status.INVALID: "broken",
    Status.NEEDS_REENTRY: "broken",
    Status.ERROR: "attention",
    Status.UNVERIFIED: "idle",
}
_KEY_COLUMNS = ("api_key", "fingerprint", "last4")


class KeylessLookups(ModelAdmin):
    """Rejects lookups on key columns, so that no admin URL can search for a key or its prefix."""

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        parts = lookup.split("__")
        if any(part in _KEY_COLUMNS for part in parts) or parts[0] == "hash":
            return False
        return super().lookup_allowed(lookup, value, request)  # type: ignore[arg-type]


class ViewOnly(KeylessLookups):
    """Read-only; shows only the listed fields."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class MaskedKey(KeylessLookups):
    """Shows a key by its purpose, its last characters and its state."""

    list_display_links: Any = ("title",)

    @admin.display(description=_("key"), ordering="provider")
    def title(self, row: LLMCredential) -> str:
        return str(row)

    @admin.display(description=_("ends in"))
    def masked_key(self, row: LLMCredential) -> str:
        return row.masked or gettext("none")

    @admin.display(description=_("fingerprint"))
    def short_fingerprint(self, row: LLMCredential) -> str:
        return row.fingerprint[:8]

    @admin.display(description=_("status"), ordering="status")
    def status_now(self, row: LLMCredential) -> str:
        status = row.shown_status
        if not row.is_active and status in (Status.VALID, Status.UNVERIFIED):
            return pill("idle", gettext("Turned off"))
        return pill(_MEANINGS[status], str(status.label), row.tested_at)

    @admin.display(description=_("last used"), ordering="last_used_at")
    def last_used(self, row: LLMCredential) -> str:
        return ago(row.last_used_at) if row.last_used_at else gettext("never")


class ProvenChanges(ModelAdmin):
    """Requires step-up from staff before changes of keys or exports, and before a form is filled."""

    proven_actions: tuple[str, ...] = ("delete_selected",)

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        may = self.has_change_permission(request) if object_id else self.has_add_permission(request)
        if may and not stepup.is_recent(request):
            return self._ask_proof(request)
        return super().changeform_view(request, object_id, form_url, extra_context)

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if self.has_delete_permission(request) and not stepup.is_recent(request):
            return self._ask_proof(request)
        return super().delete_view(request, object_id, extra_context)

    def response_action(
        self, request: HttpRequest, queryset: models.QuerySet[Any], *args: Any, **kwargs: Any
    ) -> HttpResponse | None:
        chosen = set(request.POST.getlist("action")) & set(self.proven_actions)
        if chosen and not stepup.is_recent(request):
            return self._ask_proof(request)
        return super().response_action(request, queryset, *args, **kwargs)

    def _ask_proof(self, request: HttpRequest) -> HttpResponse:
        if request.method == "POST":
            self.message_user(request, UNCONFIRMED, messages.WARNING)
        return stepup.lead(request, request.get_full_path())


class Trace(TypedDict):
    """Arguments of ``audit.note``."""

    action: Action
    subject: str
    target: NotRequired[str]
    result: NotRequired[str]


class AuditedRemoval(ModelAdmin):
    """Records an event for every row that staff remove, also in bulk."""

    def trace_of_removal(self, obj: Any) -> Trace:
        """Called before the row is deleted."""
        raise NotImplementedError

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        trace = self.trace_of_removal(obj)
        with transaction.atomic():
            super().delete_model(request, obj)
            note(**trace)

    def delete_queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> None:
        with transaction.atomic():
            for row in queryset:
                self.delete_model(request, row)


class AuditedChanges(AuditedRemoval):
    """Also records an event for every save, in the same transaction."""

    def trace_of_change(self, obj: Any, form: Any, change: bool) -> Trace:
        """Called after the row is written. ``change``: it existed before."""
        raise NotImplementedError

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        with transaction.atomic():
            super().save_model(request, obj, form, change)
            note(**self.trace_of_change(obj, form, change))


class AuditedConfiguration(AuditedChanges):
    """Site settings: the same kind of event for every change."""

    def trace_of(self, obj: Any) -> Trace:
        raise NotImplementedError

    def trace_of_change(self, obj: Any, form: Any, change: bool) -> Trace:
        return self.trace_of(obj)

    def trace_of_removal(self, obj: Any) -> Trace:
        return {**self.trace_of(obj), "result": "removed"}
