"""No surface of the site dials an address that nobody allowed; the whole list is tried by ``make prove-vault``."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User

from llm_credentials.providers import EgressBlocked, EgressPolicy
from llm_credentials.providers.fetch import FetchFailed, fetch
from llm_credentials.tests import ssrf
from llm_credentials.tests.ssrf import GOOD, VECTORS, Surfaces, Watch
from project.tests.servers import wait_until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    with ssrf.watching(monkeypatch.setattr) as made:
        yield made


@pytest.fixture
def surfaces(alice: User, settings: Any) -> Surfaces:
    settings.LLM_RATES = {kind: {"user": "1000/m"} for kind in settings.LLM_RATES}
    return Surfaces(alice)


def test_watch_sees_what_is_dialled(watch: Watch) -> None:
    socket.create_connection(("localhost", watch.port)).close()
    wait_until(lambda: watch.accepted == 1, "the connection to be counted")
    assert watch.private == ["127.0.0.1"]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("api.openai.com", 443))
    assert watch.public == [ssrf.PUBLIC]


def test_listener_is_reached_where_it_is_allowed(watch: Watch) -> None:
    """So that no silence below comes from a listener that nobody could reach."""
    policy = EgressPolicy(allow=[f"127.0.0.1:{watch.port}"])
    with pytest.raises(FetchFailed):
        asyncio.run(fetch(f"http://127.0.0.1:{watch.port}/", egress=policy))
    wait_until(lambda: watch.accepted >= 1, "the connection to be counted")


@pytest.mark.any_database
@pytest.mark.parametrize("vector", VECTORS[::8])
def test_no_surface_dials_a_private_address(surfaces: Surfaces, watch: Watch, vector: str) -> None:
    address = vector.replace("{port}", str(watch.port))
    for name, attempt in surfaces.every().items():
        attempt(address)
        assert watch.dialled == 0, name


def test_no_page_is_fetched_from_a_private_address(watch: Watch) -> None:
    async def all_() -> list[str]:
        opened = []
        for vector in VECTORS:
            try:
                await fetch(vector.replace("{port}", str(watch.port)), egress=EgressPolicy())
            except EgressBlocked:
                continue
            except FetchFailed:
                if ssrf.REBINDING in vector:  # refused by the closed port of its first address
                    continue
            opened.append(vector)
        return opened

    assert asyncio.run(all_()) == []
    assert watch.dialled == 0


@pytest.mark.any_database
@pytest.mark.parametrize("address", GOOD[::5])
def test_every_surface_dials_a_good_address(surfaces: Surfaces, watch: Watch, address: str) -> None:
    for name, attempt in surfaces.every().items():
        watch.forget()
        refused = attempt(address)
        assert watch.public, name
        assert refused is (name == "list"), name  # a list that nobody gave is the catalogue's
    assert watch.private == []
