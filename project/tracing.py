"""Spans for an operator's OpenTelemetry collector: requests, the jobs they start, and attempts at providers.

Nothing of this is imported if ``OTEL_EXPORTER_OTLP_ENDPOINT`` is unset. Spans are created only here, with values from
closed sets and numbers. The tracer is not global, so libraries that would trace users' text, such as SDKs, find none.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import partial
from typing import Any, Final, TypeAlias

from celery.signals import before_task_publish, task_postrun, task_prerun, worker_process_shutdown
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponseBase
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from llm_credentials import metrics
from llm_credentials.ledger.entries import Entry, Outcome
from llm_credentials.providers.registry import spec_or_none
from llm_credentials.routing import kinds
from llm_credentials.routing.receipt import OK
from project.logging import current_request_id, redact
from project.metrics import surface_of
from project.middleware import REQUEST_ID, middleware_of, nothing

Attributes: TypeAlias = dict[str, str | int | float]

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER: Final = "other"
"""Replaces values chosen by outsiders, which must not become attributes."""
EXPORT_TIMEOUT_S: Final = 5
TRACE_HEADER: Final = "traceparent"

_parent: ContextVar[Context | None] = ContextVar("trace_parent", default=None)
"""Parent context of new spans. The bridge copies variables of this name to its own loop."""
_carrier: Final = TraceContextTextMapPropagator()
_jobs: dict[str, tuple[Span, Any]] = {}
"""Running jobs of this process, by task id: the span, and the token that resets its context."""
_tracer: Tracer
_flush: Callable[[], object] = bool
"""Sends pending spans; blocks."""


def install() -> None:
    """Start tracing in this process and its forks. Raises ImproperlyConfigured if the packages are missing."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
    except ModuleNotFoundError as missing:
        raise ImproperlyConfigured(
            f"OTEL_EXPORTER_OTLP_ENDPOINT is set, but {missing.name} is not installed: "
            "pip install -r requirements-telemetry.txt"
        ) from None
    address = f"{settings.OTEL_EXPORTER_OTLP_ENDPOINT.rstrip('/')}/v1/traces"
    exporter = OTLPSpanExporter(endpoint=address, headers=settings.OTEL_EXPORTER_OTLP_HEADERS, timeout=EXPORT_TIMEOUT_S)
    provider = TracerProvider(
        resource=Resource.create({"service.name": settings.OTEL_SERVICE_NAME}),
        sampler=ParentBased(TraceIdRatioBased(settings.OTEL_TRACES_SAMPLER_ARG)),
    )
    provider.add_span_processor(BatchSpanProcessor(exporter))
    global _flush
    _flush = partial(provider.force_flush, EXPORT_TIMEOUT_S * 1000)
    worker_process_shutdown.connect(lambda **_: _flush(), weak=False)  # pool processes exit without flushing
    trace_with(provider.get_tracer("keyswitch"))


def trace_with(tracer: Tracer) -> None:
    global _tracer
    _tracer = tracer
    metrics.also_tell(attempt_ended)
    before_task_publish.connect(job_sent)
    task_prerun.connect(job_began)
    task_postrun.connect(job_ended)


def _begun(name: str, kind: SpanKind, attributes: Attributes, began_ns: int | None = None) -> Span:
    """``began_ns``: since 1970, if the span began earlier."""
    told = {key: redact(value) if isinstance(value, str) else value for key, value in attributes.items()}
    # An empty context rather than None, which would mean the current context of another tracer.
    parent = _parent.get() or Context()
    return _tracer.start_span(redact(name), context=parent, kind=kind, attributes=told, start_time=began_ns)


# Requests


class Traced:
    """An ASGI application with a span for each request, up to the end of its response."""

    def __init__(self, application: Any) -> None:
        self.application = application

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        if scope["type"] != "http":
            await self.application(scope, receive, send)
            return
        attributes = attributes_of_request(scope)
        name = f"{attributes['http.request.method']} {attributes['keyswitch.surface']}"
        span = _begun(name, SpanKind.SERVER, attributes)
        _parent.set(set_span_in_context(span, Context()))

        async def noting(message: Any) -> None:
            if message["type"] == "http.response.start":
                note_answer(span, message["status"], dict(message.get("headers", ())))
            await send(message)

        try:
            await self.application(scope, receive, noting)
        finally:
            span.end()


