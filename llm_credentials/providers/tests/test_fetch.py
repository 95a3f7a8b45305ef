"""Reading pages for agents: what is sent, what is followed, and how much is read."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from llm_credentials.providers import EgressBlocked, EgressPolicy, transport
from llm_credentials.providers.egress import check_page
from llm_credentials.providers.fetch import MAX_HOPS, Fetched, FetchFailed, fetch

HTML = b"content-type: text/html; charset=utf-8"


class Site:
    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.policy = EgressPolicy(allow=[f"127.0.0.1:{port}"])
        self.heads: list[bytes] = []

    async def fetch(self, path: str = "/", **limits: Any) -> Fetched:
        return await fetch(self.url + path, egress=self.policy, **limits)


@asynccontextmanager
async def serving(answer: Callable[[bytes], bytes], *, stay: bool = False) -> AsyncIterator[Site]:
    """``answer(path)`` gives the bytes of an answer."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            site.heads.append(head)
            writer.write(answer(head.split(b" ")[1]))
            await writer.drain()
            if stay:
                await reader.read(-1)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    site = Site(server.sockets[0].getsockname()[1])
    try:
        yield site
    finally:
        await transport.close_connections()
        server.close()


def page(body: bytes, *lines: bytes, status: bytes = b"200 OK") -> bytes:
    head = b"".join(line + b"\r\n" for line in (*lines, b"content-length: %d" % len(body), b"connection: close"))
    return b"HTTP/1.1 " + status + b"\r\n" + head + b"\r\n" + body


def moved(target: bytes, status: bytes = b"302 Found") -> bytes:
    return page(b"", b"location: " + target, status=status)


async def test_fetch_reads_a_page_and_says_nothing_of_the_reader() -> None:
    async with serving(lambda path: page("<p>Grüße".encode(), HTML, b"set-cookie: a=b")) as site:
        found = await site.fetch("/a%20b?q=1&r=%2F#part")
        assert (found.status, found.content_type, found.charset, found.truncated) == (200, "text/html", "utf-8", False)
        assert found.text == "<p>Grüße"
        assert found.url == f"{site.url}/a%20b?q=1&r=%2F"
        await site.fetch()
    for head in site.heads:
        names = {line.partition(b":")[0].lower() for line in head.split(b"\r\n")[1:]}
        assert not names & {b"authorization", b"cookie", b"referer", b"x-api-key", b"x-forwarded-for", b"from"}
    assert site.heads[0].startswith(b"GET /a%20b?q=1&r=%2F HTTP/1.1")


async def test_fetch_gives_an_errors_page_too() -> None:
    async with serving(lambda path: page(b"gone", b"content-type: text/plain", status=b"404 Not Found")) as site:
        found = await site.fetch()
    assert (found.status, found.text) == (404, "gone")


@pytest.mark.parametrize("status", [b"301 x", b"302 x", b"303 x", b"307 x", b"308 x"])
async def test_fetch_follows_to_what_it_may_call(status: bytes) -> None:
    async with serving(lambda path: moved(b"b?x=1", status) if path == b"/a" else page(b"here", HTML)) as site:
        found = await site.fetch("/a")
    assert (found.text, found.url) == ("here", f"{site.url}/b?x=1")


@pytest.mark.parametrize(
    "target",
    [
        *(b"http://127.0.0.1:1/", b"http://169.254.169.254/", b"//169.254.169.254/", b"https://localhost/"),
        *(
            b"file:///etc/passwd",
            b"gopher://127.0.0.1/",
            b"data:text/html,x",
            b"http://[::1]:1/",
            b"http://2130706433/",
        ),
        *(
            b"https://user:pw@example.com/",
            b"https:\\\\127.0.0.1\\",
            b"http://metadata.google.internal/",
            b"https://[::1",
        ),
        b"/" + b"a" * 3000,
        *(b"https://good.example@127.0.0.1/", b"http://example.com/", "https://①②⑦.0.0.1/".encode(), b"https://a b/"),
    ],
)
async def test_fetch_checks_each_hop(target: bytes) -> None:
    async with serving(lambda path: moved(target)) as site:
        with pytest.raises(EgressBlocked):
            await site.fetch()
    assert len(site.heads) == 1


