"""The outbound door against servers that misbehave, and against addresses that must never be dialled."""

from __future__ import annotations

import asyncio
import gzip
import os
import socket
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
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
    DeadlineExceeded,
    EgressBlocked,
    EgressPolicy,
    LLMError,
    RequestRejected,
    bodies,
    transport,
)

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Served:
    """A raw TCP server: what it is given to do with each connection, and how many there were."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.connections = 0
        self.requests = 0
        self.heads: list[bytes] = []
        self.asked = asyncio.Event()
        self.closed = asyncio.Event()
        """Set when a client has gone."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def policy(self) -> EgressPolicy:
        return EgressPolicy(allow=[f"127.0.0.1:{self.port}"])


@asynccontextmanager
async def serving(
    *pieces: bytes, stay: bool = False, again: bool = False, drip_s: float = 0.0
) -> AsyncIterator[Served]:
    """Answer a request with these bytes, as they are; then close, ``stay`` silent, or wait for one ``again``."""
    served: Served

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.connections += 1
        try:
            while asked := await reader.readuntil(b"\r\n\r\n"):
                served.heads.append(asked)
                served.requests += 1
                served.asked.set()
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(drip_s)
                if stay:
                    await reader.read(-1)
                if not again:
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            served.closed.set()
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    served = Served(server.sockets[0].getsockname()[1])
    try:
        yield served
    finally:
        await transport.close_connections()
        server.close()


def head(*lines: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 " + status + b"\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def sized(body: bytes, *lines: bytes, status: bytes = b"200 OK") -> bytes:
    return head(b"content-length: %d" % len(body), *lines, status=status) + body


async def get(served: Served, path: str = "/") -> transport.RawResponse:
    client = transport.http_client(served.policy)
    return await client.send(client.build_request("GET", served.url + path), stream=True)


async def failure(call: Awaitable[Any]) -> LLMError:
    """What the call fails with, as a client would see it."""
    try:
        await call
    except Exception as error:
        ours = transport.refusal(error) or transport.network_error(error)
        assert ours is not None, error
        return ours
    raise AssertionError("it did not fail")


async def read(served: Served) -> Any:
    return await transport.read_json(await get(served))


async def events(served: Served, timeout_s: float = 5.0) -> list[tuple[str, bytes]]:
    deadline = asyncio.get_running_loop().time() + timeout_s
    return [event async for batch in transport.read_events(await get(served), deadline) for event in batch]


# What is dialled


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
    assert isinstance(await failure(transport.forward(EgressPolicy(), url, {}, b"{}", stream=False)), LLMError)
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

    monkeypatch.setattr(transport._Resolver, "resolve", unchecked)
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
        call = transport.forward(served.policy, served.url, {"authorization": "Bearer k"}, b"{}", stream=False)
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
    monkeypatch.setattr(transport, "CONNECT_TIMEOUT_S", 0.2)
    async with serving(stay=True) as served:
        client = transport.http_client(served.policy)
        assert type(await failure(client.get(served.url.replace("http:", "https:")))) is ConnectionFailed


# What comes back


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (sized(b""), BadProviderResponse),
        (sized(b"   \n"), BadProviderResponse),
        (sized(b"<!doctype html><h1>Hello</h1>", b"content-type: text/html"), BadProviderResponse),
        (sized(b'{"a": '), BadProviderResponse),
        (sized(b"[" * 100_000), BadProviderResponse),
        (sized(b'{"a": 1}{"b": 2}'), BadProviderResponse),
        (head(status=b"204 No Content"), BadProviderResponse),
        (b"SSH-2.0-OpenSSH_9.2\r\n", BadProviderResponse),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{}", ConnectionFailed),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n", ConnectionFailed),
        (b"HTTP/1.1 200 OK\r\ncontent-len", ConnectionFailed),
        (b"", ConnectionFailed),
        (sized(b"{}", b"content-encoding: br"), BadProviderResponse),
        (sized(b"{}", b"content-encoding: zstd"), BadProviderResponse),
        (sized(gzip.compress(gzip.compress(b"{}")), b"content-encoding: gzip, gzip"), BadProviderResponse),
        (sized(gzip.compress(b"{}"), b"content-encoding: gzip", b"content-encoding: gzip"), BadProviderResponse),
        (sized(b"not gzip at all", b"content-encoding: gzip"), BadProviderResponse),
        (sized(gzip.compress(b"{}") + b"more", b"content-encoding: gzip"), BadProviderResponse),
        (sized(gzip.compress(b'{"a": 1}')[:-9], b"content-encoding: gzip"), ConnectionFailed),
        (head(*(b"x-%d: y" % n for n in range(1000))), BadProviderResponse),
        (head(b"x-long: " + b"y" * 100_000), BadProviderResponse),
    ],
)
async def test_read_json_names_what_is_wrong(answer: bytes, kind: type[LLMError]) -> None:
    async with serving(answer) as served:
        error = await failure(read(served))
        assert type(error) is kind, error


