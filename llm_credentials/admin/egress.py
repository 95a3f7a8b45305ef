"""The page where staff allow addresses beyond the public internet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.db import transaction
from django.db.models import CharField, OuterRef, QuerySet, Subquery
from django.db.models.functions import Cast
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from llm_credentials import conf
from llm_credentials.admin.bases import AuditedRemoval, ProvenChanges, Trace
from llm_credentials.audit import Action, note, target_of
from llm_credentials.models import EgressAllowance

if TYPE_CHECKING:
    _AllowanceForm = forms.ModelForm[EgressAllowance]
else:
    _AllowanceForm = forms.ModelForm


class EgressAllowanceForm(_AllowanceForm):
    class Meta:
        model = EgressAllowance
        fields = ("host", "port", "for_providers", "for_tools", "note")
        help_texts = {
            "host": "A name (ollama.lan), an IP address, or a network such as 192.168.7.0/24.",
            "for_providers": "People may store keys for servers there and call them.",
            "for_tools": "A page can lead a model anywhere: allow only what everybody may see.",
            "note": "What it is, and who asked for it.",
        }
        widgets = {"host": forms.TextInput(attrs={"size": 50, "spellcheck": "false", "autocapitalize": "none"})}


@admin.register(EgressAllowance)
class EgressAllowanceAdmin(AuditedRemoval, ProvenChanges):
    """Every change requires step-up and is audited."""

    form = EgressAllowanceForm
    change_list_template = "admin/llm_credentials/egressallowance/change_list.html"
    list_display = ("__str__", "for_providers", "for_tools", "note", "who")
    search_fields = ("host", "note")
    ordering = ("host", "port")
    fields = ("host", "port", "for_providers", "for_tools", "note", "who", "created_at", "updated_at")
    readonly_fields = ("who", "created_at", "updated_at")
    # No bulk actions: each removal requires its own confirmation.
    actions = None

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Adds the name of the staff member who added each row, if the account still exists."""
        adder = get_user_model()._default_manager.annotate(as_text=Cast("pk", CharField()))
        name = Subquery(adder.filter(as_text=OuterRef("added_by")).values("username")[:1])
        rows: QuerySet[Any] = super().get_queryset(request).annotate(adder=name)
        return rows

    @admin.display(description=_("added by"))
    def who(self, row: Any) -> str:
        if not row.added_by:
            return "-"
        return getattr(row, "adder", None) or gettext("somebody who has left")

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        return super().changelist_view(request, {"listed_in_settings": conf.egress_allow(), **(extra_context or {})})

    def save_model(self, request: HttpRequest, obj: EgressAllowance, form: Any, change: bool) -> None:
        with transaction.atomic():
            before = EgressAllowance.objects.filter(pk=obj.pk).first() if change else None
            if not change:
                obj.added_by = str(request.user.pk)
            super().save_model(request, obj, form, change)
            if before is None:
                note(**_trace(Action.EGRESS_ALLOW, obj))
            elif before.entry != obj.entry:
                note(**_trace(Action.EGRESS_WITHDRAW, before))
                note(**_trace(Action.EGRESS_ALLOW, obj))
            elif form.has_changed():
                note(**_trace(Action.EGRESS_CHANGE, obj))

    def trace_of_removal(self, obj: EgressAllowance) -> Trace:
        return _trace(Action.EGRESS_WITHDRAW, obj)


def _trace(action: Action, row: EgressAllowance) -> Trace:
    surfaces = [name for name, on in (("providers", row.for_providers), ("tools", row.for_tools)) if on]
    return {"action": action, "subject": "system", "target": target_of("egress", row.entry, "+".join(surfaces))}
