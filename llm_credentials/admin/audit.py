"""The audit trail: looked through, exported, checked."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db import models
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path

from llm_credentials import keyring
from llm_credentials.admin.bases import ProvenChanges, ViewOnly
from llm_credentials.audit import Action, note, record, target_of
from llm_credentials.audit.export import Format, lines
from llm_credentials.audit.verify import verify
from llm_credentials.models import AuditEvent


@admin.register(AuditEvent)
class AuditEventAdmin(ViewOnly, ProvenChanges):
    """Read-only for everybody; the database refuses what would get past this."""

    proven_actions = ("export_json_lines", "export_csv")
    change_list_template = "admin/llm_credentials/auditevent/change_list.html"
    list_display = ("at", "action", "actor", "subject", "target", "result", "channel", "ip")
    list_filter = ("action", "channel", "result")
    search_fields = ("=actor", "=subject", "target", "=request_id")
    search_help_text = "The id of a user, the beginning or an inner part of a target, or the id of a request."
    date_hierarchy = "at"
    ordering = ("-at", "-seq", "shard")
    show_full_result_count = False
    fields = (
        *("id", "at", "action", "actor", "subject", "target", "result", "ip", "request_id", "channel"),
        *("shard", "seq", "key_id", "previous", "mac"),
    )
    actions = ("export_json_lines", "export_csv")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @admin.action(description="Export the selected events as JSON Lines", permissions=["view"])
    def export_json_lines(self, request: HttpRequest, queryset: models.QuerySet[AuditEvent]) -> HttpResponse:
        return self._exported(queryset, "jsonl", "application/jsonl")

    @admin.action(description="Export the selected events as CSV", permissions=["view"])
    def export_csv(self, request: HttpRequest, queryset: models.QuerySet[AuditEvent]) -> HttpResponse:
        return self._exported(queryset, "csv", "text/csv; charset=utf-8")

    @staticmethod
    def _exported(queryset: models.QuerySet[AuditEvent], form: Format, content_type: str) -> HttpResponse:
        record(action=Action.AUDIT_EXPORT, subject="system", target=target_of("events", form))
        response = HttpResponse(lines(queryset, form), content_type=content_type)
        response["Content-Disposition"] = f'attachment; filename="audit-events.{form}"'
        return response

    def get_urls(self) -> list[URLPattern]:
        page = path("verify/", self.admin_site.admin_view(self.verify_view), name="llm_credentials_audit_verify")
        return [page, *super().get_urls()]

    def verify_view(self, request: HttpRequest) -> HttpResponse:
        """Walks every chain, as ``audit_verify`` does."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        if request.method != "POST":
            return HttpResponseRedirect("../")
        context = self.admin_site.each_context(request) | {"title": "Audit chain", "opts": self.opts}
        try:
            report = verify()
            context |= {"report": report}
            note(action=Action.AUDIT_VERIFY, subject="system", result="holds" if report.holds else "broken")
        except keyring.KeyringError as error:
            context |= {"problem": f"{error} {error.hint}"}
        return TemplateResponse(request, "admin/llm_credentials/auditevent/verify.html", context)
