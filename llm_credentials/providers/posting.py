"""Sends small requests on a connection of aiohttp's pool, bypassing its session.

The session handles every kind of request, so for each it processes cookies, redirects, proxies, traces and headers, and
starts a task to write the body. Our requests differ only in their bodies, and a small one is sent together with its
head in one write. Connecting, pooling, TLS and reading are still aiohttp's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, cast

import aiohttp
from aiohttp.client_reqrep import RequestInfo
from aiohttp.helpers import TimerNoop
from aiohttp.http_writer import _serialize_headers
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from llm_credentials.providers.content import Response

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.connector import Connection

SMALL_BYTES: Final = 64 * 1024
"""What a connection accepts at once. The session waits for a slow receiver; this module does not."""
MAX_HEADERS: Final = 256
MAX_HEADER_BYTES: Final = 32 * 1024
"""Limit for one line of a response's head."""
_NO_TIMER: Final = TimerNoop()


class Pattern:
    """A request to be sent repeatedly with different bodies; it contains the key."""

    __slots__ = ("_head", "headers", "method", "url")

    def __init__(self, method: str, url: str | URL, headers: Mapping[str, str]) -> None:
        self.method = method
        self.url = url if isinstance(url, URL) else URL(url, encoded=True)
        self.headers = headers
        self._head: bytes | None = None

    def message(self, body: bytes) -> bytes:
        """Head and body as the session would write them. Raises ValueError for an invalid header."""
        head = self._head
        if head is None:
            head = self._head = self._written()
        return b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)

    def _written(self) -> bytes:
        loop = asyncio.get_running_loop()
        headers = aiohttp.ClientRequest(self.method, self.url, headers=self.headers, loop=loop).headers
        headers.popall("content-length", None)
        headers.setdefault("content-type", "application/octet-stream")
        return _serialize_headers(f"{self.method} {self.url.raw_path_qs} HTTP/1.1", headers)[:-2]


class Way:
    """The connection to one origin: what aiohttp needs to connect, without headers and so without the key."""

    __slots__ = ("connector", "info", "loop", "request", "session", "timeout")

    def __init__(self, session: aiohttp.ClientSession, request: aiohttp.ClientRequest) -> None:
        assert session.connector is not None
        self.session = session
        self.connector = session.connector
        self.loop = asyncio.get_running_loop()
        self.timeout = session.timeout
        self.request = request
        self.info = RequestInfo(request.url, request.method, CIMultiDictProxy(CIMultiDict()), request.url)

    async def connection(self) -> Connection:
        """From the pool, or a new one."""
        try:
            return await self.connector.connect(self.request, [], self.timeout)
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError from error

    async def send(self, connection: Connection, message: bytes) -> aiohttp.ClientResponse:
        """Returns the response's head. Raises aiohttp's errors; the connection is closed then."""
        try:
            protocol, transport = connection.protocol, connection.transport
            assert protocol is not None
            protocol.set_response_params(
                timer=_NO_TIMER,
                read_until_eof=True,
                auto_decompress=False,
                read_timeout=self.timeout.sock_read,
                max_line_size=MAX_HEADER_BYTES,
                max_field_size=MAX_HEADER_BYTES,
                max_headers=MAX_HEADERS,
            )
            if transport is None or transport.is_closing():
                raise aiohttp.ClientConnectionResetError
            transport.write(message)
            protocol.start_timeout()
            response = Response(
                self.request.method,
                self.request.url,
                writer=None,
                continue100=None,
                timer=_NO_TIMER,
                request_info=self.info,
                traces=[],
                loop=self.loop,
                session=self.session,
                stream_writer=_WRITTEN,
            )
            try:
                return await response.start(connection)
            except BaseException:
                response.close()
                raise
        except BaseException:
            connection.close()
            raise


class _Written:
    """Stands in for a writer: everything has already been written."""

    output_size = 0


_WRITTEN: Final = cast("AbstractStreamWriter", _Written())
