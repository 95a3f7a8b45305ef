"""Measures what calls cost, beside the bare SDK and the peers: ``make bench`` writes docs/performance-beside.md and a
picture.

    python -m benchmarks.beside [--quick] [--only openai,client,…] [--write]

All call one local stub that sends fixed bytes, in turn, in one run. CPU is that of the calling process (for gateways,
of the forwarding one). Each peer has its own environment in the system's temporary folder, created here with uv or pip;
a peer that cannot be installed is named and skipped. Only the ratios carry over to other machines.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import gateway
from benchmarks.parts import peers
from benchmarks.parts.drawing import bars
from benchmarks.parts.load import ASK, LOAD_CORE, ROOT, SERVER_CORE, Target, free_port, load, running
from benchmarks.parts.machine import machine
from benchmarks.parts.upstream import CHUNKS, SHORT_CHUNKS
from project.embedded import valkey_command

RUNNER = ROOT / "benchmarks/parts/subjects.py"
PAGE, PICTURE = ROOT / "docs/performance-beside.md", ROOT / "docs/performance-beside.svg"


DJANGO = "import django; django.setup()"


@dataclass
class Kind:
    name: str
    label: str
    packages: tuple[str, ...] = ()
    """Packages to install for it; empty: our own code, in our own environment."""
    shown: str = ""
    """The distribution whose version is shown."""
    imports: str = ""
    """The imports that one call needs."""
    version: str = ""
    import_ms: float = 0.0
    found: dict[str, list[float]] = field(default_factory=dict)


KINDS = [
    Kind("openai", "OpenAI's SDK alone", shown="openai", imports="import openai; openai.AsyncOpenAI"),
    Kind("client", "Keyswitch `LLMClient`", imports="import llm_credentials.providers as p; p.build_client"),
    Kind("routed", "Keyswitch `RoutedClient`", imports=f"{DJANGO}; import llm_credentials.factory"),
    Kind("agent", "Keyswitch agent", imports=f"{DJANGO}; import agents.catalog.conversation"),
    Kind("any-llm", "any-llm", ("any-llm-sdk[openai]",), "any-llm-sdk", "import any_llm"),
    Kind("pydantic-ai", "pydantic-ai agent", ("pydantic-ai-slim[openai]",), "pydantic-ai-slim",
         "import pydantic_ai, pydantic_ai.models.openai"),
    Kind("langchain", "langchain-openai", ("langchain-openai",), "langchain-openai", "import langchain_openai"),
    Kind("aisuite", "aisuite", ("aisuite[openai]",), "aisuite", "import aisuite"),
    Kind("litellm", "LiteLLM SDK", peers.LITELLM[1], "litellm", "import litellm"),
]  # fmt: skip


# Environments


def _python(kind: Kind) -> Path | None:
    """An interpreter with the packages; None if they cannot be installed."""
    return peers.environment(kind.name, kind.packages, kind.shown) if kind.packages else Path(sys.executable)


def _import_ms(python: Path, statement: str, times: int, site: dict[str, str]) -> float:
    """CPU time of a process that imports it, minus that of one that imports nothing; a first run fills the bytecode
    cache.
    """

    def took(code: str) -> float:
        before = os.times()
        subprocess.run(
            [str(python), "-c", code], cwd=ROOT, check=True, stderr=subprocess.DEVNULL, env={**os.environ, **site}
        )
        after = os.times()
        used = after.children_user + after.children_system
        return (used - before.children_user - before.children_system) * 1e3

    took(statement)
    return statistics.median(took(statement) - took("pass") for _ in range(times))


# Measurement


class Runner:
    """A subject's process."""

    def __init__(self, kind: Kind, python: Path, url: str, site: dict[str, str]) -> None:
        self.kind = kind
        self.process = subprocess.Popen(
            [str(python), str(RUNNER), kind.name, url],
            cwd=ROOT, env={**os.environ, **site, "PYTHONPATH": str(ROOT)}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            preexec_fn=lambda: os.sched_setaffinity(0, {SERVER_CORE}),
        )  # fmt: skip
        self._answer()

    def _answer(self) -> dict[str, float]:
        assert self.process.stdout and self.process.stderr
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.kind.name} ended: {self.process.stderr.read()[-1500:]}")
        return dict(json.loads(line))

    def do(self, what: str, count: int) -> None:
        assert self.process.stdin
        self.process.stdin.write(f"{what} {count}\n")
        self.process.stdin.flush()
        for name, value in self._answer().items():
            self.kind.found.setdefault(name if name != "cpu_us" else f"{what}_us", []).append(value)

    def end(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def _runners(kinds: list[Kind], imports: int) -> Iterator[list[Runner]]:
    with ThreadPoolExecutor(2) as making:
        pythons = list(making.map(_python, kinds))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port, cache = free_port(), free_port()
        url = f"http://127.0.0.1:{port}"
        stub = [sys.executable, "-m", "benchmarks.parts.upstream", str(port)]
        stack.enter_context(running(stub, LOAD_CORE, {}, port))
        stack.enter_context(running(valkey_command(folder, port=cache), LOAD_CORE, {}, cache))
        site = gateway.site_environment(folder, "", cache, port)
        gateway.prepared(site, url)
        runners = []
        for kind, python in zip(kinds, pythons, strict=True):
            if python is None:
                kind.version = "does not install here"
            elif runner := _runner(kind, python, url, {} if kind.packages else site):
                stack.callback(runner.end)
                runners.append(runner)
                kind.import_ms = _import_ms(python, kind.imports, imports, {} if kind.packages else site)
        yield runners


def _runner(kind: Kind, python: Path, url: str, site: dict[str, str]) -> Runner | None:
    """None if it does not run."""
    print(f"starting {kind.name}", file=sys.stderr, flush=True)
    kind.version = peers.version(python, kind.shown)
    try:
        return Runner(kind, python, url, site)
    except RuntimeError as error:
        kind.version = "does not run here"
        print(error, file=sys.stderr)
        return None


def libraries(kinds: list[Kind], *, rounds: int, calls: int, streams: int) -> None:
    with _runners(kinds, rounds // 3) as runners:
        for runner in runners:
            runner.do("call", 20)
            runner.do("stream", 2)
            runner.kind.found.clear()
        for number in range(rounds):
            for runner in runners:
                runner.do("call", calls)
                runner.do("stream", streams)
            print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)


@dataclass
class Passing:
    """A gateway."""

    label: str
    call_us: list[float] = field(default_factory=list)
    stream_us: list[float] = field(default_factory=list)
    """Per chunk."""
    memory_mb: float = 0.0


SLOWER = 0.1
"""Gateways that take ten times as long get this share of the calls."""


def gateways(*, rounds: int, scale: float) -> list[Passing]:
    version = peers.install()
    labels = {"floor": "bare forwarding with aiohttp", "gateway": "Keyswitch gateway", "LiteLLM": f"LiteLLM {version}"}
    with gateway._targets("", with_peers=version is not None) as targets:
        chosen = [target for target in targets if target.name in labels]
        found = {target.name: Passing(labels[target.name]) for target in chosen}
        asyncio.run(_passed(chosen, found, rounds, scale))
        for target in chosen:
            found[target.name].memory_mb = target.memory_mb()
    return list(found.values())


async def _passed(targets: list[Target], found: dict[str, Passing], rounds: int, scale: float) -> None:
    for target in targets:
        await load(target, stream=False, callers=4, count=40)
        await load(target, stream=True, callers=4, count=8)
    for _ in range(rounds):
        for target in targets:
            part = scale * (SLOWER if target.name == "LiteLLM" else 1.0)
            _, call, _ = await load(target, stream=False, callers=50, count=max(int(2000 * part), 50))
            found[target.name].call_us.append(call)
            ask = f"{ASK} apart"
            _, stream, _ = await load(target, stream=True, callers=20, count=max(int(200 * part), 20), ask=ask)
            found[target.name].stream_us.append(stream / CHUNKS)


# Output


def _ratios(mine: list[float], base: list[float]) -> tuple[float, float, float]:
    """Minimum, median and maximum of the ratios per round."""
    each = sorted(m / b for m, b in zip(mine, base, strict=True))
    return each[0], statistics.median(each), each[-1]


def _cell(mine: list[float], base: list[float] | None, unit: str = "") -> str:
    middle = statistics.median(mine)
    text = f"{middle:,.0f}{unit}" if middle >= 10 else f"{middle:.1f}{unit}"
    if base is None:
        return text
    least, ratio, most = _ratios(mine, base)
    return f"{text} · **{ratio:.2f}** ({least:.2f} to {most:.2f})"


def table(kinds: list[Kind], passing: list[Passing]) -> str:
    base = kinds[0].found
    lines = [
        "| | CPU of a call, µs | CPU of a streamed chunk, µs | to the first chunk, ms | memory | import, CPU |",
        "|---|---|---|---|---|---|",
    ]
    for kind in kinds:
        name = f"{kind.label} {kind.version}".strip()
        if not kind.found:
            lines.append(f"| {name} | | | | | |")
            continue
        cells = [_cell(kind.found[each], base.get(each)) for each in ("call_us", "stream_us", "first_ms")]
        lines.append(
            f"| {name} | {' | '.join(cells)} | {kind.found['memory_mb'][-1]:.0f} MB | {kind.import_ms:.0f} ms |"
        )
    if passing:
        lines += ["", "| passed on | CPU of a call, µs | CPU of a streamed chunk, µs | memory |", "|---|---|---|---|"]
        first = passing[0]
        for each in passing:
            cells = [_cell(each.call_us, first.call_us), _cell(each.stream_us, first.stream_us)]
            lines.append(f"| {each.label} | {' | '.join(cells)} | {each.memory_mb:.0f} MB |")
    return "\n".join(lines)


def page(kinds: list[Kind], passing: list[Passing], rounds: int) -> str:
    where = "\n".join(f"    {line}" for line in machine().splitlines())
    return f"""# Beside the peers

`make bench` makes this page anew; nothing in it is written by hand. {rounds} rounds in which everybody takes a turn,
one call at a time, one local stub with fixed bytes; streams of {CHUNKS} chunks that come one by one. CPU is that of the
whole process which asks. Bold is the ratio to the first line of the table, behind it its least and most of all rounds;
below 1 is cheaper. [Why who is where](performance.md#beside-the-peers).

{where}

{table(kinds, passing)}

![CPU of a call and of a streamed chunk, beside OpenAI's SDK](performance-beside.svg)

`RoutedClient` does what `LLMClient` does, and resolves a route, reserves and settles in the ledger, counts a budget
and looks for stored keys in what is sent; the agent is a `RoutedClient` in its loop. An answer to a call has
{SHORT_CHUNKS} tokens: the agent's `run` reads it as a stream of as many chunks, so that it can be stopped and watched,
the others as one body. Memory and import of these two are those of a process of the site: Django, every application,
the ledger, a database connection. Gateways: one worker on one core, fifty callers (streams: twenty), with token, rates,
routing, budget and ledger; LiteLLM's proxy without a database.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three short rounds; writes nothing unless told to")
    parser.add_argument("--only", default="", help="names, by commas: " + ", ".join(kind.name for kind in KINDS))
    parser.add_argument("--no-gateways", action="store_true")
    parser.add_argument("--write", action="store_true", help="the page and its picture, also after --quick or --only")
    options = parser.parse_args()
    chosen = options.only.split(",") if options.only else [kind.name for kind in KINDS]
    kinds = [kind for kind in KINDS if kind.name in chosen or kind.name == "openai"]
    rounds, began = (3 if options.quick else 9), time.monotonic()
    libraries(kinds, rounds=rounds, calls=100 if options.quick else 300, streams=4 if options.quick else 12)
    passing = [] if options.no_gateways else gateways(rounds=rounds, scale=0.2 if options.quick else 0.5)
    print(table(kinds, passing))
    print(f"\n{(time.monotonic() - began) / 60:.1f} min")
    if options.write or not (options.quick or options.only):
        PAGE.write_text(page(kinds, passing, rounds))
        measured = [kind for kind in kinds if kind.found]
        columns = {
            title: [(kind.label.replace("`", ""), _ratios(kind.found[each], kinds[0].found[each])) for kind in measured]
            for title, each in (("CPU of a call", "call_us"), ("CPU of a streamed chunk", "stream_us"))
        }
        PICTURE.write_text(bars(columns, "times OpenAI's SDK alone; less is cheaper"))
        print(f"written: {PAGE.relative_to(ROOT)}, {PICTURE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
