"""Error pages. A program that asks for JSON gets JSON."""

from __future__ import annotations

import sys

from django.conf import settings
from django.core.exceptions import RequestDataTooBig, ValidationError
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.template.loader import render_to_string
from django.utils.log import log_response
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop
from django_ratelimit.exceptions import Ratelimited

from llm_credentials.audit import AuditUnavailable
from project.middleware import middleware_of, nothing

DEFAULT_RETRY_AFTER_S = 60
"""Our rate limits count per minute; code that knows better sets the header itself."""

_CODES = {
    400: "invalid_request",
    403: "permission_denied",
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    429: "rate_limited",
    500: "internal_error",
    503: "unavailable",
}
_WORDS = {
    400: gettext_noop("The request could not be understood."),
    403: gettext_noop("You may not do this."),
    404: gettext_noop("There is nothing here."),
    405: gettext_noop("This address does not take that method."),
    413: gettext_noop("What was sent is too large."),
    429: gettext_noop("Too many requests in a short time: wait a moment."),
    500: gettext_noop("Something broke on our side."),
    503: gettext_noop("The site cannot reach its database right now: try again in a moment."),
}


def error_response(request: HttpRequest, status: int, words: str = "", **headers: str) -> HttpResponse:
    """The page ``<status>.html``, or its message as JSON; ``words`` replaces the default message.

    Needs neither session nor database.
    """
    preferred = request.get_preferred_type(["text/html", "application/json"])
    if request.path.startswith("/api/") or preferred == "application/json":
        # The format of the API's own errors.
        body = {"error": {"code": _CODES[status], "message": words or _(_WORDS[status]), "where": None}}
        return JsonResponse(body, status=status, headers=headers)
    # Without the request: context processors would load the user from the session, and so use the database.
    context = {"status": status, "reason": words, "retry_after_s": int(headers.get("Retry-After", 0))}
    page = render_to_string(f"{status}.html", context)
    return HttpResponse(page, status=status, headers=headers)


def bad_request(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return error_response(request, 413 if isinstance(exception, RequestDataTooBig) else 400)


def permission_denied(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    if isinstance(exception, Ratelimited):
        return too_many_requests(request)
    return error_response(request, 403)


def not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return error_response(request, 404)


def too_many_requests(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return error_response(request, 429, **{"Retry-After": str(DEFAULT_RETRY_AFTER_S)})


def server_error(request: HttpRequest) -> HttpResponse:
    return foreseen(request, sys.exc_info()[1]) or error_response(request, 500)


def foreseen(request: HttpRequest, exception: BaseException | None) -> HttpResponse | None:
    """The response to an expected error; None for others."""
    match exception:
        case AuditUnavailable():
            return error_response(request, 503, AuditUnavailable.user_message, **{"Retry-After": "5"})
        case OperationalError() | InterfaceError():
            return error_response(request, 503, **{"Retry-After": "5"})
        case ValueError() | ValidationError() if "_selected_action" in request.POST:
            # The admin's list views trust ids that come back from their own form.
            return error_response(request, 400)
        case _:
            return None


def _in_the_apis_shape(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    """Converts errors under /api/ from outside the API's own handlers, such as 405, to the API's format."""
    plain = not response.headers.get("Content-Type", "").startswith("application/json")
    if not request.path.startswith("/api/") or response.status_code < 400 or not plain:
        return response
    kept = {name: response.headers[name] for name in ("Allow", "Retry-After") if name in response.headers}
    return error_response(request, response.status_code, **kept)


def _also_with_debug(request: HttpRequest, exception: Exception) -> HttpResponse | None:
    """With DEBUG, unexpected errors show a traceback; a busy database gets its usual response."""
    answer = foreseen(request, exception) if settings.DEBUG else None
    if answer is not None:
        said = (answer.reason_phrase, request.path)
        log_response("%s: %s", *said, response=answer, request=request, exception=exception)
    return answer


ErrorsMiddleware = middleware_of(nothing, _in_the_apis_shape, _also_with_debug)