async def _live(receive: Any, send: Any) -> None:
    """Flush at shutdown: the server then ends by the signal it got, and exit handlers never run."""
    while True:
        kind = (await receive())["type"]
        if kind == "lifespan.shutdown":
            await asyncio.to_thread(_flush)
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


def attributes_of_request(scope: Mapping[str, Any]) -> Attributes:
    """Neither path, query, address nor headers; ``RouteMiddleware`` adds the route."""
    method = scope["method"] if scope["method"] in METHODS else OTHER
    return {"http.request.method": method, "keyswitch.surface": surface_of(scope["path"])}


def note_answer(span: Span, status: int, headers: Mapping[bytes, bytes]) -> None:
    span.set_attribute("http.response.status_code", status)
    request_id = headers.get(REQUEST_ID.lower().encode()) or headers.get(REQUEST_ID.encode())
    if request_id is not None:
        span.set_attribute("keyswitch.request_id", redact(request_id.decode("latin-1")))
    if status >= 500:
        span.set_status(Status(StatusCode.ERROR))


def _note_route(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    found, parent = request.resolver_match, _parent.get()
    if found is not None and parent is not None:
        get_current_span(parent).set_attribute("http.route", f"/{found.route}")
    return response


RouteMiddleware = middleware_of(nothing, _note_route)
"""Adds the URL pattern, which contains no ids, to the request's span."""


# Jobs


def job_sent(headers: dict[str, Any] | None = None, **kwargs: Any) -> None:
    """Pass the request's span with the message if the request started the job (see ``project.celery``)."""
    if headers is not None and (parent := _parent.get()) is not None and headers.get("request_id"):
        _carrier.inject(headers, context=parent)


def job_began(task_id: str, task: Any, **kwargs: Any) -> None:
    sent = {TRACE_HEADER: str(task.request.get(TRACE_HEADER) or "")}
    _parent.set(_carrier.extract(sent, context=Context()))
    attributes: Attributes = {"keyswitch.job": task.name, "keyswitch.request_id": current_request_id()}
    span = _begun(f"job {task.name}", SpanKind.CONSUMER, attributes)
    _jobs[task_id] = span, _parent.set(set_span_in_context(span, Context()))


def job_ended(task_id: str, state: str | None = None, **kwargs: Any) -> None:
    """``state`` is Celery's state name; error messages stay in the log."""
    span, _token = _jobs.pop(task_id, (None, None))
    _parent.set(None)
    if span is None:
        return
    span.set_attribute("keyswitch.state", state or "")
    if state == "FAILURE":
        span.set_status(Status(StatusCode.ERROR))
    span.end()


# Attempts at providers


def attempt_ended(entry: Entry, ended: Outcome) -> None:
    now_ns = time.time_ns()
    span = _begun(
        f"attempt {entry.provider}",
        SpanKind.CLIENT,
        attributes_of_attempt(entry, ended),
        began_ns=now_ns - ended.latency_ms * 1_000_000,
    )
    if ended.outcome != OK:
        span.set_status(Status(StatusCode.ERROR))
    span.end(end_time=now_ns)


def attributes_of_attempt(entry: Entry, ended: Outcome) -> Attributes:
    """With OpenTelemetry's names where they exist. Without user, key and text; models only by their catalogue name."""
    found: dict[str, str | int | float | None] = {
        "gen_ai.provider.name": entry.provider,
        "gen_ai.request.model": _known_model(entry.provider, entry.model),
        "gen_ai.usage.input_tokens": ended.usage.input_tokens,
        "gen_ai.usage.output_tokens": ended.usage.output_tokens,
        "error.type": None if ended.outcome == OK else ended.outcome,
        "keyswitch.task": entry.task if kinds.get(entry.task) else OTHER,
        "keyswitch.key_owner": entry.key_owner,
        "keyswitch.first_content_ms": ended.ttft_ms,
        "keyswitch.cost_usd": None if ended.cost_usd is None else float(ended.cost_usd),
        "keyswitch.request_id": current_request_id(),
    }
    return {name: value for name, value in found.items() if value is not None}


def _known_model(provider: str, model: str) -> str:
    spec = spec_or_none(provider)
    facts = spec.model_facts(model) if spec else None
    return facts.id if facts else OTHER
