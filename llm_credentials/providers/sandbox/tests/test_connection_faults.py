"""Faults of the connection: cut, silent, slow, endless."""

from __future__ import annotations

import asyncio
import json
import zlib

import aiohttp
import pytest

from llm_credentials.providers.sandbox.tests.asking import END, WIRES, data_of, read
from llm_credentials.providers.sandbox.tests.conftest import KEY, Door


@pytest.mark.parametrize("wire", WIRES)
async def test_fault_cut_drops_the_connection_in_the_middle(door: Door, wire: str) -> None:
    for fault in ("cut", "cut-first"):
        for stream in (False, True):
            with pytest.raises(aiohttp.ClientPayloadError):
                await read(door, wire, fault, stream=stream)


@pytest.mark.parametrize("wire", WIRES)
async def test_fault_cut_clean_ends_the_body_without_the_proper_end(door: Door, wire: str) -> None:
    _, raw = await read(door, wire, "cut-clean", stream=True)
    assert data_of(raw) and END[wire] not in raw.decode()
    _, raw = await read(door, wire, "cut-clean")
    with pytest.raises(json.JSONDecodeError):
        json.loads(raw)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("stream", [False, True])
async def test_fault_cut_utf8_ends_inside_a_character(door: Door, wire: str, stream: bool) -> None:
    _, raw = await read(door, wire, "cut-utf8", stream=stream)
    with pytest.raises(UnicodeDecodeError, match="unexpected end"):
        raw.decode()


@pytest.mark.parametrize("wire", WIRES)
async def test_fault_cut_after_says_how_much_comes(door: Door, wire: str) -> None:
    _, raw = await read(door, wire, "cut-clean,after=3", stream=True, text="count to 50")
    assert b" 2" in raw and b" 5" not in raw


@pytest.mark.parametrize("wire", WIRES)
async def test_fault_reset_gives_no_byte(door: Door, wire: str) -> None:
    with pytest.raises((aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)):
        await read(door, wire, "reset")


@pytest.mark.parametrize("wire", WIRES)
async def test_fault_stall_first_is_silent_until_the_client_goes(door: Door, wire: str) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await read(door, wire, "stall-first", stream=True)
    await until_gone(door)


@pytest.mark.parametrize("wire", WIRES)
async def test_fault_stall_mid_is_silent_after_some_content(door: Door, wire: str) -> None:
    async with door.post(wire, "sandbox-chat~fault=stall-mid", stream=True) as response:
        first = await response.content.readany()
        assert first
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await response.content.read()
    await until_gone(door)


async def until_gone(door: Door) -> None:
    """Wait until the journal has the last request as one that the client left."""
    async with asyncio.timeout(5):
        while not (await door.entries())[-1]["client_gone"]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("wire", WIRES)
async def test_fault_drip_comes_byte_by_byte(door: Door, wire: str) -> None:
    async with door.post(wire, "sandbox-chat~fault=drip,seconds=0.005", stream=True) as response:
        pieces = [await response.content.readany() for _ in range(20)]
        response.close()
    assert max(map(len, pieces)) < 10
    _, raw = await read(door, wire, "drip,seconds=0", stream=True)
    assert END[wire] in raw.decode()


@pytest.mark.parametrize("stream", [False, True])
async def test_fault_gzip_bomb_grows_a_thousandfold(door: Door, stream: bool) -> None:
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        raw_door = Door(door.url, session)
        response, raw = await read(raw_door, "chat", "gzip-bomb,mb=20", stream=stream)
    assert response.headers["content-encoding"] == "gzip"
    assert len(raw) < 60_000
    unpacked = zlib.decompressobj(-15).decompress(raw[10:])
    assert len(unpacked) > 20_000_000
    assert (END["chat"] in unpacked.decode()) is stream


async def test_fault_lying_length_promises_more_than_comes(door: Door) -> None:
    with pytest.raises(aiohttp.ClientPayloadError):
        await read(door, "chat", "lying-length")


@pytest.mark.parametrize("fault", ["endless", "endless-line"])
@pytest.mark.parametrize("stream", [False, True])
async def test_fault_endless_ends_when_the_client_goes(door: Door, fault: str, stream: bool) -> None:
    async with door.post("chat", f"sandbox-chat~fault={fault}", stream=stream) as response:
        got = 0
        async for piece in response.content.iter_any():
            got += len(piece)
            if got > 1_000_000:
                break
        response.close()
    await until_gone(door)


async def test_fault_endless_line_has_no_line_end_after_its_start(door: Door) -> None:
    async with door.post("chat", "sandbox-chat~fault=endless-line", stream=True) as response:
        raw = await response.content.readexactly(100_000)
        response.close()
    assert b"\n" not in raw.partition(b"\n\ndata: x")[2]


@pytest.mark.parametrize("stream", [False, True])
async def test_fault_many_chunks_hold_the_answer_in_the_end(door: Door, stream: bool) -> None:
    _, raw = await read(door, "chat", "many-chunks,n=5000", stream=stream)
    assert len(raw) - len(raw.strip()) >= 5_000
    assert data_of(raw) if stream else json.loads(raw)


async def test_fault_many_headers_are_more_than_clients_take(door: Door) -> None:
    reader, writer = await asyncio.open_connection(*door.url.removeprefix("http://").split(":"))
    body = json.dumps(
        {"model": "sandbox-chat~fault=many-headers,n=500", "messages": [{"role": "user", "content": "x"}]}
    )
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
    raw = await reader.read()
    writer.close()
    assert raw.count(b"x-sandbox-") == 500
    assert json.loads(raw.partition(b"\r\n\r\n")[2])["choices"]
