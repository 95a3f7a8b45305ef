"""The failover table against a provider on real sockets that fails as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import structlog
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from structlog.contextvars import bound_contextvars, merge_contextvars

from llm_credentials.factory import RoutedClient, RoutedResponse, client_for
from llm_credentials.models import UsageRecord, UserCredential
from llm_credentials.providers import (
    AuthenticationFailed,
    BadProviderResponse,
    ConnectionFailed,
    ContentFiltered,
    ContextLengthExceeded,
    DeadlineExceeded,
    LLMError,
    LLMMessage,
    ModelNotFound,
    NotConfigured,
    PermissionDenied,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
    StreamInterrupted,
    ToolDefinition,
    UnsupportedContent,
)
from llm_credentials.routing import rules
from llm_credentials.tests.routed_calls import ANSWER, ASK, SECOND, completed, outcomes, requests_of

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("empty_journal")]


async def streamed(client: RoutedClient, **extra: Any) -> RoutedResponse:
    chunks = [chunk async for chunk in client.stream(ASK, **extra)]
    response = chunks[-1].response
    assert isinstance(response, RoutedResponse)
    assert "".join(chunk.text for chunk in chunks if chunk.type == "delta") == response.text
    return response


Ask = Callable[..., Awaitable[RoutedResponse]]
both = pytest.mark.parametrize("ask", [completed, streamed])


MOVES_ON = [
    ("500", ProviderUnavailable, 2),
    ("502", ProviderUnavailable, 2),
    ("503", ProviderUnavailable, 2),
    ("529", ProviderUnavailable, 2),
    ("409", ProviderUnavailable, 2),
    ("reset", ConnectionFailed, 2),
    ("cut-first", ConnectionFailed, 2),
    ("408", DeadlineExceeded, 1),
    ("429,retry-after:30", RateLimited, 1),
    ("429,retry-after:0", RateLimited, 2),
    ("429-bare", RateLimited, 1),
    ("quota", QuotaExhausted, 1),
    ("402", QuotaExhausted, 1),
    ("401", AuthenticationFailed, 1),
    ("403", PermissionDenied, 1),
    ("404", ModelNotFound, 1),
    ("context", ContextLengthExceeded, 1),
    ("html", BadProviderResponse, 2),
    ("204", BadProviderResponse, 2),
    ("302", BadProviderResponse, 2),
]
STOPS = [
    ("400", RequestRejected),
    ("413", RequestRejected),
    ("422", RequestRejected),
    ("prompt-refused", ContentFiltered),
]


@both
@pytest.mark.parametrize(("fault", "error", "times"), MOVES_ON)
def test_router_moves_on_after(
    alice: User, sandbox_chain: Any, sandbox_url: str, ask: Ask, fault: str, error: type[LLMError], times: int
) -> None:
    first, second = sandbox_chain(f"sandbox-chat+fault:{fault}")

    async def go() -> None:
        response = await ask(client_for(alice))
        assert ANSWER in response.text
        assert outcomes(response.receipt) == [error.__name__] * times + ["ok"]
        assert {attempt.credential_id for attempt in response.receipt.attempts[:-1]} == {first.pk}
        assert response.receipt.attempts[-1].credential_id == second.pk
        assert len(await requests_of(sandbox_url)) == times

    async_to_sync(go)()
    rows = UsageRecord.objects.order_by("at", "latency_ms").values_list("outcome", flat=True)
    assert sorted(rows) == sorted([error.__name__] * times + ["ok"])


@both
@pytest.mark.parametrize(("fault", "error"), STOPS)
def test_router_stops_at(
    alice: User, sandbox_chain: Any, sandbox_url: str, ask: Ask, fault: str, error: type[LLMError]
) -> None:
    sandbox_chain(f"sandbox-chat+fault:{fault}")

    async def go() -> None:
        with pytest.raises(error) as caught:
            await ask(client_for(alice))
        assert type(caught.value) is error
        assert outcomes(caught.value.receipt) == [error.__name__]
        assert await requests_of(sandbox_url, SECOND) == []

    async_to_sync(go)()


@both
def test_router_succeeds_at_the_second_try_of_the_same_key(alice: User, sandbox_chain: Any, ask: Ask) -> None:
    first, _ = sandbox_chain("sandbox-chat+fault:503@1")
    response = async_to_sync(ask)(client_for(alice))
    assert outcomes(response.receipt) == ["ProviderUnavailable", "ok"]
    assert response.receipt.attempts[-1].credential_id == first.pk


@both
def test_router_waits_as_long_as_a_provider_asks_if_that_is_soon(alice: User, sandbox_chain: Any, ask: Ask) -> None:
    sandbox_chain("sandbox-chat+fault:429@1,retry-after:1")
    response = async_to_sync(ask)(client_for(alice))
    assert outcomes(response.receipt) == ["RateLimited", "ok"]


@both
def test_router_moves_on_when_nothing_comes_in_time(alice: User, sandbox_chain: Any, ask: Ask) -> None:
    sandbox_chain("sandbox-chat+fault:stall-first")
    response = async_to_sync(ask)(client_for(alice), timeout_s=4)
    assert outcomes(response.receipt) == ["DeadlineExceeded", "ok"]


@both
def test_router_keeps_one_deadline_for_the_whole_chain(alice: User, sandbox_chain: Any, ask: Ask) -> None:
    sandbox_chain("sandbox-chat+fault:stall-first", second="sandbox-chat+fault:stall-first")

    async def go() -> None:
        # Each of the two would stay silent for ten minutes.
        with pytest.raises(DeadlineExceeded) as caught:
            await ask(client_for(alice), timeout_s=1)
        assert outcomes(caught.value.receipt) == ["DeadlineExceeded"] * 2

    async_to_sync(go)()


def test_router_never_switches_after_content(alice: User, sandbox_chain: Any, sandbox_url: str) -> None:
    sandbox_chain("sandbox-chat+fault:cut,after:2")
    seen: list[str] = []

    async def go() -> None:
        with pytest.raises(StreamInterrupted) as caught:
            async for chunk in client_for(alice).stream([LLMMessage.user("Count to ten, please.")]):
                seen.append(chunk.text)
        error = caught.value
        assert error.partial is not None
        assert error.partial.text == "".join(seen) != ""
        assert outcomes(error.receipt) == ["StreamInterrupted"]
        assert await requests_of(sandbox_url, SECOND) == []

    async_to_sync(go)()
    row = UsageRecord.objects.get()
    assert (row.state, row.outcome) == ("estimated", "StreamInterrupted")
    assert row.input_tokens and row.output_tokens


def test_router_logs_an_attempt_that_failed_under_the_request_that_asked(alice: User, sandbox_chain: Any) -> None:
    sandbox_chain("sandbox-chat+fault:429")
    with structlog.testing.capture_logs(processors=[merge_contextvars]) as logs, bound_contextvars(request_id="page1"):
        async_to_sync(completed)(client_for(alice, task="conversation"))
    line, *_ = [each for each in logs if each["event"] == "llm_attempt_failed"]
    assert (line["request_id"], line["outcome"], line["status_code"]) == ("page1", "RateLimited", 429)
    assert line["provider_request_id"]
    assert not {"model", "credential", "key"} & line.keys()


def test_router_marks_a_stream_with_an_error_event_as_interrupted(alice: User, sandbox_chain: Any) -> None:
    sandbox_chain("sandbox-chat+fault:error-event")

    async def go() -> None:
        with pytest.raises(StreamInterrupted) as caught:
            async for _ in client_for(alice).stream([LLMMessage.user("Tell me a long story about the sea.")]):
                pass
        assert outcomes(caught.value.receipt) == ["StreamInterrupted"]

    async_to_sync(go)()


def test_router_sends_nothing_before_real_content(alice: User, sandbox_chain: Any) -> None:
    """A stream that breaks before its first content leaves no trace in what the caller sees."""
    sandbox_chain("sandbox-chat+fault:cut-first")

    async def go() -> list[str]:
        return [chunk.type async for chunk in client_for(alice).stream(ASK)]

    kinds = async_to_sync(go)()
    assert kinds[-1] == "done"
    assert kinds.count("done") == 1


async def _until(sandbox_url: str, field: str) -> None:
    """Wait until every request with the first key has this field set, and there is one."""
    async with asyncio.timeout(10):
        # The other side is a server: there is no event to wait for.
        while not (found := await requests_of(sandbox_url)) or not all(entry[field] for entry in found):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def test_router_closes_upstream_when_the_caller_leaves(alice: User, sandbox_chain: Any, sandbox_url: str) -> None:
    sandbox_chain("sandbox-slow", second=None)

    async def go() -> None:
        stream = client_for(alice).stream([LLMMessage.user("Tell me a long story about the sea.")])
        async for _ in stream:
            break
        await stream.aclose()
        await _until(sandbox_url, "client_gone")

    async_to_sync(go)()
    row = UsageRecord.objects.get()
    assert (row.state, row.outcome) == ("estimated", "cancelled")
    assert row.output_tokens


@both
def test_router_books_a_call_that_is_cancelled(alice: User, sandbox_chain: Any, sandbox_url: str, ask: Ask) -> None:
    sandbox_chain("sandbox-chat+fault:stall-first", second=None)

    async def go() -> None:
        task = asyncio.ensure_future(ask(client_for(alice)))
        await _until(sandbox_url, "open")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await _until(sandbox_url, "client_gone")

    async_to_sync(go)()
    row = UsageRecord.objects.get()
    assert (row.state, row.outcome) == ("estimated", "cancelled")
    assert row.input_tokens


@both
def test_router_raises_the_error_of_the_key_that_comes_first(alice: User, sandbox_chain: Any, ask: Ask) -> None:
    sandbox_chain("sandbox-chat+fault:401", second="sandbox-chat+fault:500")
    with pytest.raises(AuthenticationFailed) as caught:
        async_to_sync(ask)(client_for(alice))
    assert outcomes(caught.value.receipt) == ["AuthenticationFailed", "ProviderUnavailable", "ProviderUnavailable"]


def test_router_passes_over_a_model_that_reads_no_more(alice: User, sandbox_chain: Any, sandbox_url: str) -> None:
    sandbox_chain("sandbox-tiny", second="sandbox-tiny")
    long = [LLMMessage.user("words and words " * 2000)]

    async def go() -> None:
        with pytest.raises(ContextLengthExceeded) as caught:
            await client_for(alice).complete(long)
        assert outcomes(caught.value.receipt) == ["ContextLengthExceeded"]

    async_to_sync(go)()


def test_router_moves_on_to_a_model_that_reads_more(alice: User, sandbox_chain: Any) -> None:
    sandbox_chain("sandbox-tiny", second="sandbox-chat")
    response = async_to_sync(client_for(alice).complete)([LLMMessage.user("words and words " * 2000)])
    assert outcomes(response.receipt) == ["ContextLengthExceeded", "ok"]


def test_router_needs_follow_from_what_is_sent(alice: User, sandbox_chain: Any) -> None:
    sandbox_chain("sandbox-embed")
    tool = ToolDefinition(name="look", description="Looks", parameters={"type": "object", "properties": {}})
    response = async_to_sync(client_for(alice).complete)(ASK, tools=[tool])
    assert response.model == "sandbox-chat"
    assert "sandbox-embed cannot do this: tools" in response.receipt.reason


def test_router_reports_a_bad_argument_without_asking_anybody(
    alice: User, sandbox_chain: Any, sandbox_url: str
) -> None:
    sandbox_chain("sandbox-chat")

    async def go() -> None:
        with pytest.raises(RequestRejected, match="max_tokens"):
            await client_for(alice).complete(ASK, max_tokens=-1)
        assert await requests_of(sandbox_url) == []

    async_to_sync(go)()


def test_rules_cover_every_error() -> None:
    def family(cls: type[LLMError]) -> list[type[LLMError]]:
        ours = [child for child in cls.__subclasses__() if child.__module__ == cls.__module__]
        return [cls, *(each for child in ours for each in family(child))]

    stopping = {cls.__name__ for cls in family(LLMError) if not rules.rule(cls()).next}
    assert stopping == {
        "LLMError",
        "NotConfigured",
        "SiteUnavailable",
        "EgressBlocked",
        "BudgetExceeded",
        "RequestRejected",
        "SecretInRequest",
        "ContentFiltered",
        "StreamInterrupted",
        "AccessWithdrawn",
    }
    assert rules.rule(NotConfigured()) == rules.STOP
    assert rules.rule(UnsupportedContent()).next


@pytest.mark.parametrize("model", ["../../admin", "a b\r\nX: 1", "x" * 10_000, "a\x00b", "a?x=1"])
def test_router_refuses_what_cannot_be_a_model(alice: User, sandbox_chain: Any, sandbox_url: str, model: str) -> None:
    sandbox_chain("sandbox-chat")

    async def go() -> None:
        with pytest.raises(RequestRejected, match="model id"):
            await client_for(alice, provider="sandbox", model=model).complete(ASK)
        with pytest.raises(RequestRejected, match="model id"):
            await client_for(alice).complete(ASK, model=model)
        assert await requests_of(sandbox_url) == []

    async_to_sync(go)()
    assert UsageRecord.objects.count() == 0


def test_router_counts_no_request_that_never_left(alice: User, sandbox_chain: Any) -> None:
    first, _ = sandbox_chain("sandbox-chat")
    with pytest.raises(RequestRejected):
        async_to_sync(client_for(alice).complete)(ASK, max_tokens=-1)
    first.refresh_from_db()
    assert first.request_count == 0
    assert UsageRecord.objects.get().state == "void"


def test_router_voids_an_attempt_that_broke_before_it_left(alice: User, sandbox_chain: Any) -> None:
    """A fault of our own while opening the key."""
    sandbox_chain("sandbox-chat")

    def broken(self: UserCredential) -> str:
        raise ZeroDivisionError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UserCredential, "reveal", broken)
        with pytest.raises(ZeroDivisionError):
            async_to_sync(client_for(alice).complete)(ASK)
    row = UsageRecord.objects.get()
    assert (row.state, row.outcome) == ("void", "ZeroDivisionError")


@pytest.mark.parametrize(
    ("ask", "fault", "state"),
    [(streamed, "cut-first", "estimated"), (completed, "cut", "estimated"), (streamed, "reset", "void")],
)
def test_router_counts_what_an_answer_may_have_cost_that_was_cut_before_its_first_content(
    alice: User, sandbox_chain: Any, ask: Ask, fault: str, state: str
) -> None:
    sandbox_chain(f"sandbox-chat~fault={fault}")
    answer = async_to_sync(ask)(client_for(alice))
    assert ANSWER in answer.text
    *cut, last = UsageRecord.objects.order_by("at")
    assert {(row.state, row.outcome) for row in cut} == {(state, "ConnectionFailed")}
    assert last.state == "settled"
    if state == "estimated":
        assert answer.receipt.estimated
        assert all(row.input_tokens and not row.output_tokens for row in cut)
