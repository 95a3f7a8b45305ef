"""Traces and error reports on their whole way: a site with its worker, and an operator's collectors that listen."""

from __future__ import annotations

import gzip
import json
import signal
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx2
import pytest

from project.tests.checkout import Site, copy_checkout
from project.tests.servers import wait_until

MISSING = [name for name in ("opentelemetry.sdk", "sentry_sdk") if find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason="pip install -r requirements-telemetry.txt brings what this needs"),
]
CANARY = "marzipan"
BREAKS = """
def _breaks(request):
    raise RuntimeError("could not answer " + request.GET["q"])


urlpatterns = [path("breaks/", _breaks), *urlpatterns]
"""


class Collector:
    """Takes what is sent to it, as OTLP over HTTP and as Sentry's envelopes."""

    def __init__(self) -> None:
        taken: list[tuple[str, bytes]] = []

        class Taking(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                coded = self.headers.get("Content-Encoding")
                body = gzip.decompress(body) if coded == "gzip" else zlib.decompress(body) if coded else body
                taken.append((self.path, b"%r\n" % dict(self.headers) + body if "envelope" in self.path else body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Not into the test's output."""

        self.taken = taken
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Taking)
        self.address = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def spans(self) -> list[dict[str, Any]]:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        sent = [ExportTraceServiceRequest.FromString(body) for path, body in self.taken if path == "/v1/traces"]
        return [
            {
                "name": span.name,
                "trace": span.trace_id,
                "id": span.span_id,
                "parent": span.parent_span_id,
                "request": next(
                    (each.value.string_value for each in span.attributes if each.key == "keyswitch.request_id"), ""
                ),
            }
            for request in sent
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @property
    def reports(self) -> list[dict[str, Any]]:
        lines = [line for path, body in self.taken if "/envelope/" in path for line in body.splitlines()]
        return [json.loads(line) for line in lines if b'"exception"' in line]


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.server.shutdown()


@pytest.fixture
def site(collector: Collector, tmp_path: Path) -> Iterator[Site]:
    site = Site(copy_checkout(tmp_path / "site"))
    (site.directory / ".env").write_text(
        f"LOCAL=true\nOTEL_EXPORTER_OTLP_ENDPOINT=http://{collector.address}\n"
        f"SENTRY_DSN=http://0123456789abcdef@{collector.address}/1\n"
    )
    with (site.directory / "project/urls.py").open("a") as urls:
        urls.write(BREAKS)
    site.start()
    yield site
    site.wipe_out()


def test_collectors_hear_of_a_run_and_an_error_and_nobodys_words(site: Site, collector: Collector) -> None:
    token = site.manage("token_create", "demo").stdout.split()[-1]
    root, who = f"http://127.0.0.1:{site.port}", {"Authorization": f"Bearer {token}"}
    asked = {"input": f"say the word {CANARY}"}
    begun = httpx2.post(f"{root}/api/agents/conversation/runs", json=asked, headers=who, timeout=60)
    run = f"{root}/api/runs/{begun.json()['id']}"
    wait_until(lambda: httpx2.get(run, headers=who, timeout=60).json()["state"] == "done", "the answer", limit_s=60)
    broken = httpx2.get(f"{root}/breaks/?q={CANARY}", headers=who, timeout=60)
    assert broken.status_code == 500
    site.send(signal.SIGINT)
    site.wait_end()
    one = begun.headers["x-request-id"]
    spans = {span["name"]: span for span in collector.spans if span["request"] == one}
    assert spans.keys() == {"POST api", "job agents.run_agent", "attempt sandbox"}
    assert len({span["trace"] for span in spans.values()}) == 1
    assert spans["job agents.run_agent"]["parent"] == spans["POST api"]["id"]
    assert spans["attempt sandbox"]["parent"] == spans["job agents.run_agent"]["id"]
    report = next(each for each in collector.reports if each["tags"]["request_id"] == broken.headers["x-request-id"])
    assert [error["type"] for error in report["exception"]["values"]] == ["RuntimeError"]
    everything = b"".join(body for _, body in collector.taken)
    for secret in (CANARY, token, "sbx-", "demo"):
        assert secret.encode() not in everything, secret