@pytest.mark.parametrize(
    "answer",
    [
        sized(b'{"a": 1}'),
        sized(b'\xef\xbb\xbf{"a": 1}'),
        sized(b'\n\n\n   {"a": 1}\r\n'),
        sized(gzip.compress(b'{"a": 1}'), b"content-encoding: gzip"),
        sized(gzip.compress(b'{"a": 1}'), b"Content-Encoding: X-GZIP"),
        sized(zlib.compress(b'{"a": 1}'), b"content-encoding: deflate"),
        sized(zlib.compress(b'{"a": 1}', wbits=-15), b"content-encoding: deflate"),
        sized(b'{"a": 1}', b"content-encoding: identity"),
        sized(b'{"a": 1}', b"content-type: text/plain"),
        head() + b'{"a": 1}',
    ],
)
async def test_read_json_reads_every_lawful_form(answer: bytes) -> None:
    async with serving(answer) as served:
        assert await read(served) == {"a": 1}


def test_load_json_mends_what_python_servers_send() -> None:
    assert transport.load_json(b'{"a": NaN, "b": [Infinity]}') == {"a": None, "b": [None]}
    assert transport.load_json(rb'{"a": "x\ud83d"}') == {"a": "x\ufffd"}
    assert transport.load_json(rb'{"a": "\ud83d\ude00"}') == {"a": "\U0001f600"}


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
async def test_bomb_is_refused_before_it_unfolds(encoding: bytes) -> None:
    maker = zlib.compressobj(9, wbits=31 if encoding == b"gzip" else 15)
    bomb = b"".join(maker.compress(b" " * 1_000_000) for _ in range(bodies.MAX_BODY_BYTES // 1_000_000 + 20))
    bomb += maker.flush()
    assert len(bomb) < 200_000
    async with serving(sized(bomb, b"content-encoding: " + encoding)) as served:
        assert isinstance(await failure(read(served)), BadProviderResponse)
        assert isinstance(await failure(events(served)), BadProviderResponse)


async def test_body_beyond_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "MAX_BODY_BYTES", 1000)
    async with serving(sized(b"[" + b"1," * 600 + b"1]")) as served:
        assert isinstance(await failure(read(served)), BadProviderResponse)
    async with serving(head(), *[b"data: {}\n\n"] * 200) as served:
        assert isinstance(await failure(events(served)), BadProviderResponse)
    async with serving(sized(b"x" * 2000)) as served:
        forwarded = await transport.forward(served.policy, served.url, {}, b"{}", stream=True)
        with pytest.raises(BadProviderResponse):
            assert [piece async for piece in forwarded.body]


async def test_error_body_is_read_to_its_limit_alone() -> None:
    body = b"x" * (bodies.MAX_ERROR_BODY_BYTES * 3)
    async with serving(sized(body, status=b"500 Oops")) as served:
        assert len(await (await get(served)).aread()) == bodies.MAX_ERROR_BODY_BYTES


async def test_error_body_that_breaks_off_leaves_the_status() -> None:
    async with serving(b"HTTP/1.1 401 No\r\ncontent-length: 100\r\n\r\n{") as served:
        response = await get(served)
        await response.aread()
        assert response.status_code == 401


# Events


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (sized(b""), BadProviderResponse),
        (sized(b"<html>", b"content-type: text/html"), BadProviderResponse),
        (sized(b"Service unavailable, sorry", b"content-type: text/event-stream"), BadProviderResponse),
        (sized(b'{"error": ', b"content-type: application/json"), BadProviderResponse),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\na\r\ndata: {}\n\n\r\n", ConnectionFailed),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\ndata: {}\n\n", ConnectionFailed),
        (sized(b"data: " + b"x" * 5_000_000), BadProviderResponse),
    ],
)
async def test_read_events_names_what_is_wrong(answer: bytes, kind: type[LLMError]) -> None:
    async with serving(answer) as served:
        assert type(await failure(events(served))) is kind


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"data: 1\n\ndata: [DONE]\n\n", [("", b"1"), ("", b"[DONE]")]),
        (b"data: 1\n\ndata: [DONE]", [("", b"1"), ("", b"[DONE]")]),
        (b'data: {"a": 1}', [("", b'{"a": 1}')]),
        (b'data: 1\n\ndata: {"a": ', [("", b"1")]),
        (b'{"error": {"code": 429}}', [(transport.WHOLE_BODY, b'{"error": {"code": 429}}')]),
        (b": ping\n\n: ping\n\n", []),
        (b"\n\n\n" * 100 + b'{"a": 1}', [(transport.WHOLE_BODY, b'{"a": 1}')]),
    ],
)
async def test_read_events_gives_what_came(answer: bytes, expected: list[tuple[str, bytes]]) -> None:
    async with serving(sized(answer)) as served:
        assert [(name, data.strip()) for name, data in await events(served)] == expected
    async with serving(sized(gzip.compress(answer), b"content-encoding: gzip")) as served:
        assert [(name, data.strip()) for name, data in await events(served)] == expected


