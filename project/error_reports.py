"""Reports the site's errors to an operator's Sentry: the error class, its place in the code, and the request; never
users' text.

Nothing of this is imported if ``SENTRY_DSN`` is unset. Of the SDK only the transport is used: reports are built here
from ERROR log records, and anything that the SDK adds is removed again.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from project.env import BASE_DIR
from project.logging import current_request_id, redact

Event: TypeAlias = dict[str, Any]

NEVER_REPORTED: Final = frozenset({"sentry_sdk", "opentelemetry", "urllib3"})
"""Loggers that would report the failure to send a report."""
CONSTANT_WORDS: Final = frozenset({"project", "agents", "llm_credentials", "django", "celery"})
"""Loggers whose messages are constants, with variable parts in the arguments; other libraries format values into
theirs.
"""
PARTS: Final = frozenset(
    {"environment", "event_id", "exception", "level", "logentry", "logger", "platform", "sdk", "tags", "timestamp"}
)
LONGEST: Final = 300
CAUSES: Final = 10
_ERROR_NAME = re.compile(r"[A-Za-z_]\w{0,79}")


def install() -> None:
    """Start reporting in this process and its forks. Raises ImproperlyConfigured if the package is missing."""
    try:
        import sentry_sdk
    except ModuleNotFoundError:
        raise ImproperlyConfigured(
            "SENTRY_DSN is set, but sentry-sdk is not installed: pip install -r requirements-telemetry.txt"
        ) from None
    try:
        sentry_sdk.init(
            dsn=settings.SENTRY_DSN,
            environment=settings.SENTRY_ENVIRONMENT,
            before_send=fit_to_send,
            default_integrations=False,
            auto_enabling_integrations=False,
            auto_session_tracking=False,
            send_client_reports=False,
            send_default_pii=False,
            include_local_variables=False,
            include_source_context=False,
            max_breadcrumbs=0,
            max_request_body_size="never",
            propagate_traces=False,
        )
    except sentry_sdk.utils.BadDsn:
        raise ImproperlyConfigured("SENTRY_DSN is no address of a Sentry project: https://key@host/number") from None
    logging.getLogger().addHandler(Reporter(sentry_sdk.capture_event))


class Reporter(logging.Handler):
    def __init__(self, send: Any) -> None:
        super().__init__(logging.ERROR)
        self.send = send

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.partition(".")[0] in NEVER_REPORTED:
            return
        try:
            self.send(event_of(record))
        except Exception:
            self.handleError(record)


def event_of(record: logging.LogRecord) -> Event:
    """Sentry's event for a log record."""
    line = record.msg if isinstance(record.msg, Mapping) else {}
    tags = {"request_id": current_request_id(), "error": _error_name(line.get("error"))}
    event: Event = {
        "level": record.levelname.lower(),
        "logger": record.name,
        "platform": "python",
        "logentry": {"message": _words(record, line)},
        "tags": {name: value for name, value in tags.items() if value},
    }
    raised = _raised(record.exc_info or line.get("exc_info"))
    if raised is not None:
        event["exception"] = {"values": list(reversed([_shown(error) for error in _chain(raised)]))}
    return event


def _words(record: logging.LogRecord, line: Mapping[str, Any]) -> str:
    """The message without its variable parts."""
    if record.name.partition(".")[0] not in CONSTANT_WORDS:
        return "An error in a library"
    return str(line.get("event", "")) if line else str(record.msg)


def _error_name(value: object) -> str:
    return value if isinstance(value, str) and _ERROR_NAME.fullmatch(value) else ""


def _raised(info: Any) -> BaseException | None:
    """As loggers accept it: an exception, the result of ``sys.exc_info``, or a flag."""
    if isinstance(info, BaseException):
        return info
    _, error, _ = info if isinstance(info, tuple) else sys.exc_info() if info else (None, None, None)
    return error if isinstance(error, BaseException) else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and the chain of its causes."""
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen and len(seen) < CAUSES:
        seen.append(current)
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def _shown(error: BaseException) -> Event:
    """Type and place only. An exception's message may contain anything: a prompt, a row, a key."""
    frames = [
        {
            "filename": _place(frame.f_code.co_filename),
            "function": frame.f_code.co_name,
            "module": frame.f_globals.get("__name__", ""),
            "lineno": line,
            "in_app": _is_ours(frame.f_code.co_filename),
        }
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    shown: Event = {"type": type(error).__name__, "module": type(error).__module__, "value": ""}
    return {**shown, "stacktrace": {"frames": frames}} if frames else shown


def _is_ours(file: str) -> bool:
    path = Path(file)
    return path.is_relative_to(BASE_DIR) and "site-packages" not in path.parts


def _place(file: str) -> str:
    """Without this machine's folders."""
    if _is_ours(file):
        return str(Path(file).relative_to(BASE_DIR))
    return file.rpartition("site-packages/")[2].rpartition("lib/python3")[2]


def fit_to_send(event: Event, hint: object = None) -> Event:
    """The event reduced to the parts that ``event_of`` creates, with keys redacted."""
    return {name: _redacted(value) for name, value in event.items() if name in PARTS}


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)[:LONGEST]
    if isinstance(value, Mapping):
        return {str(name): _redacted(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(inner) for inner in value]
    return value
