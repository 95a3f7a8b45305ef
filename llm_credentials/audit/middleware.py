"""Sets the audit context of each request and records refusals."""

from __future__ import annotations

from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Any

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponseBase
from django.utils.decorators import sync_and_async_middleware

from llm_credentials.audit.context import begin_request, end_request
from llm_credentials.audit.denials import REFUSALS, note_refusal

REQUEST_ID = "KEYSWITCH_REQUEST_ID"
"""Where ``request.META`` holds the request id."""


@sync_and_async_middleware
def AuditMiddleware(  # noqa: N802  (stands in a setting, beside classes)
    get_response: Callable[[HttpRequest], Any],
) -> Callable[[HttpRequest], Any]:
    """Must come after the middleware that sets the user."""
    if iscoroutinefunction(get_response):

        async def serve_async(request: HttpRequest) -> HttpResponseBase:
            # Not reset: a stream runs after this, and the context ends with the request's task.
            begin_request(request, _id_of(request))
            response: HttpResponseBase = await get_response(request)
            if response.status_code in REFUSALS:
                await sync_to_async(note_refusal)(request, response.status_code)
            return response

        return serve_async

    def serve(request: HttpRequest) -> HttpResponseBase:
        token = begin_request(request, _id_of(request))
        try:
            response: HttpResponseBase = get_response(request)
            if response.status_code in REFUSALS:
                note_refusal(request, response.status_code)
        finally:
            # Under ASGI a single synchronous middleware makes those before it synchronous, and a stream still runs
            # after this.
            if not isinstance(request, ASGIRequest):
                end_request(token)
        return response

    return serve


def _id_of(request: HttpRequest) -> str:
    return str(request.META.get(REQUEST_ID, ""))