async def test_large_answer_unfolds_whole() -> None:
    text = b'{"a": "' + b"x" * 3_000_000 + b'"}'
    async with serving(sized(gzip.compress(text), b"content-encoding: gzip"), again=True) as served:
        assert len((await read(served))["a"]) == 3_000_000
        assert await events(served) == [(transport.WHOLE_BODY, text)]


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


async def test_drip_does_not_outlive_the_deadline() -> None:
    async with serving(head(), *[b": "] * 10_000, drip_s=0.02) as served:
        assert type(await failure(events(served, timeout_s=0.3))) is DeadlineExceeded
        await asyncio.wait_for(served.closed.wait(), 20)


async def test_silence_in_a_stream_ends_by_the_deadline() -> None:
    async with serving(head(), b"data: 1\n\n", stay=True) as served:
        assert type(await failure(events(served, timeout_s=0.2))) is DeadlineExceeded


async def test_deadline_holds_while_nobody_reads() -> None:
    async with serving(head(), b"data: 1\n\n", stay=True) as served:
        deadline = asyncio.get_running_loop().time() + 0.2
        stream = transport.read_events(await get(served), deadline)
        assert await anext(stream) == [("", b"1")]
        await asyncio.wait_for(served.closed.wait(), 20)
        with pytest.raises(DeadlineExceeded):
            await anext(stream)


async def test_server_that_keeps_the_stream_open_after_its_last_event_costs_a_moment_only() -> None:
    async with serving(head(), b"data: 1\n\n", b"data: [DONE]\n\n", stay=True) as served:
        deadline = asyncio.get_running_loop().time() + 60
        found: list[tuple[str, bytes]] = []
        stream = transport.read_events(await get(served), deadline, lambda: ("", b"[DONE]") in found)
        async with asyncio.timeout(10):
            async for batch in stream:
                found += batch
        assert found == [("", b"1"), ("", b"[DONE]")]


# Connections


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
        (door,) = transport._doors[asyncio.get_running_loop()].values()
        pool = door.session.connector._conns  # type: ignore[union-attr]
        while not any(kept.should_close for idle in pool.values() for kept, _ in idle):  # noqa: ASYNC110
            await asyncio.sleep(0)
        asked.clear()
        spoilt.clear()
    await transport.close_connections()
    server.close()


async def test_closed_stream_closes_its_connection() -> None:
    async with serving(head(), b"data: 1\n\n", stay=True) as served:
        stream = transport.read_events(await get(served), asyncio.get_running_loop().time() + 60)
        await anext(stream)
        await stream.aclose()
        await asyncio.wait_for(served.closed.wait(), 20)


