"""The provider of the benchmarks: fixed bytes at the lowest possible cost. ``python upstream.py PORT``.

The prompt selects the behaviour: ``apart`` sends each event of a stream separately, as providers do; ``short`` does the
same with as many words as its non-streamed answer has tokens; ``paced N`` sends N events, one every half second;
``lump`` sends the whole stream as one HTTP chunk; otherwise all events come in one burst, each as its own chunk.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from typing import Any, cast

import uvloop

CHUNKS = 200
SHORT_CHUNKS = 12
PACE_S = 0.5
_HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-mini"}
_PACED = re.compile(rb"paced (\d+)")


def _event(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    return b"data: " + json.dumps({**_HEAD, "choices": choices, "usage": None}).encode() + b"\n\n"


def _end(tokens: int) -> bytes:
    usage = {"prompt_tokens": 9, "completion_tokens": tokens, "total_tokens": 9 + tokens}
    counted = b"data: " + json.dumps({**_HEAD, "choices": [], "usage": usage}).encode()
    return _event({}, "stop") + counted + b"\n\ndata: [DONE]\n\n"


def _events(words: int) -> list[bytes]:
    begin = _event({"role": "assistant", "content": ""})
    return [begin, *(_event({"content": f" word{n}"}) for n in range(words)), _end(words)]


EVENTS, SHORT_EVENTS = _events(CHUNKS), _events(SHORT_CHUNKS)
WHOLE = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o-mini",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello there."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": SHORT_CHUNKS, "total_tokens": 9 + SHORT_CHUNKS},
    }
).encode()


def _answer(body: bytes, kind: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n" % (kind, len(body))
    return head + body


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


JSON = _answer(WHOLE, b"application/json")
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
BURST = _STREAM_HEAD + b"".join(map(_chunk, EVENTS)) + b"0\r\n\r\n"
LUMP = _STREAM_HEAD + _chunk(b"".join(EVENTS)) + b"0\r\n\r\n"


class Stub(asyncio.Protocol):
    def __init__(self) -> None:
        self.data = b""
        self.task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self.task is not None:
            self.task.cancel()

    def data_received(self, data: bytes) -> None:
        self.data += data
        while (end := self.data.find(b"\r\n\r\n")) >= 0:
            head = self.data[:end].lower()
            at = head.find(b"content-length:")
            size = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.data) < end + 4 + size:
                return
            body, self.data = self.data[end + 4 : end + 4 + size], self.data[end + 4 + size :]
            self._answer(body)

    def _answer(self, body: bytes) -> None:
        if b'"stream":true' not in body and b'"stream": true' not in body:
            self.transport.write(JSON)
        elif paced := _PACED.search(body):
            self.task = asyncio.get_running_loop().create_task(self._paced(int(paced[1])))
        elif b"apart" in body:
            self.task = asyncio.get_running_loop().create_task(self._apart(EVENTS))
        elif b"short" in body:
            self.task = asyncio.get_running_loop().create_task(self._apart(SHORT_EVENTS))
        else:
            self.transport.write(LUMP if b"lump" in body else BURST)

    async def _apart(self, events: list[bytes]) -> None:
        self.transport.write(_STREAM_HEAD)
        for event in events:
            self.transport.write(_chunk(event))
            await asyncio.sleep(0)
        self.transport.write(b"0\r\n\r\n")

    async def _paced(self, events: int) -> None:
        self.transport.write(_STREAM_HEAD + _chunk(EVENTS[0]))
        for number in range(events):
            self.transport.write(_chunk(_event({"content": f" word{number}"})))
            await asyncio.sleep(PACE_S)
        self.transport.write(_chunk(_end(events)) + b"0\r\n\r\n")


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", int(sys.argv[1]), backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
