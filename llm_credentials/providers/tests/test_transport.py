"""Reading the answers of servers that misbehave."""

from __future__ import annotations

import asyncio
import gzip
import zlib

import pytest

from llm_credentials.providers import (
    BadProviderResponse,
    ConnectionFailed,
    DeadlineExceeded,
    LLMError,
    RequestRejected,
    bodies,
    transport,
)
from llm_credentials.providers.tests.serving import events, failure, get, head, read, serving, sized


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
        forwarded = await transport.forward(served.policy, transport.forwarding(served.url, {}), b"{}")
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
        forwarded = await transport.forward(served.policy, transport.forwarding(served.url, {"x-a": "b"}), b"{}")
        assert forwarded.status == 429
        assert forwarded.headers["retry-after"] == "3"
        assert forwarded.headers["x-request-id"] == "r1"
        assert not {"set-cookie", "content-length", "transfer-encoding"} & set(forwarded.headers)
        assert b"".join([piece async for piece in forwarded.body]) == b'{"error": 1}'


async def test_forward_that_is_closed_closes_upstream() -> None:
    async with serving(head(), b"data: 1\n\n", stay=True) as served:
        forwarded = await transport.forward(served.policy, transport.forwarding(served.url, {}), b"{}")
        assert await anext(forwarded.body) == b"data: 1\n\n"
        await forwarded.aclose()
        await asyncio.wait_for(served.closed.wait(), 20)


async def test_forward_closed_before_its_body_is_touched_closes_upstream() -> None:
    async with serving(head(), b"data: 1\n\n", stay=True) as served:
        forwarded = await transport.forward(served.policy, transport.forwarding(served.url, {}), b"{}")
        await forwarded.aclose()
        await asyncio.wait_for(served.closed.wait(), 20)


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