async def test_cancelled_call_closes_its_connection() -> None:
    for answer in ((), (head(b"content-length: 100"),), (head(b"content-length: 100"), b"{")):
        async with serving(*answer, stay=True) as served:
            call = asyncio.ensure_future(read(served))
            await served.asked.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await asyncio.wait_for(served.closed.wait(), 20)


async def test_unread_answer_is_not_given_to_the_next_call() -> None:
    async with serving(sized(b'{"whose": "alice"}' * 9000)) as served:
        response = await get(served)
        await response.aclose()
        await get(served)
        assert served.connections == 2


async def test_forward_passes_status_and_body_on() -> None:
    answer = sized(b'{"error": 1}', b"x-request-id: r1", b"set-cookie: a=b", b"retry-after: 3", status=b"429 Slow")
    async with serving(answer) as served:
        forwarded = await transport.forward(served.policy, served.url, {"x-a": "b"}, b"{}", stream=False)
        assert forwarded.status == 429
        assert forwarded.headers["retry-after"] == "3"
        assert forwarded.headers["x-request-id"] == "r1"
        assert not {"set-cookie", "content-length", "transfer-encoding"} & set(forwarded.headers)
        assert b"".join([piece async for piece in forwarded.body]) == b'{"error": 1}'


async def test_forward_that_is_closed_closes_upstream() -> None:
    async with serving(head(), b"data: 1\n\n", stay=True) as served:
        forwarded = await transport.forward(served.policy, served.url, {}, b"{}", stream=True)
        assert await anext(forwarded.body) == b"data: 1\n\n"
        await forwarded.aclose()
        await asyncio.wait_for(served.closed.wait(), 20)


async def test_forward_closed_before_its_body_is_touched_closes_upstream() -> None:
    async with serving(head(), b"data: 1\n\n", stay=True) as served:
        forwarded = await transport.forward(served.policy, served.url, {}, b"{}", stream=True)
        await forwarded.aclose()
        await asyncio.wait_for(served.closed.wait(), 20)


def test_sessions_belong_to_their_loop_and_dead_ones_are_dropped() -> None:
    async def client() -> object:
        return transport.http_client(EgressPolicy())

    async def same() -> bool:
        return transport.http_client(EgressPolicy()) is transport.http_client(EgressPolicy(allow=()))

    first, second = asyncio.run(client()), asyncio.run(client())
    assert first is not second
    assert asyncio.run(same())
    assert all(not loop.is_closed() for loop in list(transport._doors)[:-1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forked_child_makes_sessions_of_its_own() -> None:
    async def parent() -> None:
        async with serving(sized(b"{}"), again=True) as served:
            await read(served)
            child = os.fork()
            if child == 0:
                os._exit(0 if not transport._doors else 1)
            _, status = os.waitpid(child, 0)  # noqa: ASYNC222 (the child is gone at once)
            assert os.waitstatus_to_exitcode(status) == 0
            await read(served)
            assert served.connections == 1

    asyncio.run(parent())


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "1000000000"}, 24 * 3600),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "\u0661"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "Sat, 21 Nov 2026 10:00:30 GMT"}, 30),
        ({"retry-after": "Sat, 21 Nov 2020 10:00:00 GMT"}, 0),
        ({"retry-after": "Sat, 99 Nov 2026 10:00:00 GMT"}, None),
        ({"retry-after": "Sat, 21 Nov 9999 10:00:00 GMT"}, 24 * 3600),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "x", "retry-after": "9"}, 9),
    ],
)
def test_retry_after_is_sane(headers: dict[str, str], seconds: float | None) -> None:
    now = 1_795_255_200.0  # 2026-11-21 10:00:00 UTC
    assert transport.retry_after_s(headers, now=now) == seconds


def test_forward_takes_no_other_path() -> None:
    from llm_credentials.providers import build_client

    client = build_client("openai", api_key="sk-x", model="gpt-4o")
    for path in ("../admin", "/v1/../admin", "/chat?x=1", "/chat#f", "//evil.example/x:1", "/models/..%2f"):
        with pytest.raises(RequestRejected):
            client.forward_url(path)
    assert client.forward_url("/chat/completions") == client.forward_url("/v1/chat/completions")
