"""A raw server that answers with the very bytes it is given, and asking it through the outbound door."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from llm_credentials.providers import (
    EgressPolicy,
    LLMError,
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
