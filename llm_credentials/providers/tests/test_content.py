"""What is taken from aiohttp's reader past its own way of giving it."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp.client_proto import ResponseHandler

from llm_credentials.providers import transport
from llm_credentials.providers.tests.serving import head, serving

STREAM = head(b"Content-Type: text/event-stream", b"Transfer-Encoding: chunked")


def _chunks(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


async def test_content_gives_every_byte_of_many_small_chunks_in_few_pieces() -> None:
    words = [b"%d " % number for number in range(20_000)]
    async with serving(STREAM, _chunks(*words) + b"0\r\n\r\n") as served:
        found = await transport.forward(served.policy, transport.forwarding(served.url, {}), b"{}")
        pieces = [piece async for piece in found.body]
    assert b"".join(pieces) == b"".join(words)
    assert len(pieces) < len(words) / 10


async def test_content_reads_on_after_more_than_is_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    paused, pause = asyncio.Event(), ResponseHandler.pause_reading

    def noted(protocol: ResponseHandler) -> None:
        pause(protocol)
        paused.set()

    monkeypatch.setattr(ResponseHandler, "pause_reading", noted)
    block = bytes(range(256)) * 256
    async with serving(STREAM, *[_chunks(block)] * 64, b"0\r\n\r\n") as served:
        found = await transport.forward(served.policy, transport.forwarding(served.url, {}), b"{}")
        first = await anext(found.body)
        await asyncio.wait_for(paused.wait(), 20)
        rest = [piece async for piece in found.body]
    assert first + b"".join(rest) == block * 64


async def test_content_ends_at_its_end_and_the_connection_serves_the_next() -> None:
    async with serving(STREAM + _chunks(b"one", b"two") + b"0\r\n\r\n", again=True) as served:
        for _ in range(2):
            found = await transport.forward(served.policy, transport.forwarding(served.url, {}), b"{}")
            assert b"".join([piece async for piece in found.body]) == b"onetwo"
        assert (served.connections, served.requests) == (1, 2)
