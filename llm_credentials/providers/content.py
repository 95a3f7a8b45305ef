"""An answer's body as aiohttp keeps it, taken out in one go.

aiohttp's own reader takes a stream's chunks out one by one, asks for more after each of them, and remembers where each
one ended, which nobody here wants to know: for a stream that is most of what it costs to read it.
"""

from __future__ import annotations

import aiohttp
from aiohttp.connector import Connection


class _Content(aiohttp.StreamReader):
    __slots__ = ()

    def begin_http_chunk_receiving(self) -> None:
        pass

    def end_http_chunk_receiving(self) -> None:
        pass

    def _read_nowait(self, n: int) -> bytes:
        if n != -1 or self._buffer_offset:
            return super()._read_nowait(n)
        self._timer.assert_timeout()
        buffer = self._buffer
        data = buffer.popleft() if len(buffer) == 1 else b"".join(buffer)
        buffer.clear()
        self._size = 0
        self._cursor += len(data)
        # At the end reading goes on by itself, and the connection may be somebody else's by now.
        if self._protocol._reading_paused and not self._eof:
            self._protocol.resume_reading()
        return data


class Response(aiohttp.ClientResponse):
    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        await super().start(connection)
        # Of a body without bytes there is one reader for all. Every other is this answer's own, made by the parser.
        if type(self.content) is aiohttp.StreamReader:
            self.content.__class__ = _Content
            self.content._http_chunk_splits = None
        return self
