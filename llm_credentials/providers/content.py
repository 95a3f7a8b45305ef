"""Takes a response body out of aiohttp's buffer in one go.

aiohttp's reader removes a stream's chunks one by one, resumes reading after each, and records where each ended, which
nothing here needs: that is most of the cost of reading a stream.
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
        # At the end of a body reading resumes anyway, and the connection may already serve another request.
        if self._protocol._reading_paused and not self._eof:
            self._protocol.resume_reading()
        return data


class Response(aiohttp.ClientResponse):
    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        await super().start(connection)
        # aiohttp shares one reader among all empty bodies. Any other reader belongs to this response alone.
        if type(self.content) is aiohttp.StreamReader:
            self.content.__class__ = _Content
            self.content._http_chunk_splits = None
        return self
