"""The admin behind the accounts pages, and behind a second factor where the site asks one of staff."""

from __future__ import annotations

from typing import Any

from allauth.account.decorators import secure_admin_login
from allauth.mfa.utils import is_mfa_enabled
from django.conf import settings
from django.contrib import messages
from django.contrib.admin import AdminSite
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _


class Site(AdminSite):
    def has_permission(self, request: HttpRequest) -> bool:
        return super().has_permission(request) and not lacks_second_factor(request.user)

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Through the accounts pages, with their limits; who lacks a second factor goes to where one is set up."""
        if super().has_permission(request) and lacks_second_factor(request.user):
            messages.warning(request, _("The administration asks for a second factor. Set one up, then come back."))
            return redirect("mfa_index")
        response: HttpResponse = secure_admin_login(super().login)(request, extra_context)
        return response


def lacks_second_factor(user: Any) -> bool:
    return settings.REQUIRE_STAFF_MFA and not is_mfa_enabled(user)
