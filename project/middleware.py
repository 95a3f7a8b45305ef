"""What every request passes on its way in and out; each works under ASGI and WSGI without a change of thread."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from contextvars import ContextVar
from inspect import iscoroutinefunction
from typing import Any, TypeAlias
from urllib.parse import urlencode

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.utils.decorators import sync_and_async_middleware

REQUEST_ID = "X-Request-ID"
_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Of the request that is being served in this task; empty outside of one."""


Before: TypeAlias = Callable[[HttpRequest], None]
After: TypeAlias = Callable[[HttpRequest, HttpResponseBase], HttpResponseBase]


def _both(before: Before, after: After) -> Any:
    """A middleware of two plain functions."""

    @sync_and_async_middleware
    def middleware(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
        if iscoroutinefunction(get_response):

            async def serve_async(request: HttpRequest) -> HttpResponseBase:
                before(request)
                return after(request, await get_response(request))

            return serve_async

        def serve(request: HttpRequest) -> HttpResponseBase:
            before(request)
            return after(request, get_response(request))

        return serve

    return middleware


def _nothing(request: HttpRequest) -> None:
    return None


def _take_request_id(request: HttpRequest) -> None:
    given = request.headers.get(REQUEST_ID, "")
    request_id.set(given if _SANE_REQUEST_ID.fullmatch(given) else uuid.uuid4().hex)
    request.META["KEYSWITCH_REQUEST_ID"] = request_id.get()


def _return_request_id(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    response.headers[REQUEST_ID] = request_id.get()
    return response


RequestIdMiddleware = _both(_take_request_id, _return_request_id)


def _add_security_headers(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    response.headers.setdefault("Content-Security-Policy", settings.CONTENT_SECURITY_POLICY)
    response.headers.setdefault("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
    return response


SecurityHeadersMiddleware = _both(_nothing, _add_security_headers)


def _redirect_whole_page(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    """Turn a redirect to the accounts pages, which htmx would follow into a fragment, into one of the whole page."""
    htmx = getattr(request, "htmx", None)
    target = response.headers.get("Location", "")
    if not htmx or not 300 <= response.status_code < 400 or not target.startswith(("/accounts/", "/admin/login")):
        return response
    # Back to the page that the user sees, not to the fragment that was asked for.
    shown = htmx.current_url_abs_path
    path, _, query = target.partition("?")
    if shown and "next=" in query:
        target = f"{path}?{urlencode({'next': shown})}"
    whole = HttpResponse(headers={"HX-Redirect": target})
    whole.cookies = response.cookies
    return whole


HtmxRedirectMiddleware = _both(_nothing, _redirect_whole_page)