async def test_fetch_ends_a_chain_of_redirects() -> None:
    async with serving(lambda path: moved(path + b"x")) as site:
        with pytest.raises(FetchFailed, match="too often"):
            await site.fetch("/a")
    assert len(site.heads) == MAX_HOPS + 1
    async with serving(lambda path: page(b"", status=b"302 Found")) as site:
        with pytest.raises(FetchFailed, match="without saying where"):
            await site.fetch("/a")


async def test_fetch_reads_to_its_limit_alone() -> None:
    async with serving(lambda path: page(b"x" * 100_000, HTML)) as site:
        found = await site.fetch(max_bytes=1000)
        assert (len(found.body), found.truncated) == (1000, True)
        assert not (await site.fetch(max_bytes=100_000)).truncated


async def test_fetch_leaves_a_page_without_end_at_its_limit() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n"
    async with serving(lambda path: head + b"x" * 5000, stay=True) as site:
        found = await site.fetch(max_bytes=1000, timeout_s=10)
    assert (len(found.body), found.truncated) == (1000, True)


@pytest.mark.parametrize(("encoding", "bits"), [(b"gzip", 31), (b"deflate", 15)])
async def test_fetch_unfolds_a_bomb_to_its_limit_alone(encoding: bytes, bits: int) -> None:
    maker = zlib.compressobj(9, wbits=bits)
    bomb = maker.compress(b" " * 50_000_000) + maker.flush()
    async with serving(lambda path: page(bomb, HTML, b"content-encoding: " + encoding)) as site:
        found = await site.fetch(max_bytes=10_000)
    assert (len(found.body), found.truncated) == (10_000, True)


async def test_fetch_unfolds_what_it_asked_for() -> None:
    async with serving(lambda path: page(gzip.compress(b"hello"), HTML, b"content-encoding: gzip")) as site:
        assert (await site.fetch()).text == "hello"


@pytest.mark.parametrize("kind", [b"image/png", b"application/octet-stream", b"", b"video/mp4", b"TEXTILE/x"])
async def test_fetch_leaves_other_kinds_unread(kind: bytes) -> None:
    async with serving(lambda path: page(b"x", b"content-type: " + kind)) as site:
        with pytest.raises(FetchFailed, match="kind"):
            await site.fetch()
        if kind == b"image/png":
            assert (await site.fetch(accept=("image/",))).body == b"x"


@pytest.mark.parametrize(
    "answer",
    [
        *(b"", b"HTTP/1.1 200 OK\r\ncontent-len", b"SSH-2.0-x\r\n", page(b"not gzip", HTML, b"content-encoding: gzip")),
        page(b"x", HTML, b"content-encoding: br"),
        b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 9\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"x-%d: y\r\n" % n for n in range(1000)) + b"\r\n",
    ],
)
async def test_fetch_fails_in_words_of_its_own(answer: bytes) -> None:
    async with serving(lambda path: answer) as site:
        with pytest.raises(FetchFailed) as caught:
            await site.fetch("/secret-path")
    assert "secret-path" not in str(caught.value)
    assert "127.0.0.1" not in str(caught.value)


async def test_fetch_ends_by_its_deadline() -> None:
    for answer in (b"", b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n<p>"):
        async with serving(lambda path, answer=answer: answer, stay=True) as site:  # type: ignore[misc]
            with pytest.raises(FetchFailed, match="in time"):
                await site.fetch(timeout_s=0.2)


@pytest.mark.parametrize("charset", ["latin-1", "nonsense", "hex", "idna", "", "utf-16\x00", "'UTF-8'"])
async def test_fetch_reads_any_charset(charset: str) -> None:
    found = Fetched(url="", status=200, content_type="", charset=charset, body=b"a\xff\xfe" * 9, truncated=False)
    assert isinstance(found.text, str)


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        (
            "https://en.wikipedia.org/wiki/Caf%C3%A9?action=raw#History",
            "https://en.wikipedia.org/wiki/Caf%C3%A9?action=raw",
        ),
        ("https://medium.com/@user/a-post", "https://medium.com/@user/a-post"),
        ("HTTPS://Example.COM", "https://example.com/"),
        ("https://example.com?q=a@b", "https://example.com/?q=a@b"),
        ("https://example.com/a/../b", "https://example.com/a/../b"),
    ],
)
def test_page_may_have_query_and_escapes(url: str, asked: str) -> None:
    assert check_page(url, EgressPolicy()) == asked
