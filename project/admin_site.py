"""The admin site: login goes through the accounts pages, with a second factor if the site requires one of staff.

The start page lists what needs attention, the health page the state of the site's parts.
"""

from __future__ import annotations

from typing import Any

from allauth.account.decorators import secure_admin_login
from allauth.mfa.utils import is_mfa_enabled
from django.conf import settings
from django.contrib import messages
from django.contrib.admin import AdminSite
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import path
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_GET

from project import attention, vitals
from project.admin_sections import sections


class Site(AdminSite):
    index_title = gettext_lazy("Administration")

    def get_urls(self) -> list[Any]:
        own = [path("health/", self.admin_view(require_GET(self.health)), name="health")]
        return [*own, *super().get_urls()]

    def get_app_list(self, request: HttpRequest, app_label: str | None = None) -> list[Any]:
        """All apps in the order of ``admin_sections``; a single app has Django's own page."""
        apps: list[Any] = super().get_app_list(request, app_label)
        return apps if app_label else sections(request, apps)

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        now = vitals.take(brief=True)
        found = {"findings": attention.findings(request, now), "vitals": now}
        return super().index(request, {**found, **(extra_context or {})})

    def health(self, request: HttpRequest) -> HttpResponse:
        context = {**self.each_context(request), "title": _("Health"), "vitals": vitals.take()}
        return TemplateResponse(request, "admin/health.html", context)

    def has_permission(self, request: HttpRequest) -> bool:
        return super().has_permission(request) and not lacks_second_factor(request.user)

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Redirects to the accounts pages, with their rate limits; staff without a required second factor go to its
        setup.
        """
        if super().has_permission(request) and lacks_second_factor(request.user):
            messages.warning(request, _("The administration asks for a second factor. Set one up, then come back."))
            return redirect("mfa_index")
        response: HttpResponse = secure_admin_login(super().login)(request, extra_context)
        return response


def lacks_second_factor(user: Any) -> bool:
    return settings.REQUIRE_STAFF_MFA and not is_mfa_enabled(user)
