"""Structured logs without keys, whoever wrote the line: ours, Django's, Celery's, uvicorn's or an SDK's."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, ItemsView, Mapping, MutableMapping
from typing import Any

import structlog
from django.http import HttpRequest
from django.views.debug import SafeExceptionReporterFilter

from project.middleware import request_id

REDACTED = "[redacted]"
_further: list[Callable[[str], str]] = []

_SECRET_FIELD = re.compile(
    r"(?i)^(?:.*[_-])?(api[_-]?keys?|authorization|cookie|credential[_-]keys|passw(?:or)?d\d?|secret(?:[_-]key)?|token)$"
)
_SHAPES = (
    # name=value and name: value, as in query strings, headers, JSON and reprs. The lookbehind lets a match begin only
    # at a word's start, so that long text before it is not rescanned from every position.
    re.compile(
        r"(?i)(?P<keep>(?<![^\W_])(?:api[_-]?key|authorization|password|secret|token)[\"']?\s*[:=]\s*[\"']?"
        r"(?:(?:bearer|basic)\s+)?)(?!\[redacted\]|None\b|null\b)[^\s\"',;&}\])]+"
    ),
    re.compile(r"(?i)(?P<keep>[?&]key=)[^\s\"'&]+"),
    re.compile(r"(?i)(?P<keep>\b(?:bearer|basic)\s+)(?!\[redacted\])[\w.~+/=-]{6,}"),
    re.compile(r"(?P<keep>://)[^/\s:@]*:[^/\s@]+(?=@)"),
)
_BARE_KEYS = r"sk-|AIza|gsk_|xai-|ksw_|dop_v1_|hf_|gAAAA"
_sealed = re.compile(rf"(?<![A-Za-z0-9])(?:{_BARE_KEYS})[\w=-]{{8,}}")
_exact: re.Pattern[str] | None = None


def know_secrets(*, prefixes: Collection[str], values: Collection[str]) -> None:
    """Register key prefixes of the providers, and this site's own secrets verbatim."""
    global _sealed, _exact
    known = "|".join(sorted((re.escape(prefix) for prefix in prefixes if len(prefix) >= 3), key=len, reverse=True))
    _sealed = re.compile(rf"(?<![A-Za-z0-9])(?:{_BARE_KEYS}{'|' + known if known else ''})[\w=-]{{8,}}")
    long_enough = sorted({value for value in values if len(value) >= 8}, key=len, reverse=True)
    _exact = re.compile("|".join(map(re.escape, long_enough))) if long_enough else None


def also_redact(redacted: Callable[[str], str]) -> None:
    """Add a function that every line passes first. It must do no I/O and raise nothing."""
    _further.append(redacted)


def redact(text: str) -> str:
    """The text without anything that looks like a key, token, password or ciphertext."""
    for redacted in _further:
        text = redacted(text)
    if _exact:
        text = _exact.sub(REDACTED, text)
    for shape in _SHAPES:
        text = shape.sub(rf"\g<keep>{REDACTED}", text)
    return _sealed.sub(REDACTED, text)


def _redact_value(name: str, value: Any) -> Any:
    if value and _SECRET_FIELD.match(name):
        return REDACTED
    if isinstance(value, Mapping):
        return {str(key): _redact_value(str(key), inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_redact_value("", inner) for inner in value]
    return value


def redact_fields(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """structlog processor: hides the values of fields with secret names."""
    event.pop("color_message", None)  # uvicorn's second copy of its line
    return {name: value if name.startswith("_") else _redact_value(name, value) for name, value in event.items()}


def current_request_id() -> str:
    """Of the current request, or of the request that started the current job; else empty."""
    return str(structlog.contextvars.get_contextvars().get("request_id") or request_id.get())


def add_request_id(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if current := current_request_id():
        event.setdefault("request_id", current)
    return event


class RedactingFormatter(structlog.stdlib.ProcessorFormatter):
    """Applies ``redact`` to the final text of every line, whatever its parts were."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


_SHARED: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    add_request_id,
]


def formatter(kind: str) -> RedactingFormatter:
    """``json``, or ``console`` for people."""
    last: list[Any] = (
        [structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)]
        if kind == "console"
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    return RedactingFormatter(
        foreign_pre_chain=[*_SHARED, structlog.stdlib.ExtraAdder()],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, redact_fields, *last],
    )


def configure(*, level: str, kind: str) -> dict[str, Any]:
    """Configures structlog; returns the ``LOGGING`` setting that routes the standard library through it."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    # Listed without handlers, so that handlers attached by their libraries are removed and all go through ours.
    through_root = ("django", "django.server", "uvicorn", "uvicorn.access", "uvicorn.error", "celery", "celery.task")
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": "project.logging.formatter", "kind": kind}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"handlers": ["stderr"], "level": level},
        "loggers": {name: {"handlers": [], "propagate": True, "level": level} for name in through_root},
    }


class HidingReporterFilter(SafeExceptionReporterFilter):
    """Error reports and the debug page never show form values, variables or keys, with or without DEBUG."""

    def is_active(self, request: HttpRequest | None) -> bool:
        return True

    def get_post_parameters(self, request: HttpRequest | None) -> dict[str, Any]:
        post = super().get_post_parameters(request)
        return dict.fromkeys(post, self.cleansed_substitute)

    def get_traceback_frame_variables(self, request: Any, tb_frame: Any) -> ItemsView[str, Any]:
        return dict.fromkeys(tb_frame.f_locals, self.cleansed_substitute).items()
