"""The ``/metrics`` endpoint for Prometheus, and the ASGI wrapper that counts requests."""

from __future__ import annotations

import secrets
import time
from collections import Counter as Counts
from collections.abc import Iterator, Sequence
from functools import cache
from ipaddress import ip_address
from typing import Any, Final

from django.conf import settings
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CollectorRegistry, Counter, Histogram, exposition, registry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector

from llm_credentials.audit.ends import rows_by_chain
from llm_credentials.providers.registry import all_specs
from llm_credentials.wall import open_for
from project import vitals

REQUEST_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)
PROXIED: Final = ("X-Forwarded-For", "X-Real-IP", "Forwarded", "Via")
"""Any of these headers means that the request came through a proxy on this machine."""
SURFACES: Final = frozenset({"accounts", "admin", "agents", "api", "conversations", "runs", "settings", "static", "v1"})
"""First path segments with their own label; all others are ``other``, so that guessed paths create no labels."""

REQUESTS = Counter("keyswitch_http_requests", "Requests answered", ["surface", "status"])
SECONDS = Histogram("keyswitch_http_request_seconds", "Until the head of the answer", ["surface"], buckets=REQUEST_S)


@cache
def _requests(surface: str, status: str) -> Counter:
    return REQUESTS.labels(surface, status)


@cache
def _seconds(surface: str) -> Histogram:
    return SECONDS.labels(surface)


def surface_of(path: str) -> str:
    first = path[1:].partition("/")[0]
    return first if first in SURFACES else "other"


class Measured:
    """An ASGI application whose responses are counted; for streams, the time to their headers."""

    def __init__(self, application: Any) -> None:
        self.application = application

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.application(scope, receive, send)
            return
        surface, began = surface_of(scope["path"]), time.perf_counter()

        async def counting(message: Any) -> None:
            if message["type"] == "http.response.start":
                _requests(surface, f"{message['status'] // 100}xx").inc()
                _seconds(surface).observe(time.perf_counter() - began)
            await send(message)

        await self.application(scope, receive, counting)


class Vitals(registry.Collector):
    """The state of the site's parts, read on each scrape."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        with open_for("metrics"):
            now = vitals.take()
            chains = _audit_rows()
        yield _one("keyswitch_valkey_up", "Whether Valkey answers", now.valkey_answers)
        if now.valkey_answers:
            yield _one("keyswitch_workers", "Workers that gave a sign of life", sum(one.alive for one in now.workers))
            yield _one("keyswitch_jobs_taken", "Jobs handed to a worker and not finished", now.taken)
            yield _breakers(now.destinations)
            yield _one("keyswitch_cooling_keys", "Keys that were asked to slow down", now.cooling_keys)
            waiting = GaugeMetricFamily("keyswitch_queue_depth", "Jobs that wait", labels=["queue"])
            for queue in now.queues:
                waiting.add_metric([queue.name], queue.waiting)
            yield waiting
        troubles = GaugeMetricFamily("keyswitch_troubles", "Parts of the site in trouble", labels=["meaning"])
        for meaning in ("attention", "broken"):
            troubles.add_metric([meaning], sum(part.meaning == meaning for part in now.parts))
        yield troubles
        if chains:
            rows = GaugeMetricFamily("keyswitch_audit_rows", "Rows that a chain of the trail had", labels=["chain"])
            for chain, count in chains.items():
                rows.add_metric([str(chain)], count)
            yield rows


def _audit_rows() -> dict[int, int]:
    """None if the database is away; chains without rows are included, so that a deleted chain shows."""
    try:
        return rows_by_chain()
    except DatabaseError:
        return {}


def _breakers(open_now: Sequence[vitals.Resting]) -> GaugeMetricFamily:
    """By provider, never by address, because users' own addresses are among them."""
    found = GaugeMetricFamily(
        "keyswitch_resting_destinations", "Addresses that are left alone: breakers that are open", labels=["provider"]
    )
    many = Counts(each.provider for each in open_now)
    for spec in all_specs():
        found.add_metric([spec.slug], many[spec.slug])
    return found


def _one(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=float(value))


@never_cache
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """In Prometheus' text format. Requires ``METRICS_TOKEN``; if none is set, only this machine may read it."""
    if not _may_read(request):
        return HttpResponse("Not for this address: set METRICS_TOKEN and send it as a bearer token.\n", status=403)
    gauges = CollectorRegistry()
    gauges.register(Vitals())
    text = exposition.generate_latest(counted()) + exposition.generate_latest(gauges)
    return HttpResponse(text, content_type=exposition.CONTENT_TYPE_LATEST)


def counted() -> CollectorRegistry:
    """This process's metrics, or those of all processes of this machine."""
    if not settings.METRICS_DIR:
        return registry.REGISTRY
    together = CollectorRegistry()
    MultiProcessCollector(together, settings.METRICS_DIR)  # type: ignore[no-untyped-call]
    return together


def _may_read(request: HttpRequest) -> bool:
    if settings.METRICS_TOKEN:
        given = request.headers.get("Authorization", "")
        return secrets.compare_digest(given.encode(), f"Bearer {settings.METRICS_TOKEN}".encode())
    if any(name in request.headers for name in PROXIED):
        return False
    try:
        return ip_address(request.META.get("REMOTE_ADDR", "")).is_loopback
    except ValueError:
        return False
