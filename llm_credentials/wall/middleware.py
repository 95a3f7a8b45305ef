"""Opens the requesting user's rows to each request; to staff in the admin, everybody's."""

from __future__ import annotations

from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Any

from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponseBase
from django.utils.decorators import sync_and_async_middleware

from llm_credentials.wall.standing import begin_request, end_request


@sync_and_async_middleware
def WallMiddleware(  # noqa: N802  (stands in a setting, beside classes)
    get_response: Callable[[HttpRequest], Any],
) -> Callable[[HttpRequest], Any]:
    """Must come after the middleware that sets the user."""
    if iscoroutinefunction(get_response):

        async def serve_async(request: HttpRequest) -> HttpResponseBase:
            # Not reset: a stream runs after this, and the context ends with the request's task.
            begin_request(request)
            response: HttpResponseBase = await get_response(request)
            return response

        return serve_async

    def serve(request: HttpRequest) -> HttpResponseBase:
        token = begin_request(request)
        try:
            response: HttpResponseBase = get_response(request)
        finally:
            # Under ASGI a single synchronous middleware makes those before it synchronous, and a stream still runs
            # after this.
            if not isinstance(request, ASGIRequest):
                end_request(token)
        return response

    return serve
