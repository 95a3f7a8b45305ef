"""What calls show of keys and destinations, and what is left alone for a moment."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User

from llm_credentials.factory import client_for
from llm_credentials.ledger import batches
from llm_credentials.models import UsageRecord, UserCredential
from llm_credentials.providers import (
    AuthenticationFailed,
    ConnectionFailed,
    DeadlineExceeded,
    ProviderUnavailable,
    RateLimited,
)
from llm_credentials.routing import health, key_status
from llm_credentials.routing.snapshot import ref
from llm_credentials.tests.factories import UserCredentialFactory
from llm_credentials.tests.routed_calls import ANSWER, ASK, FIRST, SECOND, completed, outcomes, requests_of

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("empty_journal")]


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
def test_use_sets_the_status_of_the_key(alice: User, sandbox_chain: Any, model: str, status: str, detail: str) -> None:
    first, _ = sandbox_chain(model)
    async_to_sync(completed)(client_for(alice))
    first.refresh_from_db()
    assert first.status == status
    assert detail in first.status_detail
    assert bool(first.status_detail) is bool(detail)
    assert first.is_active


def test_use_counts_every_request_of_a_key(alice: User, sandbox_chain: Any) -> None:
    first, second = sandbox_chain("sandbox-chat+fault:500")
    async_to_sync(completed)(client_for(alice))
    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.request_count, second.request_count) == (2, 1)
    assert first.last_used_at is not None


@pytest.mark.parametrize("before", ["error", "invalid", "unverified"])
def test_use_that_succeeds_makes_a_key_valid_again(alice: User, sandbox_chain: Any, before: str) -> None:
    first, _ = sandbox_chain("sandbox-chat")
    UserCredential.objects.filter(pk=first.pk).update(status=before, status_detail="It did not work.")
    async_to_sync(completed)(client_for(alice))
    first.refresh_from_db()
    assert (first.status, first.status_detail) == ("valid", "")


def test_use_of_an_old_key_does_not_blame_the_new_one(alice: User, sandbox_chain: Any) -> None:
    """The key is replaced while a call with the old one is under way."""
    first, _ = sandbox_chain("sandbox-chat+fault:401")
    original = batches.write

    def replaced_meanwhile(*args: Any) -> int:
        UserCredential.objects.filter(pk=first.pk).update(version=first.version + 1)
        return original(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "write", replaced_meanwhile)
        async_to_sync(completed)(client_for(alice))
    first.refresh_from_db()
    assert first.status == "unverified"


def test_use_goes_on_when_the_books_cannot_be_written(alice: User, sandbox_chain: Any) -> None:
    sandbox_chain("sandbox-chat")

    def broken(*args: Any) -> None:
        raise OSError("disk full")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_status, "note", broken)
        assert ANSWER in async_to_sync(completed)(client_for(alice)).text
    assert UsageRecord.objects.count() == 1


# What is left alone for a while


def test_limited_key_cools_down_and_its_sibling_does_not(alice: User, sandbox_chain: Any, sandbox_url: str) -> None:
    first, second = sandbox_chain("sandbox-chat+fault:429,retry-after:30")

    async def go() -> None:
        await client_for(alice).complete(ASK)
        response = await client_for(alice).complete(ASK)
        assert outcomes(response.receipt) == ["ok"]
        assert response.receipt.attempts[0].credential_id == second.pk
        assert "30 s" in response.receipt.reason or "29 s" in response.receipt.reason
        assert len(await requests_of(sandbox_url)) == 1

    async_to_sync(go)()
    assert set(health.cooling([ref(first), ref(second)])) == {ref(first)}


def test_limited_key_alone_says_when_to_come_back(alice: User, sandbox_chain: Any) -> None:
    sandbox_chain("sandbox-chat+fault:429,retry-after:30", second=None)

    async def go() -> None:
        with pytest.raises(RateLimited):
            await client_for(alice).complete(ASK)
        with pytest.raises(RateLimited) as caught:
            await client_for(alice).complete(ASK)
        assert 25 < (caught.value.retry_after_s or 0) <= 30
        assert outcomes(caught.value.receipt) == []

    async_to_sync(go)()


def test_failing_destination_is_left_alone_by_everybody(
    alice: User, bob: User, sandbox_chain: Any, sandbox_url: str
) -> None:
    sandbox_chain("sandbox-chat+fault:500", second=None)
    UserCredentialFactory(user=bob, provider="sandbox", key=SECOND)

    async def go() -> None:
        for _ in range(3):
            with pytest.raises(ProviderUnavailable):
                await client_for(alice).complete(ASK)
        with pytest.raises(ProviderUnavailable) as caught:
            await client_for(bob).complete(ASK)
        assert caught.value.retry_after_s is not None
        assert await requests_of(sandbox_url, SECOND) == []

    async_to_sync(go)()


def test_bad_keys_never_trip_a_destination(alice: User, bob: User, sandbox_chain: Any) -> None:
    sandbox_chain("sandbox-chat+fault:401", second=None)
    UserCredentialFactory(user=bob, provider="sandbox", key=SECOND)

    async def go() -> None:
        for _ in range(8):
            with pytest.raises(AuthenticationFailed):
                await client_for(alice).complete(ASK)
        assert ANSWER in (await client_for(bob).complete(ASK)).text

    async_to_sync(go)()


def test_impatient_callers_never_trip_a_destination(alice: User, sandbox_chain: Any) -> None:
    sandbox_chain("sandbox-chat+fault:stall-first", second=None)

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
    assert outcomes(caught.value.receipt) == ["ConnectionFailed"] * 2
