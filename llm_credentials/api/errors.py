"""One shape for every error: ``{"error": {"code", "message", "where"}}``.

``code`` is for programs, ``message`` for people, ``where`` names the field (``body.api_key``), the page where something
must be done first, or is null. Nothing that was sent is echoed.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import singledispatch
from typing import Any

from django.core.exceptions import RequestDataTooBig, ValidationError
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import reverse
from ninja import NinjaAPI, Schema
from ninja.errors import AuthenticationError, HttpError
from ninja.errors import ValidationError as SchemaError

from llm_credentials.audit import AuditUnavailable
from llm_credentials.connection_tests import QueueUnavailable, TestBusy
from llm_credentials.limits import LimitReached
from llm_credentials.models import UserCredential
from llm_credentials.replacement import ReplacementOver, VersionConflict
from llm_credentials.validation import KEY_NEEDED, UNFIT
from llm_credentials.waiting import NoWorker

_SHAPES = {
    "missing": "This field is needed.",
    "extra_forbidden": "There is no such field.",
    "string_type": "This is a text.",
    "int_type": "This is a whole number.",
    "int_from_float": "This is a whole number.",
    "float_type": "This is a number.",
    "bool_type": "This is either true or false.",
    "dict_type": "This is an object.",
    "list_type": "This is a list.",
}
"""By the validator's own kinds of error; others say it in the validator's words."""


class ErrorBody(Schema):
    code: str
    message: str
    where: str | None = None


class ErrorOut(Schema):
    error: ErrorBody


_SOON = {"Retry-After": "5"}

REFUSALS: dict[int, Any] = {
    400: ErrorOut,
    401: ErrorOut,
    403: ErrorOut,
    404: ErrorOut,
    413: ErrorOut,
    415: ErrorOut,
    422: ErrorOut,
    429: ErrorOut,
}
EDITED: dict[int, Any] = {409: ErrorOut, 412: ErrorOut}
QUEUED: dict[int, Any] = {409: ErrorOut, 503: ErrorOut}
"""What the document says may come beside an operation's own answers: of any, of one that edits, of one that queues."""


class ApiError(Exception):
    def __init__(
        self, status: int, code: str, message: str, where: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.where = where
        self.headers = headers or {}


def install_error_handlers(api: NinjaAPI) -> None:
    def answer(request: HttpRequest, error: Any) -> HttpResponse:
        said = api_error(error)
        body = {"error": {"code": said.code, "message": said.message, "where": said.where}}
        response = api.create_response(request, body, status=said.status)
        for name, value in said.headers.items():
            response[name] = value
        return response

    # One for each, since the framework has handlers of its own for some of them and takes the nearest.
    for kind in api_error.registry:
        api.add_exception_handler(Exception if kind is object else kind, answer)


@singledispatch
def api_error(error: Exception) -> ApiError:
    """What the caller is told. Raises what it does not know: Django's handlers answer it, also with DEBUG, where the
    framework would send a traceback.
    """
    raise error


@api_error.register
def _(error: ApiError) -> ApiError:
    return error


@api_error.register
def _(error: SchemaError) -> ApiError:
    first = error.errors[0]
    where = ".".join(str(piece) for piece in first["loc"] if piece not in ("payload", "data"))
    words = first["msg"].removeprefix("Value error, ")
    return ApiError(422, "invalid_request", _SHAPES.get(first["type"]) or f"{words}.", where)


@api_error.register
def _(error: ValidationError) -> ApiError:
    fields = error.message_dict if hasattr(error, "error_dict") else {"__all__": error.messages}
    name, texts = next(iter(fields.items()))
    where = None if name == "__all__" else f"body.{name}"
    codes = {each.code for each in error.error_dict[name]} if hasattr(error, "error_dict") else set()
    for code in (UNFIT, KEY_NEEDED):
        if code in codes:
            return ApiError(409, code, str(texts[0]), where)
    return ApiError(422, "invalid_value", str(texts[0]), where)


@api_error.register
def _(error: AuthenticationError) -> ApiError:
    words = "Send a valid token as «Authorization: Bearer …», or log in."
    return ApiError(401, "not_authenticated", words, headers={"WWW-Authenticate": "Bearer"})


@api_error.register
def _(error: HttpError) -> ApiError:
    # What the parser of bodies raises arrives here as the cause of the framework's own error.
    cause = error.__cause__
    return cause if isinstance(cause, ApiError) else ApiError(error.status_code, "refused", str(error))


@api_error.register(Http404)
@api_error.register(UserCredential.DoesNotExist)
def _(error: Exception) -> ApiError:
    return ApiError(404, "not_found", "There is no such thing here.")


@api_error.register
def _(error: RequestDataTooBig) -> ApiError:
    return ApiError(413, "body_too_large", "The body is too large.")


@api_error.register
def _(error: LimitReached) -> ApiError:
    headers = {"Retry-After": str(error.retry_after_s), **error.usage.headers}
    return ApiError(429, "rate_limited", str(error), headers=headers)


@api_error.register
def _(error: VersionConflict) -> ApiError:
    return ApiError(409, "version_conflict", str(error))


@api_error.register
def _(error: ReplacementOver) -> ApiError:
    return ApiError(409, "replacement_over", str(error))


@api_error.register
def _(error: TestBusy) -> ApiError:
    return ApiError(409, "test_running", str(error))


@api_error.register
def _(error: AuditUnavailable) -> ApiError:
    return ApiError(503, "audit_unavailable", error.user_message, headers=_SOON)


@api_error.register
def _(error: QueueUnavailable) -> ApiError:
    return ApiError(503, "queue_unavailable", str(error), headers=_SOON)


@api_error.register
def _(error: NoWorker) -> ApiError:
    where = reverse("api:connection_test_get", kwargs={"test_id": error.test.pk})
    return ApiError(503, "no_worker", str(error), where, headers=_SOON)
