"""The failover table against a provider on real sockets that fails as it is told."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User

from llm_credentials.factory import RoutedClient, RoutedResponse, client_for
from llm_credentials.ledger import pen
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
from llm_credentials.routing import health, key_status, rules
from llm_credentials.routing.receipt import Receipt
from llm_credentials.routing.snapshot import ref
from llm_credentials.tests.factories import UserCredentialFactory

pytestmark = pytest.mark.django_db

ASK = [LLMMessage.user("What is 17 * 23?")]
ANSWER = "391"
FIRST, SECOND = "sbx-good-first-000001", "sbx-good-second-00002"


@pytest.fixture
def keys(alice: User, sandbox_url: str) -> Callable[..., list[UserCredential]]:
    """Alice's chain at the sandbox: the first key's model as given, the second one works."""

    def make(model: str, *, key: str = FIRST, second: str | None = "sandbox-chat") -> list[UserCredential]:
        chain = [UserCredentialFactory(user=alice, provider="sandbox", model=model, key=key, priority=1)]
        if second:
            chain.append(
                UserCredentialFactory(
                    user=alice, provider="sandbox", name="second", model=second, key=SECOND, priority=2
                )
            )
        return chain

    return make


@pytest.fixture(autouse=True)
def _empty_journal(sandbox_url: str) -> None:
    async def empty() -> None:
        async with aiohttp.ClientSession() as session, session.delete(f"{sandbox_url}/_sandbox/requests") as answer:
            assert answer.ok

    async_to_sync(empty)()


async def _requests(sandbox_url: str, key: str = FIRST) -> list[dict[str, Any]]:
    fingerprint = hashlib.sha256(key.encode()).hexdigest()[:12]
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{sandbox_url}/_sandbox/requests?key={fingerprint}") as answer,
    ):
        found: list[dict[str, Any]] = (await answer.json())["items"]
        return found


async def _complete(client: RoutedClient, **extra: Any) -> RoutedResponse:
    return await client.complete(ASK, **extra)


async def _stream(client: RoutedClient, **extra: Any) -> RoutedResponse:
    chunks = [chunk async for chunk in client.stream(ASK, **extra)]
    response = chunks[-1].response
    assert isinstance(response, RoutedResponse)
    assert "".join(chunk.text for chunk in chunks if chunk.type == "delta") == response.text
    return response


Ask = Callable[..., Awaitable[RoutedResponse]]
both = pytest.mark.parametrize("ask", [_complete, _stream])


def _outcomes(receipt: Receipt) -> list[str]:
    return [attempt.outcome for attempt in receipt.attempts]


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
    alice: User, keys: Any, sandbox_url: str, ask: Ask, fault: str, error: type[LLMError], times: int
) -> None:
    first, second = keys(f"sandbox-chat+fault:{fault}")

    async def go() -> None:
        response = await ask(client_for(alice))
        assert ANSWER in response.text
        assert _outcomes(response.receipt) == [error.__name__] * times + ["ok"]
        assert {attempt.credential_id for attempt in response.receipt.attempts[:-1]} == {first.pk}
        assert response.receipt.attempts[-1].credential_id == second.pk
        assert len(await _requests(sandbox_url)) == times

    async_to_sync(go)()
    rows = UsageRecord.objects.order_by("at", "latency_ms").values_list("outcome", flat=True)
    assert sorted(rows) == sorted([error.__name__] * times + ["ok"])


@both
@pytest.mark.parametrize(("fault", "error"), STOPS)
def test_router_stops_at(alice: User, keys: Any, sandbox_url: str, ask: Ask, fault: str, error: type[LLMError]) -> None:
    keys(f"sandbox-chat+fault:{fault}")

    async def go() -> None:
        with pytest.raises(error) as caught:
            await ask(client_for(alice))
        assert type(caught.value) is error
        assert _outcomes(caught.value.receipt) == [error.__name__]
        assert await _requests(sandbox_url, SECOND) == []

    async_to_sync(go)()


@both
def test_router_succeeds_at_the_second_try_of_the_same_key(alice: User, keys: Any, ask: Ask) -> None:
    first, _ = keys("sandbox-chat+fault:503@1")
    response = async_to_sync(ask)(client_for(alice))
    assert _outcomes(response.receipt) == ["ProviderUnavailable", "ok"]
    assert response.receipt.attempts[-1].credential_id == first.pk


@both
def test_router_waits_as_long_as_a_provider_asks_if_that_is_soon(alice: User, keys: Any, ask: Ask) -> None:
    keys("sandbox-chat+fault:429@1,retry-after:1")
    response = async_to_sync(ask)(client_for(alice))
    assert _outcomes(response.receipt) == ["RateLimited", "ok"]


@both
def test_router_moves_on_when_nothing_comes_in_time(alice: User, keys: Any, ask: Ask) -> None:
    keys("sandbox-chat+fault:stall-first")
    response = async_to_sync(ask)(client_for(alice), timeout_s=4)
    assert _outcomes(response.receipt) == ["DeadlineExceeded", "ok"]


@both
def test_router_keeps_one_deadline_for_the_whole_chain(alice: User, keys: Any, ask: Ask) -> None:
    keys("sandbox-chat+fault:stall-first", second="sandbox-chat+fault:stall-first")

    async def go() -> None:
        # Each of the two would stay silent for ten minutes.
        with pytest.raises(DeadlineExceeded) as caught:
            await ask(client_for(alice), timeout_s=1)
        assert _outcomes(caught.value.receipt) == ["DeadlineExceeded"] * 2

    async_to_sync(go)()


def test_router_never_switches_after_content(alice: User, keys: Any, sandbox_url: str) -> None:
    keys("sandbox-chat+fault:cut,after:2")
    seen: list[str] = []

    async def go() -> None:
        with pytest.raises(StreamInterrupted) as caught:
            async for chunk in client_for(alice).stream([LLMMessage.user("Count to ten, please.")]):
                seen.append(chunk.text)
        error = caught.value
        assert error.partial is not None
        assert error.partial.text == "".join(seen) != ""
        assert _outcomes(error.receipt) == ["StreamInterrupted"]
        assert await _requests(sandbox_url, SECOND) == []

    async_to_sync(go)()
    row = UsageRecord.objects.get()
    assert (row.state, row.outcome) == ("estimated", "StreamInterrupted")
    assert row.input_tokens and row.output_tokens


def test_router_marks_a_stream_with_an_error_event_as_interrupted(alice: User, keys: Any) -> None:
    keys("sandbox-chat+fault:error-event")

    async def go() -> None:
        with pytest.raises(StreamInterrupted) as caught:
            async for _ in client_for(alice).stream([LLMMessage.user("Tell me a long story about the sea.")]):
                pass
        assert _outcomes(caught.value.receipt) == ["StreamInterrupted"]

    async_to_sync(go)()


def test_router_sends_nothing_before_real_content(alice: User, keys: Any) -> None:
    """A stream that breaks before its first content leaves no trace in what the caller sees."""
    keys("sandbox-chat+fault:cut-first")

    async def go() -> list[str]:
        return [chunk.type async for chunk in client_for(alice).stream(ASK)]

    kinds = async_to_sync(go)()
    assert kinds[-1] == "done"
    assert kinds.count("done") == 1


async def _until(sandbox_url: str, field: str) -> None:
    """Wait until every request with the first key has this field set, and there is one."""
    async with asyncio.timeout(10):
        # The other side is a server: there is no event to wait for.
        while not (found := await _requests(sandbox_url)) or not all(entry[field] for entry in found):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def test_router_closes_upstream_when_the_caller_leaves(alice: User, keys: Any, sandbox_url: str) -> None:
    keys("sandbox-slow", second=None)

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
def test_router_books_a_call_that_is_cancelled(alice: User, keys: Any, sandbox_url: str, ask: Ask) -> None:
    keys("sandbox-chat+fault:stall-first", second=None)

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
def test_router_raises_the_error_of_the_key_that_comes_first(alice: User, keys: Any, ask: Ask) -> None:
    keys("sandbox-chat+fault:401", second="sandbox-chat+fault:500")
    with pytest.raises(AuthenticationFailed) as caught:
        async_to_sync(ask)(client_for(alice))
    assert _outcomes(caught.value.receipt) == ["AuthenticationFailed", "ProviderUnavailable", "ProviderUnavailable"]


def test_router_passes_over_a_model_that_reads_no_more(alice: User, keys: Any, sandbox_url: str) -> None:
    keys("sandbox-tiny", second="sandbox-tiny")
    long = [LLMMessage.user("words and words " * 2000)]

    async def go() -> None:
        with pytest.raises(ContextLengthExceeded) as caught:
            await client_for(alice).complete(long)
        assert _outcomes(caught.value.receipt) == ["ContextLengthExceeded"]

    async_to_sync(go)()


def test_router_moves_on_to_a_model_that_reads_more(alice: User, keys: Any) -> None:
    keys("sandbox-tiny", second="sandbox-chat")
    response = async_to_sync(client_for(alice).complete)([LLMMessage.user("words and words " * 2000)])
    assert _outcomes(response.receipt) == ["ContextLengthExceeded", "ok"]


def test_router_needs_follow_from_what_is_sent(alice: User, keys: Any) -> None:
    keys("sandbox-embed")
    tool = ToolDefinition(name="look", description="Looks", parameters={"type": "object", "properties": {}})
    response = async_to_sync(client_for(alice).complete)(ASK, tools=[tool])
    assert response.model == "sandbox-chat"
    assert "sandbox-embed cannot do this: tools" in response.receipt.reason


def test_router_reports_a_bad_argument_without_asking_anybody(alice: User, keys: Any, sandbox_url: str) -> None:
    keys("sandbox-chat")

    async def go() -> None:
        with pytest.raises(RequestRejected, match="max_tokens"):
            await client_for(alice).complete(ASK, max_tokens=-1)
        assert await _requests(sandbox_url) == []

    async_to_sync(go)()


# What use says about a key


@pytest.mark.parametrize(
    ("model", "status", "detail"),
    [
        ("sandbox-chat+fault:401", "invalid", "refused this key"),
        ("sandbox-chat+fault:quota", "error", "no credit or quota"),
        ("sandbox-chat+fault:403", "unverified", "does not allow this key"),
        ("sandbox-chat+fault:500", "unverified", ""),
        ("sandbox-chat+fault:429,retry-after:30", "unverified", ""),
        ("sandbox-chat", "valid", ""),
    ],
)
def test_use_sets_the_status_of_the_key(alice: User, keys: Any, model: str, status: str, detail: str) -> None:
    first, _ = keys(model)
    async_to_sync(_complete)(client_for(alice))
    first.refresh_from_db()
    assert first.status == status
    assert detail in first.status_detail
    assert bool(first.status_detail) is bool(detail)
    assert first.is_active


def test_use_counts_every_request_of_a_key(alice: User, keys: Any) -> None:
    first, second = keys("sandbox-chat+fault:500")
    async_to_sync(_complete)(client_for(alice))
    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.request_count, second.request_count) == (2, 1)
    assert first.last_used_at is not None


@pytest.mark.parametrize("before", ["error", "invalid", "unverified"])
def test_use_that_succeeds_makes_a_key_valid_again(alice: User, keys: Any, before: str) -> None:
    first, _ = keys("sandbox-chat")
    UserCredential.objects.filter(pk=first.pk).update(status=before, status_detail="It did not work.")
    async_to_sync(_complete)(client_for(alice))
    first.refresh_from_db()
    assert (first.status, first.status_detail) == ("valid", "")


def test_use_of_an_old_key_does_not_blame_the_new_one(alice: User, keys: Any) -> None:
    """The key is replaced while a call with the old one is under way."""
    first, _ = keys("sandbox-chat+fault:401")
    original = pen.write

    def replaced_meanwhile(*args: Any) -> int:
        UserCredential.objects.filter(pk=first.pk).update(version=first.version + 1)
        return original(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pen, "write", replaced_meanwhile)
        async_to_sync(_complete)(client_for(alice))
    first.refresh_from_db()
    assert first.status == "unverified"


def test_use_goes_on_when_the_books_cannot_be_written(alice: User, keys: Any) -> None:
    keys("sandbox-chat")

    def broken(*args: Any) -> None:
        raise OSError("disk full")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_status, "note", broken)
        assert ANSWER in async_to_sync(_complete)(client_for(alice)).text
    assert UsageRecord.objects.count() == 1


# What is left alone for a while


def test_limited_key_cools_down_and_its_sibling_does_not(alice: User, keys: Any, sandbox_url: str) -> None:
    first, second = keys("sandbox-chat+fault:429,retry-after:30")

    async def go() -> None:
        await client_for(alice).complete(ASK)
        response = await client_for(alice).complete(ASK)
        assert _outcomes(response.receipt) == ["ok"]
        assert response.receipt.attempts[0].credential_id == second.pk
        assert "30 s" in response.receipt.reason or "29 s" in response.receipt.reason
        assert len(await _requests(sandbox_url)) == 1

    async_to_sync(go)()
    assert set(health.cooling([ref(first), ref(second)])) == {ref(first)}


def test_limited_key_alone_says_when_to_come_back(alice: User, keys: Any) -> None:
    keys("sandbox-chat+fault:429,retry-after:30", second=None)

    async def go() -> None:
        with pytest.raises(RateLimited):
            await client_for(alice).complete(ASK)
        with pytest.raises(RateLimited) as caught:
            await client_for(alice).complete(ASK)
        assert 25 < (caught.value.retry_after_s or 0) <= 30
        assert _outcomes(caught.value.receipt) == []

    async_to_sync(go)()


def test_failing_destination_is_left_alone_by_everybody(alice: User, bob: User, keys: Any, sandbox_url: str) -> None:
    keys("sandbox-chat+fault:500", second=None)
    UserCredentialFactory(user=bob, provider="sandbox", key=SECOND)

    async def go() -> None:
        for _ in range(3):
            with pytest.raises(ProviderUnavailable):
                await client_for(alice).complete(ASK)
        with pytest.raises(ProviderUnavailable) as caught:
            await client_for(bob).complete(ASK)
        assert caught.value.retry_after_s is not None
        assert await _requests(sandbox_url, SECOND) == []

    async_to_sync(go)()


def test_bad_keys_never_trip_a_destination(alice: User, bob: User, keys: Any) -> None:
    keys("sandbox-chat+fault:401", second=None)
    UserCredentialFactory(user=bob, provider="sandbox", key=SECOND)

    async def go() -> None:
        for _ in range(8):
            with pytest.raises(AuthenticationFailed):
                await client_for(alice).complete(ASK)
        assert ANSWER in (await client_for(bob).complete(ASK)).text

    async_to_sync(go)()


def test_impatient_callers_never_trip_a_destination(alice: User, keys: Any) -> None:
    keys("sandbox-chat+fault:stall-first", second=None)

    async def go() -> None:
        for _ in range(8):
            with pytest.raises(DeadlineExceeded):
                await client_for(alice).complete(ASK, timeout_s=0.05)

    async_to_sync(go)()
    assert health.cooling(["to:sandbox|"]) == {}


def test_nothing_listening_is_a_failed_connection(alice: User, settings: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    settings.SANDBOX_URL, settings.LLM_EGRESS_ALLOW = f"http://{address}", [address]
    UserCredentialFactory(user=alice, provider="sandbox", key=FIRST)
    with pytest.raises(ConnectionFailed) as caught:
        async_to_sync(client_for(alice).complete)(ASK)
    assert _outcomes(caught.value.receipt) == ["ConnectionFailed"] * 2


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
def test_router_refuses_what_cannot_be_a_model(alice: User, keys: Any, sandbox_url: str, model: str) -> None:
    keys("sandbox-chat")

    async def go() -> None:
        with pytest.raises(RequestRejected, match="model id"):
            await client_for(alice, provider="sandbox", model=model).complete(ASK)
        with pytest.raises(RequestRejected, match="model id"):
            await client_for(alice).complete(ASK, model=model)
        assert await _requests(sandbox_url) == []

    async_to_sync(go)()
    assert UsageRecord.objects.count() == 0


def test_router_counts_no_request_that_never_left(alice: User, keys: Any) -> None:
    first, _ = keys("sandbox-chat")
    with pytest.raises(RequestRejected):
        async_to_sync(client_for(alice).complete)(ASK, max_tokens=-1)
    first.refresh_from_db()
    assert first.request_count == 0
    assert UsageRecord.objects.get().state == "void"


def test_router_voids_an_attempt_that_broke_before_it_left(alice: User, keys: Any) -> None:
    """A fault of our own while opening the key."""
    keys("sandbox-chat")

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
    [(_stream, "cut-first", "estimated"), (_complete, "cut", "estimated"), (_stream, "reset", "void")],
)
def test_router_counts_what_an_answer_may_have_cost_that_was_cut_before_its_first_content(
    alice: User, keys: Any, ask: Ask, fault: str, state: str
) -> None:
    keys(f"sandbox-chat~fault={fault}")
    answer = async_to_sync(ask)(client_for(alice))
    assert ANSWER in answer.text
    *cut, last = UsageRecord.objects.order_by("at")
    assert {(row.state, row.outcome) for row in cut} == {(state, "ConnectionFailed")}
    assert last.state == "settled"
    if state == "estimated":
        assert answer.receipt.estimated
        assert all(row.input_tokens and not row.output_tokens for row in cut)
