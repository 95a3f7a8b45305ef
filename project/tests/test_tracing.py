"""What the operator's collector is told, and what it never is. The whole way there: ``test_telemetry.py``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from asgiref.sync import sync_to_async
from celery import shared_task
from celery.signals import before_task_publish, task_postrun, task_prerun
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, get_current_span

from llm_credentials import metrics, services
from llm_credentials.factory import client_for
from llm_credentials.ledger.entries import Entry, Outcome, State
from llm_credentials.providers import LLMMessage, Usage
from project import tracing
from project.logging import current_request_id
from project.middleware import request_id
from project.tests.servers import wait_until

ID = "0123456789abcdef"
KEY = "sbx-good-canary-0123456789"
CANARY = "marzipan"


class Noted(NonRecordingSpan):
    """A span that remembers what it was told."""

    def __init__(self, number: int, name: str, parent: int, attributes: dict[str, Any]) -> None:
        trace = SpanContext(trace_id=7, span_id=number, is_remote=False, trace_flags=TraceFlags(1))
        super().__init__(trace)
        self.name, self.parent, self.told, self.ended = name, parent, dict(attributes), False

    def set_attribute(self, key: str, value: Any) -> None:
        self.told[key] = value

    def end(self, end_time: int | None = None) -> None:
        self.ended = True


class Notebook:
    """In the place of the SDK's tracer, which need not be installed."""

    def __init__(self) -> None:
        self.spans: list[Noted] = []

    def start_span(self, name: str, *, context: Context, attributes: dict[str, Any], **_: Any) -> Noted:
        parent = get_current_span(context).get_span_context().span_id
        self.spans.append(Noted(len(self.spans) + 1, name, parent, attributes))
        return self.spans[-1]

    @property
    def ended(self) -> set[str]:
        return {span.name for span in self.spans if span.ended}


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    notes = Notebook()
    monkeypatch.setattr(tracing, "_tracer", notes, raising=False)
    monkeypatch.setattr(metrics, "_told", [])
    token = tracing._parent.set(None)
    tracing.trace_with(notes)  # type: ignore[arg-type]
    yield notes
    before_task_publish.disconnect(tracing.job_sent)
    task_prerun.disconnect(tracing.job_began)
    task_postrun.disconnect(tracing.job_ended)
    tracing._parent.reset(token)


@pytest.mark.django_db(transaction=True)
async def test_request_and_attempt_are_one_trace_without_anybodys_words(notebook: Notebook, sandbox_url: str) -> None:
    alice = await sync_to_async(User.objects.create_user)("alice-marzipan")
    await sync_to_async(services.credential_save)(user=alice, provider="sandbox", api_key=KEY)
    said = []

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        request_id.set(ID)
        said.append(await client_for(alice, task="conversation").complete([LLMMessage.user(f"say the word {CANARY}")]))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-request-id", ID.encode())]})

    async def send(message: Any) -> None:
        pass

    scope = {"type": "http", "method": "POST", "path": f"/agents/{CANARY}/", "query_string": f"q={CANARY}".encode()}
    await tracing.Traced(answer)({**scope, "headers": [(b"authorization", KEY.encode())]}, None, send)
    assert CANARY in said[0].text
    request, attempt = notebook.spans
    assert notebook.ended == {"attempt sandbox", "POST agents"}
    assert (request.parent, attempt.parent) == (0, 1)
    assert request.told["keyswitch.request_id"] == attempt.told["keyswitch.request_id"] == ID
    assert request.told["http.response.status_code"] == 200
    assert attempt.told["gen_ai.usage.output_tokens"] == said[0].usage.output_tokens
    words = repr([(span.name, span.told) for span in notebook.spans])
    assert CANARY not in words
    assert KEY not in words


def entry(**changes: Any) -> Entry:
    values = {"call_id": uuid4(), "user_id": 4711, "credential_id": uuid4(), "token_id": uuid4()}
    return Entry(
        **{**values, "task": "conversation", "provider": "openai", "model": "x", "key_owner": "user"} | changes
    )


ENDED = Outcome(state=State.SETTLED, outcome="ok", latency_ms=12, ttft_ms=3, usage=Usage(input_tokens=10))


def test_attempt_tells_neither_whose_it_is_nor_what_was_typed() -> None:
    one = entry(model=f"ft:gpt:{CANARY}", task=CANARY)
    told = tracing.attributes_of_attempt(one, ENDED)
    assert told["gen_ai.request.model"] == told["keyswitch.task"] == tracing.OTHER
    assert (told["gen_ai.usage.input_tokens"], told["keyswitch.first_content_ms"]) == (10, 3)
    for secret in (CANARY, str(one.user_id), str(one.credential_id), str(one.token_id), str(one.call_id)):
        assert secret not in repr(told)


def test_attempt_names_the_model_as_the_catalogue_has_it_and_what_went_wrong() -> None:
    from llm_credentials.providers.registry import get_spec

    known = get_spec("openai").models[0].id
    told = tracing.attributes_of_attempt(entry(model=f"ft:{known}:{CANARY}"), replace(ENDED, outcome="RateLimited"))
    assert (told["gen_ai.request.model"], told["error.type"]) == (known, "RateLimited")


def test_request_id_that_is_a_key_is_redacted(notebook: Notebook) -> None:
    token = request_id.set(KEY.replace("sbx", "sk"))
    try:
        tracing.attempt_ended(entry(), ENDED)
    finally:
        request_id.reset(token)
    assert "canary" not in repr(notebook.spans[0].told)


def test_request_of_a_made_up_method_and_path_makes_no_words_of_its_own() -> None:
    told = tracing.attributes_of_request({"method": CANARY, "path": f"/{CANARY}/x"})
    assert set(told.values()) == {tracing.OTHER}


_seen: list[str] = []


@shared_task(name="project.tests.note_request")
def note_request() -> None:
    _seen.append(current_request_id())


def test_job_carries_the_request_that_asked_for_it(notebook: Notebook, celery_worker_thread: Any) -> None:
    _seen.clear()
    request = notebook.start_span("GET runs", context=Context(), attributes={})
    ids, parent = request_id.set(ID), tracing._parent.set(tracing.set_span_in_context(request, Context()))
    try:
        note_request.delay()
        by_itself = note_request.apply_async(headers={"request_id": ""})
    finally:
        request_id.reset(ids)
        tracing._parent.reset(parent)
    wait_until(lambda: sum(span.ended for span in notebook.spans) == 2, "both jobs")
    assert set(_seen) == {ID, by_itself.id}
    jobs = {span.told["keyswitch.request_id"]: span for span in notebook.spans[1:]}
    assert jobs[ID].parent == 1
    assert jobs[by_itself.id].parent == 0
    assert jobs[ID].told["keyswitch.state"] == "SUCCESS"


def test_tracing_without_its_packages_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter", None)
    with pytest.raises(ImproperlyConfigured, match="requirements-telemetry"):
        tracing.install()
