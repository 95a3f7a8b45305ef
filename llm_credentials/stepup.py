"""Step-up authentication: whether the user of this session has recently proved their identity.

Required for everything that affects the safety of keys: adding, replacing and removing a key, changing its address,
making tokens, exporting data. A login counts, as does a later confirmation; with a second factor enrolled only that
factor counts. Form input is never stored meanwhile: a form is shown after the proof, or stays in the browser.
"""

from __future__ import annotations

import time
from typing import Any, Final
from urllib.parse import urlencode

from allauth.account import app_settings as account_settings
from allauth.account.authentication import get_authentication_records
from allauth.mfa.models import Authenticator
from allauth.mfa.utils import is_mfa_enabled
from django.contrib.auth.signals import user_logged_in
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse

from llm_credentials import conf

LOGGED_IN_AT: Final = "logged_in_at"
"""Session key of the login time, for every authentication backend."""


@receiver(user_logged_in)
def _remember_login(request: Any, **kwargs: Any) -> None:
    if request is not None and hasattr(request, "session"):
        request.session[LOGGED_IN_AT] = time.time()


def is_recent(request: HttpRequest) -> bool:
    """Whether the last proof is younger than ACCOUNT_REAUTHENTICATION_TIMEOUT. One query."""
    user: Any = request.user
    if not user.is_authenticated:
        return False
    with_factor = is_mfa_enabled(user)
    if conf.require_second_factor() and not with_factor:
        return False
    records = get_authentication_records(request, user)
    moments = [float(each["at"]) for each in records if not with_factor or each["method"] == "mfa"]
    if not with_factor:
        moments.append(float(request.session.get(LOGGED_IN_AT, 0)))
    limit_s: int = account_settings.REAUTHENTICATION_TIMEOUT
    return time.time() - max(moments, default=0.0) < limit_s


def must_enrol(user: Any) -> bool:
    """Whether the site requires a second factor and this user has none."""
    return conf.require_second_factor() and not is_mfa_enabled(user)


def prefers_security_key(user: Any) -> bool:
    """Whether the user has a passkey or security key and no authenticator app."""
    types = Authenticator.Type
    return is_mfa_enabled(user, [types.WEBAUTHN]) and not is_mfa_enabled(user, [types.TOTP])


def url(back: str) -> str:
    """The step-up page; it returns to ``back``, an address of this site that contains no secret."""
    return f"{reverse('llm_credentials:step-up')}?{urlencode({'next': back})}"


def lead(request: HttpRequest, back: str) -> HttpResponse:
    """Redirect the whole page to step-up and then to ``back``, also for a partial htmx request."""
    if getattr(request, "htmx", False):
        return HttpResponse(headers={"HX-Redirect": url(back)})
    return redirect(url(back))
