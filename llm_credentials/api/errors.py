"""One shape for every error: ``{"error": {"code", "message", "where"}}``.

``code`` is for programs, ``message`` for people, ``where`` names the field (``body.api_key``), the page where something
must be done first, or is null. Nothing that was sent is echoed.
"""

from __future__ import annotations

from collections.abc import Mapping

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
    @api.exception_handler(Exception)
    def unforeseen(request: HttpRequest, error: Exception) -> HttpResponse:
        """The site's own answers know it, also with DEBUG, where the framework would answer with a traceback."""
        raise error

    def answer(request: HttpRequest, error: ApiError) -> HttpResponse:
        body = {"error": {"code": error.code, "message": error.message, "where": error.where}}
        response = api.create_response(request, body, status=error.status)
        for name, value in error.headers.items():
            response[name] = value
        return response

    @api.exception_handler(ApiError)
    def own(request: HttpRequest, error: ApiError) -> HttpResponse:
        return answer(request, error)

    @api.exception_handler(SchemaError)
    def wrong_shape(request: HttpRequest, error: SchemaError) -> HttpResponse:
        first = error.errors[0]
        where = ".".join(str(piece) for piece in first["loc"] if piece not in ("payload", "data"))
        words = _SHAPES.get(first["type"]) or f"{first['msg']}."
        return answer(request, ApiError(422, "invalid_request", words, where))

    @api.exception_handler(ValidationError)
    def wrong_value(request: HttpRequest, error: ValidationError) -> HttpResponse:
        fields = error.message_dict if hasattr(error, "error_dict") else {"__all__": error.messages}
        name, texts = next(iter(fields.items()))
        where = None if name == "__all__" else f"body.{name}"
        codes = {each.code for each in error.error_dict[name]} if hasattr(error, "error_dict") else set()
        for code in (UNFIT, KEY_NEEDED):
            if code in codes:
                return answer(request, ApiError(409, code, str(texts[0]), where))
        return answer(request, ApiError(422, "invalid_value", str(texts[0]), where))

    @api.exception_handler(AuthenticationError)
    def unknown_caller(request: HttpRequest, error: AuthenticationError) -> HttpResponse:
        return answer(
            request,
            ApiError(
                401,
                "not_authenticated",
                "Send a valid token as «Authorization: Bearer …», or log in.",
                headers={"WWW-Authenticate": "Bearer"},
            ),
        )

    @api.exception_handler(HttpError)
    def refused(request: HttpRequest, error: HttpError) -> HttpResponse:
        # What the parser of bodies raises arrives here as the cause of the framework's own error.
        cause = error.__cause__
        return answer(
            request, cause if isinstance(cause, ApiError) else ApiError(error.status_code, "refused", str(error))
        )

    @api.exception_handler(Http404)
    @api.exception_handler(UserCredential.DoesNotExist)
    def missing(request: HttpRequest, error: Exception) -> HttpResponse:
        return answer(request, ApiError(404, "not_found", "There is no such thing here."))

    @api.exception_handler(RequestDataTooBig)
    def too_large(request: HttpRequest, error: RequestDataTooBig) -> HttpResponse:
        return answer(request, ApiError(413, "body_too_large", "The body is too large."))

    @api.exception_handler(LimitReached)
    def too_often(request: HttpRequest, error: LimitReached) -> HttpResponse:
        headers = {"Retry-After": str(error.retry_after_s), **error.usage.headers}
        return answer(request, ApiError(429, "rate_limited", str(error), headers=headers))

    @api.exception_handler(VersionConflict)
    def overtaken(request: HttpRequest, error: VersionConflict) -> HttpResponse:
        return answer(request, ApiError(409, "version_conflict", str(error)))

    @api.exception_handler(ReplacementOver)
    def gone(request: HttpRequest, error: ReplacementOver) -> HttpResponse:
        return answer(request, ApiError(409, "replacement_over", str(error)))

    @api.exception_handler(TestBusy)
    def busy(request: HttpRequest, error: TestBusy) -> HttpResponse:
        return answer(request, ApiError(409, "test_running", str(error)))

    @api.exception_handler(AuditUnavailable)
    def no_audit(request: HttpRequest, error: AuditUnavailable) -> HttpResponse:
        said = ApiError(503, "audit_unavailable", error.user_message, headers={"Retry-After": "5"})
        return answer(request, said)

    @api.exception_handler(QueueUnavailable)
    def no_queue(request: HttpRequest, error: QueueUnavailable) -> HttpResponse:
        return answer(request, ApiError(503, "queue_unavailable", str(error), headers={"Retry-After": "5"}))

    @api.exception_handler(NoWorker)
    def no_worker(request: HttpRequest, error: NoWorker) -> HttpResponse:
        where = reverse("api:connection_test_get", kwargs={"test_id": error.test.pk})
        return answer(request, ApiError(503, "no_worker", str(error), where, headers={"Retry-After": "5"}))
