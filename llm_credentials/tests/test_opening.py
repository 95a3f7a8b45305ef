"""Opening keys for use, and the clients that are kept."""

from __future__ import annotations

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.db import transaction

from llm_credentials import client_cache
from llm_credentials.factory import open_client
from llm_credentials.models import (
    UserCredential,
)
from llm_credentials.tests.clocks import move_on
from llm_credentials.tests.factories import (
    ConnectionTestFactory,
    UserCredentialFactory,
)

pytestmark = pytest.mark.django_db
KEY = "sbx-good-0123456789"


@pytest.fixture
def credential(alice: User, sandbox_url: str) -> UserCredential:
    made: UserCredential = UserCredentialFactory(user=alice, provider="sandbox", key=KEY)
    return made


def test_open_client_refuses_inside_a_transaction(credential: UserCredential) -> None:
    with transaction.atomic(), pytest.raises(RuntimeError, match="atomic"):
        async_to_sync(open_client)(credential)


def test_open_client_keeps_clients_by_version(credential: UserCredential) -> None:
    async def go() -> None:
        first = await open_client(credential)
        assert await open_client(credential) is first
        assert await open_client(credential, "sandbox-fast") is not first
        credential.version += 1
        assert await open_client(credential) is not first

    async_to_sync(go)()


def test_open_client_keeps_no_client_for_long(credential: UserCredential, monkeypatch: pytest.MonkeyPatch) -> None:
    async def go() -> None:
        first = await open_client(credential)
        move_on(monkeypatch, client_cache, client_cache.CLIENT_KEPT_S + 1)
        assert await open_client(credential) is not first

    async_to_sync(go)()


def test_open_client_keeps_a_bounded_number(credential: UserCredential, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_cache, "CLIENTS_MAX", 3)

    async def go() -> None:
        for number in range(10):
            await open_client(credential, f"model-{number}")
        clients = client_cache._clients_here()
        assert len(clients) == 3

    async_to_sync(go)()


def test_open_client_keeps_none_for_an_unsaved_key(alice: User, sandbox_url: str) -> None:
    test = ConnectionTestFactory(user=alice, provider="sandbox", key=KEY)

    async def go() -> None:
        assert await open_client(test) is not await open_client(test)

    async_to_sync(go)()


def test_open_client_has_the_model_of_key_call_or_provider(alice: User, sandbox_url: str) -> None:
    plain = UserCredentialFactory(user=alice, provider="sandbox", key=KEY)
    own = UserCredentialFactory(user=alice, provider="sandbox", name="own", key=KEY, model="sandbox-fast")

    async def go() -> list[str]:
        return [
            (await open_client(plain)).model,
            (await open_client(own)).model,
            (await open_client(own, "sandbox-vision")).model,
        ]

    assert async_to_sync(go)() == ["sandbox-chat", "sandbox-fast", "sandbox-vision"]
