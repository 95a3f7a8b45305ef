"""Who visits the pages, and whose keys are called."""

from __future__ import annotations

from collections.abc import Callable

import aiohttp
import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.test import Client

from llm_credentials.models import UserCredential
from llm_credentials.tests.factories import UserCredentialFactory
from llm_credentials.tests.routed_calls import FIRST, SECOND


@pytest.fixture
def visitor(client: Client, alice: User) -> Client:
    """alice's browser, logged in."""
    client.force_login(alice)
    return client


@pytest.fixture
def site(client: Client, staff: User) -> Client:
    """A browser of staff, logged in."""
    client.force_login(staff)
    return client


@pytest.fixture
def sandbox_chain(alice: User, sandbox_url: str) -> Callable[..., list[UserCredential]]:
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


@pytest.fixture
def empty_journal(sandbox_url: str) -> None:
    async def empty() -> None:
        async with aiohttp.ClientSession() as session, session.delete(f"{sandbox_url}/_sandbox/requests") as answer:
            assert answer.ok

    async_to_sync(empty)()
