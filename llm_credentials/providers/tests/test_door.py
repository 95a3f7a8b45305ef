"""Addresses that must never be dialled, and the connections of the outbound door."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from llm_credentials.providers import (
    BadProviderResponse,
    ConnectionFailed,
    EgressBlocked,
    EgressPolicy,
    LLMError,
    door,
    transport,
)
from llm_credentials.providers.tests.serving import Served, failure, get, read, serving, sized


@pytest.fixture
async def sentinel() -> AsyncIterator[tuple[list[int], int]]:
    """A listener on every address of this machine, and the connections that it saw."""
    seen: list[int] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(1)
        writer.close()

    server = await asyncio.start_server(handle, None, 0, family=socket.AF_INET)
    port = server.sockets[0].getsockname()[1]
    dual = await asyncio.start_server(handle, "::1", port)
    yield seen, port
    await transport.close_connections()
    server.close()
    dual.close()


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "0",
        "0.0.0.0",
        "localhost",
        "localhost.",
        "LOCALHOST",
        "x.localhost",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "127.0.0.1.",
        "user:pw@127.0.0.1",
    ],
)
async def test_no_client_dials_a_refused_address(scheme: str, host: str, sentinel: tuple[list[int], int]) -> None:
    seen, port = sentinel
    url = f"{scheme}://{host}:{port}/v1/chat/completions"
    client = transport.http_client(EgressPolicy())
    assert isinstance(await failure(client.post(url, content=b"{}")), EgressBlocked | ConnectionFailed)
    assert isinstance(await failure(transport.forward(EgressPolicy(), transport.forwarding(url, {}), b"{}")), LLMError)
    with pytest.raises(EgressBlocked):
        transport.check_url(url, EgressPolicy())
    assert seen == []


def names(monkeypatch: pytest.MonkeyPatch, **addresses: list[str]) -> None:
    """Let these names resolve so; ``_`` stands for a dot."""
    book = {name.replace("_", "."): found for name, found in addresses.items()}

    def look_up(host: str, port: int, *args: Any, **kwargs: Any) -> list[Any]:
        if host not in book:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in book[host]
        ]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["::1"],
        ["10.0.0.1"],
        ["169.254.169.254"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::7f00:1"],
        ["8.8.8.8", "127.0.0.1"],
        ["127.0.0.1", "8.8.8.8"],
        ["2606:4700::1111", "fd00:ec2::254"],
        [],
    ],
)
async def test_name_is_refused_if_any_of_its_addresses_is(
    addresses: list[str], monkeypatch: pytest.MonkeyPatch, sentinel: tuple[list[int], int]
) -> None:
    seen, port = sentinel
    names(monkeypatch, evil_example_com=addresses)
    error = await failure(transport.http_client(EgressPolicy()).get(f"https://evil.example.com:{port}/"))
    assert isinstance(error, EgressBlocked if addresses else ConnectionFailed)
    assert "127" not in str(error)
    assert seen == []


async def test_unknown_name_is_a_failed_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch)
    error = await failure(transport.http_client(EgressPolicy()).get("https://nowhere.example.com/"))
    assert type(error) is ConnectionFailed


async def test_rebound_name_is_refused_at_the_moment_of_dialling(
    monkeypatch: pytest.MonkeyPatch, sentinel: tuple[list[int], int]
) -> None:
    seen, port = sentinel
    names(monkeypatch, evil_example_com=["127.0.0.1"])

    async def unchecked(self: Any, host: str, port: int = 0, family: Any = 0) -> Any:
        return await aiohttp.ThreadedResolver().resolve(host, port, family)

    monkeypatch.setattr(door._Resolver, "resolve", unchecked)
    error = await failure(transport.http_client(EgressPolicy()).get(f"https://evil.example.com:{port}/"))
    assert isinstance(error, EgressBlocked)
    assert seen == []


async def test_allowed_name_opens_its_own_address_for_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(sized(b"{}"), again=True) as served:
        names(monkeypatch, ollama_lan=["127.0.0.1"], evil_example_com=["127.0.0.1"])
        policy = EgressPolicy(allow=[f"ollama.lan:{served.port}"])
        client = transport.http_client(policy)
        assert (await client.get(f"http://ollama.lan:{served.port}/")).json() == {}
        for other in (f"https://evil.example.com:{served.port}/", f"http://127.0.0.1:{served.port}/"):
            assert isinstance(await failure(client.get(other)), EgressBlocked)
        assert served.connections == 1


async def test_open_connection_of_one_policy_serves_no_other() -> None:
    async with serving(sized(b"{}"), again=True) as served:
        await read(served)
        error = await failure(transport.http_client(EgressPolicy()).get(served.url))
        assert isinstance(error, EgressBlocked)
        assert served.requests == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 300, 304])
@pytest.mark.parametrize(
    "target", ["http://169.254.169.254/", "file:///etc/passwd", "/again", "https://other.example/"]
)
async def test_redirect_is_not_followed(status: int, target: str) -> None:
    answer = sized(b"", b"location: " + target.encode(), status=b"%d Moved" % status)
    async with serving(answer, again=True) as served:
        assert isinstance(await failure(read(served)), BadProviderResponse)
        call = transport.forward(served.policy, transport.forwarding(served.url, {"authorization": "Bearer k"}), b"{}")
        assert isinstance(await failure(call), BadProviderResponse)
        assert served.requests == 2


async def test_proxy_and_netrc_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login alice password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    async with serving(sized(b"{}")) as proxy, serving(sized(b'{"direct": true}')) as served:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        response = await get(served)
        assert await transport.read_json(response) == {"direct": True}
        assert "authorization" not in response.request.headers
        assert proxy.connections == 0


async def test_cookies_are_not_kept() -> None:
    """One key's would go along with another's calls. By name: of bare addresses nobody keeps them anyway."""
    async with serving(sized(b"{}", b"set-cookie: whose=alice; Path=/"), again=True) as served:
        client = transport.http_client(EgressPolicy(allow=[f"localhost:{served.port}"]))
        for _ in range(2):
            request = client.build_request("GET", f"http://localhost:{served.port}/")
            await transport.read_json(await client.send(request, stream=True))
        assert served.requests == 2
        assert [head for head in served.heads if b"alice" in head] == []


async def test_refused_connection_is_a_failed_connection() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    client = transport.http_client(EgressPolicy(allow=[f"127.0.0.1:{port}"]))
    assert type(await failure(client.get(f"http://127.0.0.1:{port}/"))) is ConnectionFailed


async def test_server_without_tls_is_a_failed_connection() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.com ESMTP\r\n")
        await reader.read(1)
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    served = Served(server.sockets[0].getsockname()[1])
    error = await failure(transport.http_client(served.policy).get(served.url.replace("http:", "https:")))
    assert type(error) is ConnectionFailed
    assert "secure" in str(error)
    server.close()


async def test_silent_handshake_ends_by_the_connect_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "CONNECT_TIMEOUT_S", 0.2)
    async with serving(stay=True) as served:
        client = transport.http_client(served.policy)
        assert type(await failure(client.get(served.url.replace("http:", "https:")))) is ConnectionFailed


def certificate(tmp_path: Any, name: str, *, days: int) -> ssl.SSLContext:
    """A server's side of TLS with a certificate that nobody has signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=400))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, pkcs8, plain = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path = tmp_path / "server.pem"
    path.write_bytes(made.public_bytes(pem) + key.private_bytes(pem, pkcs8, plain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


@pytest.mark.parametrize(("name", "days"), [("localhost", 100), ("localhost", -10), ("other.example.com", 100)])
async def test_certificate_that_cannot_be_trusted_is_a_failed_connection(tmp_path: Any, name: str, days: int) -> None:
    requests = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.read(1))
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=certificate(tmp_path, name, days=days))
    port = server.sockets[0].getsockname()[1]
    client = transport.http_client(EgressPolicy(allow=[f"localhost:{port}"]))
    error = await failure(
        client.post(f"https://localhost:{port}/", headers={"authorization": "Bearer k"}, content=b"x")
    )
    assert type(error) is ConnectionFailed
    assert "certificate" in str(error)
    assert requests in ([], [b""])
    server.close()


