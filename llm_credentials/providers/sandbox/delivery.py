"""Sends an answer, whole or as events, paced, with the faults that strike during sending."""

from __future__ import annotations

import asyncio
import socket
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from aiohttp import web

from llm_credentials.providers.sandbox.asks import Frames, Usage
from llm_credentials.providers.sandbox.faults import REDIRECTS
from llm_credentials.providers.sandbox.journal import Entry
from llm_credentials.providers.sandbox.modifiers import Fault

JSON_TYPE = "application/json"
EVENTS_TYPE = "text/event-stream; charset=utf-8"
HTML = (
    b"<!doctype html><html><head><title>Sandbox</title></head>"
    b"<body><h1>It works</h1><p>This is a page, not an answer.</p></body></html>"
)
DRIP_S = 0.3
BOMB_MB = 1_024
MANY = 100_000
WRITE_BYTES = 60_000
REDIRECTED_PATH = "/_sandbox/redirected"


@dataclass(slots=True)
class Answer:
    """The answer to send: a whole body or events."""

    headers: dict[str, str]
    status: int = 200
    body: bytes = b""
    frames: Frames | None = None
    usage: Usage = field(default_factory=Usage)
    pace_s: float = 0.0

    @property
    def all_bytes(self) -> bytes:
        """The body or the joined events."""
        if self.frames is None:
            return self.body
        return b"".join([*self.frames.head, *self.frames.content, *self.frames.tail])


class Finished(web.StreamResponse):
    """Stands for an answer that was sent, or not, by hand; its connection cannot be reused."""

    def __init__(self) -> None:
        super().__init__()
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


