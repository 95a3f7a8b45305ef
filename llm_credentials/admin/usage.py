"""Ledger rows and the usage of all users, for staff who may view usage records."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.admin import ModelAdmin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import render
from django.urls import URLPattern, path, reverse
from django.utils.translation import gettext as _

from llm_credentials.admin.bases import ViewOnly
from llm_credentials.ledger.labels import Labels
from llm_credentials.ledger.reports import Report
from llm_credentials.models import UsageRecord
from llm_credentials.views.usage import export
from llm_credentials.views.usage_report import Choice, UsagePage


def usage_urls(owner: ModelAdmin[Any]) -> list[URLPattern]:
    """Two pages beside the list of ``owner``, with its view permission."""

    def summary(request: HttpRequest) -> HttpResponse:
        if not owner.has_view_permission(request):
            raise PermissionDenied
        choice = Choice.of(request.GET.dict())
        page = UsagePage(choice, Report(choice.span), Labels.for_site())
        context = {
            **owner.admin_site.each_context(request),
            **{"title": _("Usage of everybody"), "opts": owner.opts, "page": page, "staff": True},
            "export_url": reverse("admin:llm_credentials_usage_export"),
        }
        return render(
            request, "admin/llm_credentials/usagerecord/summary.html", context, status=422 if choice.problem else 200
        )

    def download(request: HttpRequest) -> HttpResponseBase:
        if not owner.has_view_permission(request):
            raise PermissionDenied
        return export(request, None, Labels.for_site())

    view = owner.admin_site.admin_view
    return [
        path("summary/", view(summary), name="llm_credentials_usage"),
        path("summary/export/", view(download), name="llm_credentials_usage_export"),
    ]


@admin.register(UsageRecord)
class UsageRecordAdmin(ViewOnly):
    list_display = (
        "at",
        "user",
        "task",
        "provider",
        "model",
        "key_owner",
        "state",
        "input_tokens",
        "output_tokens",
        "cost_usd",
        "latency_ms",
        "outcome",
    )
    list_filter = ("state", "key_owner", "provider", "outcome")
    list_select_related = ("user",)
    search_fields = ("user__username", "user__email")
    ordering = ("-at",)
    fields = (
        "id",
        "call_id",
        "user",
        "task",
        "provider",
        "model",
        "credential_id",
        "key_owner",
        "state",
        "input_tokens",
        "output_tokens",
        "cache_read_tokens",
        "cache_write_tokens",
        "reasoning_tokens",
        "reserved_usd",
        "cost_usd",
        "price_source",
        "latency_ms",
        "ttft_ms",
        "outcome",
        "at",
    )

    def get_urls(self) -> list[URLPattern]:
        return [*usage_urls(self), *super().get_urls()]

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
