"""What ``make prove`` is made of."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from benchmarks.parts.wire import Wire, bad_wire
from benchmarks.prove import page
from benchmarks.prove.__main__ import APART, PARTS, WITHIN_MINUTES
from benchmarks.prove.report import Line, line_in, print_lines, text_of, to_its_end
from benchmarks.prove.running import adopt_orphans, end_orphans, run
from project.tests.servers import wait_until


def test_every_part_names_modules_that_there_are_and_all_fit_into_the_time() -> None:
    steps = [step for name, steps in PARTS.items() for step in steps if name not in APART]
    named = {step.module for steps in PARTS.values() for step in steps}
    assert [name for name in sorted(named) if find_spec(name) is None] == []
    assert PARTS.keys() >= APART
    assert sum(step.minutes for step in steps) < WITHIN_MINUTES
    assert all(step.minutes < step.limit_minutes for step in steps)


def test_a_part_that_breaks_off_falls_short() -> None:
    def part() -> Iterator[Line]:
        yield Line("first: 1", "1", True)
        raise RuntimeError("the disk is gone")

    lines = list(to_its_end(part))
    assert [line.holds for line in lines] == [True, False]
    assert "the disk is gone" in lines[1].measured
    assert print_lines(lines) == 1


def test_a_line_is_read_as_it_was_printed() -> None:
    for line in (Line("calls lost: 0", "0 of 12", True), Line("a → b: 1", "two\nlines → 3", False)):
        read = line_in(text_of(line))
        assert read is not None
        assert read.holds == line.holds
        assert read.measured == " ".join(line.measured.split())
    assert line_in("   a run took 0.3 s") is None


def step(code: str) -> list[str]:
    return [sys.executable, "-c", f"import sys, os, time, subprocess, tempfile\n{code}"]


HELD = 'print("  ok    asked: 1 → 1", flush=True)\n'


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (HELD + "raise ValueError('no disk')", "broke off: ValueError: no disk"),
        (HELD + "os.kill(os.getpid(), 9)", "ended with -9"),
        (HELD + "sys.exit(3)", "ended with 3"),
        ("pass", "it said nothing"),
    ],
)
def test_a_step_that_breaks_off_falls_short_and_what_it_measured_stays(code: str, said: str, tmp_path: Path) -> None:
    lines = run(step(code), tmp_path / "log", 60, lambda text: None)
    assert [line.holds for line in lines] == ([True, False] if code.startswith(HELD) else [False])
    assert said in lines[-1].measured


def test_a_step_that_takes_too_long_is_ended_and_falls_short(tmp_path: Path) -> None:
    lines = run(step("time.sleep(600)"), tmp_path / "log", 0.1, lambda text: None)
    assert [line.holds for line in lines] == [False]
    assert "stopped after" in lines[0].measured


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="orphans are found on Linux only")
def test_what_a_step_started_ends_with_it_even_if_it_was_killed() -> None:
    before = adopt_orphans()
    code = "print(subprocess.Popen(['sleep', '600'], start_new_session=True).pid, flush=True)\ntime.sleep(600)"
    process = subprocess.Popen(step(code), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = psutil.Process(int(process.stdout.readline()))
    process.kill()
    process.wait(20)
    wait_until(lambda: child.ppid() == os.getpid(), "the orphan's adoption", limit_s=20)
    end_orphans(before)
    assert not child.is_running()
    process.stdout.close()


def test_an_orphan_that_ends_while_its_step_runs_is_gone_for_whoever_looks(tmp_path: Path) -> None:
    """As PostgreSQL's own commands do it, to know whether a server is there."""
    code = (
        "shell = subprocess.run(['sh', '-c', 'sleep 600 >/dev/null 2>&1 & echo $!'], capture_output=True)\n"
        "server = int(shell.stdout)\n"
        "os.kill(server, 9)\n"
        "end = time.monotonic() + 60\n"
        "while os.path.exists(f'/proc/{server}') and time.monotonic() < end: time.sleep(0.05)\n"
        "print('  ok    gone: 0 → ' + str(int(os.path.exists(f'/proc/{server}'))))"
    )
    assert run(step(code), tmp_path / "log", 120, lambda text: None) == [Line("gone: 0", "0", True)]


def test_page_gets_a_part_anew_and_keeps_the_others() -> None:
    def part(name: str, *lines: Line) -> dict[str, str]:
        return page.text_of({name: lines}, {name: 1.5}, "a day\nand a commit")

    order = ["load", "chaos"]
    both = page.merged("", part("chaos", Line("lost: < 1", "0 | 0", True)) | part("load", Line("x", "1", True)), order)
    again = page.merged(both, part("load", Line("errors: 0", "12", False)), order)
    assert "| lost: &lt; 1 | 0 \\| 0 | holds |" in again
    assert "| errors: 0 | 12 | **falls short** |" in again
    assert "| x |" not in again
    assert again.index("## load") < again.index("## chaos")
    assert page.merged(again, {}, order) == again


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