class Delivery:
    """Sends one answer and records in the journal entry what has been sent."""

    def __init__(self, request: web.BaseRequest, answer: Answer, entry: Entry, stall_s: float) -> None:
        self.request = request
        self.answer = answer
        self.entry = entry
        self.stall_s = stall_s

    async def send(self, fault: Fault | None = None) -> web.StreamResponse:
        """Send the answer, subject to the fault."""
        self.entry.status = self.answer.status
        if fault is not None:
            return await self.faulty(fault)
        self.entry.bill(self.answer.usage)
        if self.answer.frames is None:
            return web.Response(body=self.answer.body, status=self.answer.status, headers=self.answer.headers)
        return await self.stream(self.answer.frames)

    async def open(self, length: int | None = None) -> web.StreamResponse:
        """Send the status line and headers; without a length the body is chunked."""
        response = web.StreamResponse(status=self.answer.status, headers=self.answer.headers)
        if length is None:
            response.enable_chunked_encoding()
        else:
            response.content_length = length
        await response.prepare(self.request)
        return response

    async def stream(self, frames: Frames, *, limit: int | None = None, end: bool = True) -> web.StreamResponse:
        """Send events at the answer's pace: `limit` is the number of content events, `end` whether the tail follows.

        The prompt is billed at the start, and each piece when it is sent.
        """
        response = await self.open()
        usage, entry = self.answer.usage, self.entry
        entry.bill(usage)
        content = frames.content if limit is None else frames.content[:limit]
        entry.output_tokens = 0
        if frames.head:
            await response.write(b"".join(frames.head))
        if self.answer.pace_s:
            for number, frame in enumerate(content, 1):
                await asyncio.sleep(self.answer.pace_s)
                entry.output_tokens = min(number, usage.output_tokens)
                await response.write(frame)
        else:
            for number, block in _blocks(content):
                entry.output_tokens = min(number, usage.output_tokens)
                await response.write(block)
        if end:
            entry.output_tokens = usage.output_tokens
            entry.open = False  # the client has everything and may disconnect
            await response.write(b"".join(frames.tail))
            await response.write_eof()
        return response

    async def faulty(self, fault: Fault) -> web.StreamResponse:
        name = fault.name
        if name in REDIRECTS or name in ("204", "empty", "html", "html-stream", "wrong-type", "error-200"):
            return await self.replaced(fault)
        if name in ("cut", "cut-clean", "cut-first", "cut-utf8", "reset", "stall-first", "stall-mid"):
            return await self.broken_off(fault)
        if name == "drip":
            return await self.drip(fault.number("seconds", DRIP_S))
        if name == "gzip-bomb":
            return self.raw(
                {"content-encoding": "gzip"}, _bomb(self.answer.all_bytes, int(fault.number("mb", BOMB_MB)))
            )
        if name == "lying-length":
            body = self.answer.all_bytes
            return self.raw({}, body, length=len(body) + 1_000)
        if name in ("endless", "endless-line"):
            return await self.endless(name)
        count = int(fault.number("n", MANY))
        if name == "many-headers":
            return self.raw({f"x-sandbox-{number:06d}": "1" for number in range(count)}, self.answer.all_bytes)
        return self.many_chunks(count)

    async def replaced(self, fault: Fault) -> web.StreamResponse:
        """Sends something else instead of the answer."""
        answer, name = self.answer, fault.name
        if name in REDIRECTS:
            answer.headers["location"] = fault.params.get("to", REDIRECTED_PATH)
            answer.status, answer.body, answer.frames = int(name), b"", None
        elif name == "204":
            answer.status, answer.body, answer.frames = 204, b"", None
            answer.headers.pop("content-type", None)
        elif name == "empty":
            answer.body, answer.frames = b"", None
        elif name == "html":
            answer.headers["content-type"] = "text/html; charset=utf-8"
            answer.body, answer.frames = HTML, None
        elif name == "html-stream":
            answer.body, answer.frames = HTML, None
        elif name == "wrong-type":
            answer.headers["content-type"] = JSON_TYPE if answer.frames else "text/plain"
        if name != "wrong-type":
            answer.usage = Usage()
        return await self.send()

    async def broken_off(self, fault: Fault) -> web.StreamResponse:
        """Sends part of the answer, then stalls, ends early or drops the connection."""
        answer, name = self.answer, fault.name
        if name == "reset":
            return self.abort()
        if name == "stall-first":
            await asyncio.sleep(fault.number("seconds", self.stall_s))
            return self.abort()
        after = fault.number("after", -1)
        if answer.frames is not None:
            frames = answer.frames
            limit = int(after) if after >= 0 else max(1, len(frames.content) // 2)
            response = await self.stream(frames, limit=0 if name == "cut-first" else limit, end=False)
            if name == "cut-utf8":
                await response.write(frames.content[limit % len(frames.content)][:-9] + b"\xc3")
        else:
            self.entry.bill(answer.usage)
            half = 0 if name == "cut-first" else len(answer.body) // 2
            part = answer.body[:half] + (b"\xc3" if name == "cut-utf8" else b"")
            response = await self.open(len(part) if name in ("cut-clean", "cut-utf8") else len(answer.body))
            await response.write(part)
        if name == "stall-mid":
            await asyncio.sleep(fault.number("seconds", self.stall_s))
        if name in ("cut-clean", "cut-utf8"):
            self.entry.open = False
            await response.write_eof()
            return response
        await asyncio.sleep(0)
        return self.abort(quietly=True)

    async def drip(self, seconds: float) -> web.StreamResponse:
        body = self.answer.all_bytes
        response = await self.open(None if self.answer.frames else len(body))
        self.entry.bill(self.answer.usage)
        for place in range(len(body)):
            await asyncio.sleep(seconds)
            await response.write(body[place : place + 1])
        self.entry.open = False
        await response.write_eof()
        return response

    async def endless(self, name: str) -> web.StreamResponse:
        """Sends content without end, as fast as it is read."""
        answer = self.answer
        response = await self.open()
        if answer.frames is None:
            block = b"sandbox " * 8_000
            await response.write(answer.body[:-2].rsplit(b'"', 1)[0] if name == "endless" else b'"')
        elif name == "endless":
            await response.write(b"".join(answer.frames.head))
            one = b"".join(answer.frames.content[:50]) or b": nothing\n\n"
            block = one * (1 + WRITE_BYTES // len(one))
        else:
            await response.write(b"".join(answer.frames.head) + b"data: ")
            block = b"x" * WRITE_BYTES
        self.entry.prompt_tokens = answer.usage.prompt_tokens
        while True:
            await response.write(block)
            self.entry.output_tokens += len(block) // 200
            await asyncio.sleep(0.002)

    def many_chunks(self, count: int) -> web.StreamResponse:
        """Sends the answer after `count` meaningless one-byte HTTP chunks."""
        filler = b"1\r\n\n\r\n" if self.answer.frames else b"1\r\n \r\n"
        body = self.answer.all_bytes
        chunks = filler * count + b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"
        return self.raw({"transfer-encoding": "chunked"}, chunks, length=-1)

    def raw(self, headers: dict[str, str], body: bytes, length: int | None = None) -> web.StreamResponse:
        """Write an answer past aiohttp, then close; a negative length means no Content-Length."""
        self.entry.bill(self.answer.usage)
        lines = [
            f"HTTP/1.1 {self.answer.status} OK",
            *(f"{name}: {value}" for name, value in self.answer.headers.items()),
        ]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if length is None or length >= 0:
            lines.append(f"content-length: {len(body) if length is None else length}")
        transport = self.request.transport
        if transport is not None:
            self.entry.open = False
            transport.write("\r\n".join([*lines, "connection: close", "", ""]).encode() + body)
            transport.close()
        return Finished()

    def abort(self, quietly: bool = False) -> web.StreamResponse:
        """Drop the connection; with a reset unless quietly."""
        transport = self.request.transport
        self.entry.open = False
        if transport is not None:
            raw_socket = transport.get_extra_info("socket")
            if raw_socket is not None and not quietly:
                raw_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if quietly:
                transport.close()
            else:
                transport.abort()
        return Finished()


def _blocks(frames: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
    """Joins frames into blocks worth a write, each with the number of frames so far."""
    block: list[bytes] = []
    size = 0
    for number, frame in enumerate(frames, 1):
        block.append(frame)
        size += len(frame)
        if size >= WRITE_BYTES:
            yield number, b"".join(block)
            block, size = [], 0
    if block:
        yield len(frames), b"".join(block)


def _bomb(body: bytes, megabytes: int) -> bytes:
    """A gzip of `megabytes` MB of newlines followed by the answer; its checksum is wrong."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
    end = packer.compress(body) + packer.flush()
    return start + _packed_megabyte() * megabytes + end + b"\0" * 8


@lru_cache(maxsize=1)
def _packed_megabyte() -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(b"\n" * 1_000_000) + packer.flush(zlib.Z_FULL_FLUSH)
