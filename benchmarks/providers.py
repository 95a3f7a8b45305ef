"""Measures what a call through our clients costs, next to the bare SDK below each of them.

Both call the same local server, which runs in its own process and answers with fixed bytes. The figure is the CPU time
of this process per call; rounds of ours and of the SDK's alternate, so that a busy machine affects both. Prints the
ratios ours / SDK of the rounds: smallest, median, largest, and the limit for the median.

    python benchmarks/providers.py [--quick] [--wire openai|anthropic|gemini] [--case one|fifty|…]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.parts.fixed_answers import CHUNKS, MODELS, serve

KEY = "sk-benchmark"
LIMITS = {
    "openai": {"one": 0.6, "fifty": 0.4, "two_hundred": 0.4, "stream": 0.2, "history": 0.2},
    "anthropic": {"one": 0.6, "fifty": 0.4, "two_hundred": 0.4, "stream": 0.5, "history": 0.2},
    "gemini": {"one": 0.6, "fifty": 0.4, "two_hundred": 0.75, "stream": 0.2, "history": 0.2},
}
BUILD_LIMIT_US = 100.0

Call = Callable[[], Awaitable[Any]]


@dataclass(frozen=True)
class Case:
    name: str
    in_flight: int
    calls: int
    """Per round."""


CASES = (
    Case("one", 1, 200),
    Case("fifty", 50, 400),
    Case("two_hundred", 200, 600),
    Case("stream", 1, 30),
    Case("history", 1, 60),
)

# The requests

_PARAMETERS = {
    "type": "object",
    "properties": {
        name: {"type": "string", "description": "What to look for, in plain words."} for name in ("query", "place")
    },
    "required": ["query"],
}
_TURNS = [(f"Question {n}? " + "Some more words. " * 45, f"Answer {n}. " + "Some more words. " * 45) for n in range(20)]
_TOOLS = [(f"tool_{n}", "Looks something up for the user. " * 3) for n in range(10)]


def _ours(wire: str, address: str, name: str) -> Call:
    from llm_credentials.providers import EgressPolicy, LLMMessage, ToolDefinition, build_client

    policy = EgressPolicy(allow=[address.removeprefix("http://")])
    base_url = f"{address}/v1" if wire == "openai" else address
    client = build_client(wire, api_key=KEY, model=MODELS[wire], base_url=base_url, egress=policy)
    messages = [LLMMessage.user("Hello")]
    if name == "history":
        turns = [(LLMMessage.user(question), LLMMessage.assistant(answer)) for question, answer in _TURNS]
        messages = [message for turn in turns for message in turn] + messages
        tools = [ToolDefinition(name=tool, description=text, parameters=_PARAMETERS) for tool, text in _TOOLS]
        return lambda: client.complete(messages, tools=tools, max_tokens=500)
    if name == "stream":

        async def stream() -> None:
            chunks = [chunk async for chunk in client.stream(messages, max_tokens=500)]
            assert len(chunks) == CHUNKS + 1

        return stream
    return lambda: client.complete(messages, max_tokens=500)


def _openai_sdk(address: str, name: str) -> Call:
    from openai import AsyncOpenAI

    client = AsyncOpenAI(api_key=KEY, base_url=f"{address}/v1", max_retries=0)
    model = MODELS["openai"]
    messages: list[Any] = [{"role": "user", "content": "Hello"}]
    if name == "history":
        turns = [({"role": "user", "content": asked}, {"role": "assistant", "content": said}) for asked, said in _TURNS]
        messages = [message for turn in turns for message in turn] + messages
        tools: list[Any] = [
            {"type": "function", "function": {"name": tool, "description": text, "parameters": _PARAMETERS}}
            for tool, text in _TOOLS
        ]
        return lambda: client.chat.completions.create(
            model=model, messages=messages, tools=tools, max_completion_tokens=500
        )
    if name == "stream":

        async def stream() -> None:
            pieces = [
                chunk.choices[0].delta.content
                async for chunk in await client.chat.completions.create(
                    model=model,
                    messages=messages,
                    stream=True,
                    stream_options={"include_usage": True},
                    max_completion_tokens=500,
                )
                if chunk.choices
            ]
            assert len(pieces) == CHUNKS + 2

        return stream
    return lambda: client.chat.completions.create(model=model, messages=messages, max_completion_tokens=500)


def _anthropic_sdk(address: str, name: str) -> Call:
    from anthropic import AsyncAnthropic

    client = AsyncAnthropic(api_key=KEY, base_url=address, max_retries=0)
    model = MODELS["anthropic"]
    messages: list[Any] = [{"role": "user", "content": "Hello"}]
    if name == "history":
        turns = [({"role": "user", "content": asked}, {"role": "assistant", "content": said}) for asked, said in _TURNS]
        messages = [message for turn in turns for message in turn] + messages
        tools: list[Any] = [{"name": tool, "description": text, "input_schema": _PARAMETERS} for tool, text in _TOOLS]
        return lambda: client.messages.create(model=model, messages=messages, tools=tools, max_tokens=500)
    if name == "stream":

        async def stream() -> None:
            events = [
                event
                async for event in await client.messages.create(
                    model=model, messages=messages, max_tokens=500, stream=True
                )
                if event.type == "content_block_delta"
            ]
            assert len(events) == CHUNKS

        return stream
    return lambda: client.messages.create(model=model, messages=messages, max_tokens=500)


def _gemini_sdk(address: str, name: str) -> Call:
    from google import genai
    from google.genai import types

    client = genai.Client(api_key=KEY, http_options=types.HttpOptions(base_url=address, timeout=60_000)).aio
    model = MODELS["gemini"]
    contents: list[Any] = [{"role": "user", "parts": [{"text": "Hello"}]}]
    config: Any = {"max_output_tokens": 500}
    if name == "history":
        turns = [
            ({"role": "user", "parts": [{"text": asked}]}, {"role": "model", "parts": [{"text": said}]})
            for asked, said in _TURNS
        ]
        contents = [content for turn in turns for content in turn] + contents
        declarations = [
            {"name": tool, "description": text, "parameters_json_schema": _PARAMETERS} for tool, text in _TOOLS
        ]
        config["tools"] = [{"function_declarations": declarations}]
    if name == "stream":

        async def stream() -> None:
            stream = await client.models.generate_content_stream(model=model, contents=contents, config=config)
            assert len([chunk.text async for chunk in stream]) == CHUNKS

        return stream
    return lambda: client.models.generate_content(model=model, contents=contents, config=config)


_SDKS: dict[str, Callable[[str, str], Call]] = {
    "openai": _openai_sdk,
    "anthropic": _anthropic_sdk,
    "gemini": _gemini_sdk,
}


_KEPT: list[Call] = []
"""Keeps the SDKs' clients until the end: a collected one closes its sockets late, by descriptors that
are in use again.
"""


async def _cpu_us(call: Call, calls: int, in_flight: int) -> float:
    """CPU time of this process per call."""
    gc.collect()
    begun = time.process_time()
    if in_flight == 1:
        for _ in range(calls):
            await call()
    else:
        left = calls

        async def worker() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                await call()

        await asyncio.gather(*(worker() for _ in range(in_flight)))
    return (time.process_time() - begun) / calls * 1e6


async def _compare(wire: str, case: Case, address: str, rounds: int) -> bool:
    ours, sdk = _ours(wire, address, case.name), _SDKS[wire](address, case.name)
    _KEPT.append(sdk)
    for call in (ours, sdk):
        await _cpu_us(call, max(case.in_flight, 5), case.in_flight)
    pairs = [
        (await _cpu_us(ours, case.calls, case.in_flight), await _cpu_us(sdk, case.calls, case.in_flight))
        for _ in range(rounds)
    ]
    ratios = sorted(mine / theirs for mine, theirs in pairs)
    middle, limit = statistics.median(ratios), LIMITS[wire][case.name]
    mine, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(
        f"{wire:10} {case.name:12} {mine:9.0f} µs  SDK {theirs:9.0f} µs   ratio {ratios[0]:.2f} {middle:.2f}"
        f" {ratios[-1]:.2f}   limit {limit:.2f}  {'kept' if middle <= limit else 'MISSED'}",
        flush=True,
    )
    return middle <= limit


def _compare_build(wire: str) -> bool:
    from llm_credentials.providers import build_client

    times = []
    for _ in range(7):
        begun = time.process_time()
        for _ in range(500):
            build_client(wire, api_key=KEY, model=MODELS[wire])
        times.append((time.process_time() - begun) / 500 * 1e6)
    middle = statistics.median(times)
    verdict = "kept" if middle <= BUILD_LIMIT_US else "MISSED"
    print(f"{wire:10} {'build_client':12} {middle:9.1f} µs   limit {BUILD_LIMIT_US:.0f} µs  {verdict}", flush=True)
    return middle <= BUILD_LIMIT_US


async def _first_calls_us(wire: str, address: str) -> float:
    """CPU time of building a client and its first call, minus a call of a client already used: the cost
    of a new key.
    """
    calls = [_ours(wire, address, "one") for _ in range(50)]
    begun = time.process_time()
    for call in calls:
        await call()
    first = (time.process_time() - begun) / len(calls) * 1e6
    return first - await _cpu_us(calls[0], 50, 1)


async def _run(wires: list[str], names: list[str], address: str, rounds: int) -> bool:
    kept = True
    for wire in wires:
        for case in CASES:
            if case.name in names:
                kept &= await _compare(wire, case, address, rounds)
        if "build" in names:
            kept &= _compare_build(wire)
            print(f"{wire:10} {'first call':12} {await _first_calls_us(wire, address):9.0f} µs more than later ones")
    return kept


def main() -> int:
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three rounds instead of nine")
    parser.add_argument("--wire", choices=list(LIMITS), action="append")
    parser.add_argument("--case", choices=[*names, "build"], action="append")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(serve())
        return 0
    command = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = f"http://127.0.0.1:{int(server.stdout.readline())}"
            rounds = 3 if arguments.quick else 9
            wires, cases = arguments.wire or list(LIMITS), arguments.case or [*names, "build"]
            return 0 if asyncio.run(_run(wires, cases, address, rounds)) else 1
        finally:
            server.terminate()


if __name__ == "__main__":
    raise SystemExit(main())
