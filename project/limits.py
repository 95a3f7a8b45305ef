"""Responses to rate-limited requests, and rate limit headers for all others."""

from __future__ import annotations

from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Any

from asgiref.sync import markcoroutinefunction
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.template.loader import render_to_string

from llm_credentials.limits import LimitReached
from project.errors import error_response


def _tell_limits(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    """Add headers with the remaining limit that was counted for this request, if any."""
    usage = getattr(request, "rate_usage", None)
    if usage is not None:
        for name, value in usage.headers.items():
            response.headers.setdefault(name, value)
    return response


class LimitsMiddleware:
    """A rate-limited view without its own handling answers 429. htmx gets a message, and the page keeps everything that
    was typed; others get the error page.
    """

    sync_capable = async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        if iscoroutinefunction(self.get_response):
            return self._serve_async(request)
        return _tell_limits(request, self.get_response(request))

    async def _serve_async(self, request: HttpRequest) -> HttpResponseBase:
        return _tell_limits(request, await self.get_response(request))

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponseBase | None:
        if not isinstance(exception, LimitReached):
            return None
        if getattr(request, "htmx", None):
            words = render_to_string("_partials/too_many.html", {"retry_after_s": exception.retry_after_s})
            response = HttpResponse(words, status=429, headers={"HX-Reswap": "none"})
        else:
            response = error_response(request, 429, **{"Retry-After": str(exception.retry_after_s)})
        response.headers["Retry-After"] = str(exception.retry_after_s)
        for name, value in exception.usage.headers.items():
            response.headers[name] = value
        return response
