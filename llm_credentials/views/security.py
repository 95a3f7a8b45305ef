"""Who can open the account: where its password, addresses, second factor and sessions are kept."""

from __future__ import annotations

from allauth.mfa.utils import is_mfa_enabled
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from llm_credentials.views.answers import UserRequest


@require_GET
@never_cache
@login_required
def security_detail(request: UserRequest) -> HttpResponse:
    user = request.user
    context = {
        "has_password": user.has_usable_password(),
        "email": user.email,
        "has_second_factor": is_mfa_enabled(user),
    }
    return render(request, "llm_credentials/security_detail.html", context)