async def test_connection_is_kept_for_the_next_call() -> None:
    async with serving(sized(b'{"n": 1}'), again=True) as served:
        for _ in range(5):
            assert await read(served) == {"n": 1}
        assert served.connections == 1


async def test_answer_that_nobody_asked_for_is_given_to_nobody() -> None:
    spoilt = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sized(b'{"yours": true}'))
        await asked.wait()
        writer.write(sized(b'{"yours": false}'))
        await writer.drain()
        spoilt.set()
        await reader.read(-1)
        writer.close()

    asked = asyncio.Event()
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    served = Served(server.sockets[0].getsockname()[1])
    for _ in range(3):
        assert await read(served) == {"yours": True}
        asked.set()
        await spoilt.wait()
        (opened,) = door._doors[asyncio.get_running_loop()].values()
        pool = opened.session.connector._conns  # type: ignore[union-attr]
        while not any(kept.should_close for idle in pool.values() for kept, _ in idle):  # noqa: ASYNC110
            await asyncio.sleep(0)
        asked.clear()
        spoilt.clear()
    await transport.close_connections()
    server.close()


def test_sessions_belong_to_their_loop_and_dead_ones_are_dropped() -> None:
    async def client() -> object:
        return transport.http_client(EgressPolicy())

    async def same() -> bool:
        return transport.http_client(EgressPolicy()) is transport.http_client(EgressPolicy(allow=()))

    first, second = asyncio.run(client()), asyncio.run(client())
    assert first is not second
    assert asyncio.run(same())
    assert all(not loop.is_closed() for loop in list(door._doors)[:-1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forked_child_makes_sessions_of_its_own() -> None:
    async def parent() -> None:
        async with serving(sized(b"{}"), again=True) as served:
            await read(served)
            child = os.fork()
            if child == 0:
                os._exit(0 if not door._doors else 1)
            _, status = os.waitpid(child, 0)  # noqa: ASYNC222 (the child is gone at once)
            assert os.waitstatus_to_exitcode(status) == 0
            await read(served)
            assert served.connections == 1

    asyncio.run(parent())
