"""Simulates an unreliable network: delays data, and cuts some connections in the middle. Replaces ``tc netem``, which
not every kernel has.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class Wire:
    """Delays each piece by ``delay_s`` to 1.5 times that, at random; cuts the connection at a response with probability
    ``cut``.
    """

    to: int
    delay_s: float = 0.05
    cut: float = 0.05
    port: int = 0
    connections: int = 0
    cuts: int = 0
    chance: random.Random = field(default_factory=lambda: random.Random(9))

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.to)
        except OSError:
            writer.close()
            return
        both = [
            asyncio.ensure_future(self._pass(reader, far_writer)),
            asyncio.ensure_future(self._pass(far_reader, writer, cuts=True)),
        ]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for task in both:
            task.cancel()
        for end in (writer, far_writer):
            with suppress(Exception):
                end.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, cuts: bool = False) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await asyncio.sleep(self.delay_s * (1 + self.chance.random() / 2))
                if cuts and self.chance.random() < self.cut:
                    self.cuts += 1
                    return
                writer.write(data)
                await writer.drain()


@contextmanager
def bad_wire(wire: Wire) -> Iterator[Wire]:
    """Serves it in a thread, on ``wire.port``."""
    loop, ready = asyncio.new_event_loop(), threading.Event()

    async def serve() -> None:
        server = await asyncio.start_server(wire.accept, "127.0.0.1", wire.port)
        wire.port = server.sockets[0].getsockname()[1]
        ready.set()

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(serve())
        loop.run_forever()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ready.wait(10)
    try:
        yield wire
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
