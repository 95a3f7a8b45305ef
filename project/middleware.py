"""Middleware for every request; works under ASGI and WSGI without switching threads."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from contextvars import ContextVar
from inspect import iscoroutinefunction
from typing import Any, TypeAlias
from urllib.parse import urlencode

from django.conf import settings
from django.core.exceptions import BadRequest
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.utils.cache import patch_vary_headers
from django.utils.decorators import sync_and_async_middleware
from django.utils.text import compress_string

LEAST_COMPRESSED = 1024
BLUR_BYTES = 100
REQUEST_ID = "X-Request-ID"
_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Id of the request that the current task serves; empty outside a request."""


Before: TypeAlias = Callable[[HttpRequest], None]
After: TypeAlias = Callable[[HttpRequest, HttpResponseBase], HttpResponseBase]
Failed: TypeAlias = Callable[[HttpRequest, Exception], HttpResponseBase | None]


def middleware_of(before: Before, after: After, failed: Failed | None = None) -> Any:
    """A middleware made of plain functions; ``failed`` may handle an exception of the view."""

    @sync_and_async_middleware
    def middleware(get_response: Callable[[HttpRequest], Any]) -> Any:
        serve: Any

        if iscoroutinefunction(get_response):

            async def serve(request: HttpRequest) -> HttpResponseBase:
                before(request)
                return after(request, await get_response(request))

        else:

            def serve(request: HttpRequest) -> HttpResponseBase:
                before(request)
                return after(request, get_response(request))

        if failed:
            serve.process_exception = failed
        return serve

    return middleware


def nothing(request: HttpRequest) -> None:
    return None


def _take_request_id(request: HttpRequest) -> None:
    given = request.headers.get(REQUEST_ID, "")
    request_id.set(given if _SANE_REQUEST_ID.fullmatch(given) else uuid.uuid4().hex)
    request.META["KEYSWITCH_REQUEST_ID"] = request_id.get()


def _return_request_id(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    response.headers[REQUEST_ID] = request_id.get()
    return response


RequestIdMiddleware = middleware_of(_take_request_id, _return_request_id)


def _mend_api_address(request: HttpRequest) -> None:
    """API addresses have no trailing slash; requests with one are accepted too. The API's root is ``/api/``."""
    if request.path == "/api" or (request.path.startswith("/api/") and request.path.endswith("/")):
        mended = request.path.rstrip("/")
        request.path = request.path_info = "/api/" if mended == "/api" else mended


def _refuse_nul(request: HttpRequest) -> None:
    """No address of the site contains NUL, and a database may reject queries with it."""
    if "\0" in request.path or "%00" in request.META.get("QUERY_STRING", ""):
        raise BadRequest("NUL in the address")


def _add_security_headers(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    headers = response.headers
    headers.setdefault("Content-Security-Policy", settings.CONTENT_SECURITY_POLICY)
    headers.setdefault("Permissions-Policy", settings.PERMISSIONS_POLICY)
    headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
    # By default responses are private: no cache keeps them, and the browser's back button reloads them.
    headers.setdefault("Cache-Control", "no-store, private")
    return response


SecurityHeadersMiddleware = middleware_of(nothing, _add_security_headers)
ApiAddressMiddleware = middleware_of(_mend_api_address, lambda request, response: response)
NoNulMiddleware = middleware_of(_refuse_nul, lambda request, response: response)


def _compress(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    """Compresses pages only: streams must not be delayed, and static files are compressed already.

    A page's compressed size reveals nothing of its content: cross-site requests other than top-level navigation carry
    none of our cookies, CSRF tokens are masked anew each time, and the length is randomised.
    """
    if not isinstance(response, HttpResponse) or not response.headers.get("Content-Type", "").startswith("text/html"):
        return response
    patch_vary_headers(response, ("Accept-Encoding",))
    accepted = "gzip" in request.headers.get("Accept-Encoding", "")
    if accepted and len(response.content) >= LEAST_COMPRESSED and not response.has_header("Content-Encoding"):
        response.content = compress_string(response.content, max_random_bytes=BLUR_BYTES)
        response.headers["Content-Encoding"] = "gzip"
        response.headers["Content-Length"] = str(len(response.content))
    return response


CompressionMiddleware = middleware_of(nothing, _compress)


def _redirect_whole_page(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    """Turn a redirect to the accounts pages into a whole-page redirect, because htmx would load the target as a
    fragment.
    """
    htmx = getattr(request, "htmx", None)
    target = response.headers.get("Location", "")
    if not htmx or not 300 <= response.status_code < 400 or not target.startswith(("/accounts/", "/admin/login")):
        return response
    # Return to the page that the user sees, not to the requested fragment.
    shown = htmx.current_url_abs_path
    path, _, query = target.partition("?")
    if shown and "next=" in query:
        target = f"{path}?{urlencode({'next': shown})}"
    whole = HttpResponse(headers={"HX-Redirect": target})
    whole.cookies = response.cookies
    return whole


HtmxRedirectMiddleware = middleware_of(nothing, _redirect_whole_page)
