"""What ``make prove`` is made of."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from importlib.util import find_spec

from benchmarks.parts.wire import Wire, bad_wire
from benchmarks.prove.__main__ import APART, PARTS, SMALL
from benchmarks.prove.report import Line, print_lines, to_its_end


def test_every_part_names_modules_that_there_are() -> None:
    named = {command[0] for commands in PARTS.values() for command in commands}
    assert [name for name in sorted(named | SMALL.keys()) if find_spec(name) is None] == []
    assert PARTS.keys() >= APART


def test_a_part_that_breaks_off_falls_short() -> None:
    def part() -> Iterator[Line]:
        yield Line("first: 1", "1", True)
        raise RuntimeError("the disk is gone")

    lines = list(to_its_end(part))
    assert [line.holds for line in lines] == [True, False]
    assert "the disk is gone" in lines[1].measured
    assert print_lines(lines) == 1


def test_a_bad_wire_passes_whole_answers_and_cuts_as_often_as_it_is_told() -> None:
    async def answered(wire: Wire) -> bytes:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readexactly(5))
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        wire.to = server.sockets[0].getsockname()[1]
        async with server:
            reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
            writer.write(b"hello")
            try:
                return await reader.read()
            except ConnectionResetError:
                return b""
            finally:
                writer.close()

    for cut, said in ((0.0, b"hello"), (1.0, b"")):
        wire = Wire(0, delay_s=0.0, cut=cut)
        with bad_wire(wire):
            assert asyncio.run(answered(wire)) == said
        assert wire.cuts == (cut == 1.0)
