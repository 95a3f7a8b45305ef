"""What the operator's Sentry is told of an error, and what it never is. The whole way there: ``test_telemetry.py``."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from django.core.exceptions import ImproperlyConfigured

from project import error_reports
from project.error_reports import Reporter, fit_to_send
from project.middleware import request_id

ID = "0123456789abcdef"
CANARY = "marzipan"


@pytest.fixture
def sent() -> Iterator[list[dict[str, Any]]]:
    """What would be sent of the lines that are logged meanwhile."""
    events: list[dict[str, Any]] = []
    reporter = Reporter(lambda event: events.append(fit_to_send(event)))
    token = request_id.set(ID)
    logging.getLogger().addHandler(reporter)
    yield events
    logging.getLogger().removeHandler(reporter)
    request_id.reset(token)


def fail(prompt: str) -> None:
    local = prompt  # what reports of other makers show
    try:
        raise KeyError(local)
    except KeyError as cause:
        raise RuntimeError(f"could not answer {prompt}") from cause


def test_report_says_which_error_and_where_and_nobodys_words(sent: list[dict[str, Any]]) -> None:
    try:
        fail(CANARY)
    except RuntimeError:
        logging.getLogger("django.request").exception("Internal Server Error: %s", f"/x/?q={CANARY}")
    (event,) = sent
    assert event["tags"] == {"request_id": ID}
    assert event["logentry"]["message"] == "Internal Server Error: %s"
    cause, error = event["exception"]["values"]
    assert (cause["type"], error["type"]) == ("KeyError", "RuntimeError")
    assert error["stacktrace"]["frames"][-1]["function"] == "fail"
    assert error["stacktrace"]["frames"][-1]["filename"] == "project/tests/test_error_reports.py"
    assert CANARY not in repr(event)


def test_report_of_our_own_line_keeps_its_event_and_the_errors_name(sent: list[dict[str, Any]]) -> None:
    structlog.get_logger("llm_credentials.x").error("ledger_away", error="OperationalError", subject=CANARY)
    structlog.get_logger("llm_credentials.x").error("ledger_away", error=f"said {CANARY}")
    named, quoted = sent
    assert (named["logentry"]["message"], named["tags"]["error"]) == ("ledger_away", "OperationalError")
    assert "error" not in quoted["tags"]
    assert CANARY not in repr(sent)


def test_report_of_a_librarys_line_leaves_its_words_out(sent: list[dict[str, Any]]) -> None:
    logging.getLogger("asyncio").error(f"Task exception was never retrieved: {CANARY}")
    assert [event["logger"] for event in sent] == ["asyncio"]
    assert CANARY not in repr(sent)


def test_nothing_is_reported_below_errors_or_of_the_reporting_itself(sent: list[dict[str, Any]]) -> None:
    logging.getLogger("project").warning("slow")
    logging.getLogger("sentry_sdk.errors").error("not sent")
    logging.getLogger("opentelemetry.exporter").error("not sent")
    assert sent == []


def test_report_takes_out_what_an_sdk_adds() -> None:
    parts = ("user", "request", "server_name", "breadcrumbs", "extra", "contexts", "modules", "transaction", "message")
    event = {name: {CANARY: CANARY} for name in parts}
    fitted = fit_to_send({**event, "level": "error", "tags": {"request_id": "sk-canary-0123456789"}})
    assert fitted == {"level": "error", "tags": {"request_id": "[redacted]"}}


def test_report_of_errors_that_caused_each_other_ends(sent: list[dict[str, Any]]) -> None:
    one, two = ValueError("a"), ValueError("b")
    one.__cause__, two.__cause__ = two, one
    logging.getLogger("project").error("stuck", exc_info=one)
    assert len(sent[0]["exception"]["values"]) == 2


def test_reporting_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentry_sdk", None)
    with pytest.raises(ImproperlyConfigured, match="requirements-telemetry"):
        error_reports.install()
