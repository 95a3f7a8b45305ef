"""No surface of the site dials a private address: a listener there counts what reaches it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from llm_credentials import bridge, connection_tests, services
from llm_credentials.factory import client_for
from llm_credentials.models import ConnectionTest, UserCredential
from llm_credentials.providers import LLMError, LLMMessage, ToolDefinition

KEY = "sk-test-surfaces-0123456789"
TOOL = ToolDefinition(name="look", description="Looks.", parameters={"type": "object", "properties": {}})

pytestmark = pytest.mark.django_db(transaction=True)


class Listener:
    """Counts connections on one loopback port, for IPv4 and IPv6."""

    def __init__(self) -> None:
        self.accepted = 0
        self.servers = [socket.create_server(("127.0.0.1", 0))]
        self.port = self.servers[0].getsockname()[1]
        self.servers.append(socket.create_server(("::1", self.port), family=socket.AF_INET6))
        for server in self.servers:
            threading.Thread(target=self._count, args=(server,), daemon=True).start()

    def _count(self, server: socket.socket) -> None:
        while True:
            try:
                server.accept()[0].close()
            except OSError:
                return
            self.accepted += 1

    def close(self) -> None:
        for server in self.servers:
            server.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.close()


HOSTS = (
    *(
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "0",
        "0.0.0.0",
        "localhost",
        "LOCALHOST",
    ),
    *("localhost.", "x.localhost", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]"),
    *("[2002:7f00:1::]", "[::127.0.0.1]", "①②⑦.⓪.⓪.①", "127。0。0。1", "user:pw@127.0.0.1", "good.example@127.0.0.1"),
    *("inside.example.com", "both.example.com", "169.254.169.254", "[fd00:ec2::254]", "metadata.google.internal"),
)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch, listener: Listener) -> None:
    """Public names with private addresses: one wholly, one beside a public one."""
    known = {"inside.example.com": ("127.0.0.1",), "both.example.com": ("93.184.216.34", "127.0.0.1")}
    resolve = socket.getaddrinfo

    def lookup(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else str(host)
        if name in known:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in known[name]]
        return resolve(host, port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)


@pytest.fixture
def program(alice: User) -> Client:
    token = services.token_create(user=alice)[1]
    return Client(headers={"Authorization": f"Bearer {token}"})


def test_the_listener_counts(listener: Listener) -> None:
    socket.create_connection(("127.0.0.1", listener.port)).close()
    from project.tests.servers import wait_until

    wait_until(lambda: listener.accepted == 1, "the connection to be counted")


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", HOSTS)
def test_no_surface_dials_a_private_address(
    program: Client, alice: User, listener: Listener, names: None, settings: Any, scheme: str, host: str
) -> None:
    settings.LLM_RATE_TEST_USER = settings.LLM_RATE_TEST_PROVIDER = "1000/m"
    address = f"{scheme}://{host}:{listener.port}/v1"
    save(program, address)
    try_unsaved(program, address)
    use_a_row_that_names_it(alice, address)
    assert listener.accepted == 0


def save(program: Client, address: str) -> None:
    fields = {"provider": "openai_compatible", "api_key": KEY, "base_url": address, "model": "m"}
    response = program.post("/api/user/llm-credentials", json.dumps(fields), content_type="application/json")
    assert response.status_code in (201, 422)
    assert KEY not in response.content.decode()
    run_waiting_tests()
    UserCredential.objects.all().delete()


def try_unsaved(program: Client, address: str) -> None:
    fields = {"api_key": KEY, "base_url": address, "model": "m"}
    url = "/api/user/llm-credentials/openai_compatible/test"
    response = program.post(url, json.dumps(fields), content_type="application/json")
    assert response.status_code in (202, 422)
    run_waiting_tests()


def run_waiting_tests() -> None:
    for test in ConnectionTest.objects.unfinished():
        connection_tests.test_run(test.pk)
        test.refresh_from_db()
        assert test.state in ("invalid", "error"), test.detail


def use_a_row_that_names_it(user: User, address: str) -> None:
    """List, chat and tools with a row that came past the form, sealed for the very address."""
    row = UserCredential(user=user, provider="openai_compatible", base_url=address, model="m")
    row.seal(KEY)
    row.save()
    connection_tests.models_available(user=user, provider="openai_compatible")
    client = client_for(user, provider="openai_compatible", fallback=False)
    hello = [LLMMessage.user("hello")]
    for call in (
        lambda: bridge.run(client.complete, hello),
        lambda: bridge.run(client.complete, hello, tools=[TOOL]),
        lambda: bridge.run(streamed, client, hello),
        lambda: bridge.run(client.embed, ["hello"], model="m"),
    ):
        with pytest.raises(LLMError) as caught:
            call()
        assert KEY not in repr(caught.value)


async def streamed(client: Any, messages: list[LLMMessage]) -> None:
    async for _chunk in client.stream(messages):
        pass
