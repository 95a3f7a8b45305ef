"""One subject of the comparison, in its own process: ``python subjects.py NAME URL``.

Each is set up as its documentation says, with one client for all calls. Commands on stdin, ``call 200`` or ``stream
20``, are each answered by a line of JSON: CPU of this process per call, time to the first chunk, memory. Only what the
subject needs is imported, because peers run this file with other Pythons than ours.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

KEY = "sk-benchmark-0123456789"
MODEL = "gpt-4o-mini"
ASK = "Hello there, how are you today? short"
"""For a call: an answer of a few words, also when streamed."""
ASK_LONG = "Hello there, how are you today? apart"
MESSAGES = [{"role": "user", "content": ASK}]
MESSAGES_LONG = [{"role": "user", "content": ASK_LONG}]
CHUNKS = 200


class Subject(NamedTuple):
    call: Callable[[], Awaitable[Any]]
    stream: Callable[[], AsyncIterator[Any]]
    """Its chunks."""


async def openai_sdk(url: str) -> Subject:
    from openai import AsyncOpenAI

    client = AsyncOpenAI(api_key=KEY, base_url=f"{url}/v1", max_retries=0)
    messages: Any = MESSAGES
    long: Any = MESSAGES_LONG

    async def stream() -> AsyncIterator[Any]:
        options: Any = {"include_usage": True}
        answer: Any = await client.chat.completions.create(
            model=MODEL, messages=long, stream=True, stream_options=options
        )
        async for chunk in answer:
            yield chunk

    return Subject(lambda: client.chat.completions.create(model=MODEL, messages=messages), stream)


# Ours


async def our_client(url: str) -> Subject:
    from llm_credentials.providers import EgressPolicy, LLMMessage, build_client

    policy = EgressPolicy(allow=[url.removeprefix("http://")])
    client = build_client("openai", api_key=KEY, model=MODEL, base_url=f"{url}/v1", egress=policy)
    ask, long = [LLMMessage.user(ASK)], [LLMMessage.user(ASK_LONG)]
    return Subject(lambda: client.complete(ask), lambda: client.stream(long))


def _our_user() -> Any:
    """User of the site named by the environment, with a key for the provider."""
    import django

    django.setup()

    from django.contrib.auth.models import User

    from llm_credentials import wall

    wall.open_process_for("a benchmark")
    return User.objects.get(username="bench")


async def our_routed_client(url: str) -> Subject:
    user = await asyncio.to_thread(_our_user)

    from llm_credentials.factory import client_for
    from llm_credentials.providers import LLMMessage

    client, ask, long = client_for(user), [LLMMessage.user(ASK)], [LLMMessage.user(ASK_LONG)]
    return Subject(lambda: client.complete(ask), lambda: client.stream(long))


async def our_agent(url: str) -> Subject:
    user = await asyncio.to_thread(_our_user)

    from agents.catalog.conversation import ConversationAgent

    agent = ConversationAgent(user)
    return Subject(lambda: agent.run(ASK), lambda: agent.stream(ASK_LONG))


# Peers


async def any_llm(url: str) -> Subject:
    from any_llm import AnyLLM  # type: ignore[import-not-found]

    client = AnyLLM.create("openai", api_key=KEY, api_base=f"{url}/v1")

    async def stream() -> AsyncIterator[Any]:
        async for chunk in await client.acompletion(model=MODEL, messages=MESSAGES_LONG, stream=True):
            yield chunk

    return Subject(lambda: client.acompletion(model=MODEL, messages=MESSAGES), stream)


async def pydantic_ai(url: str) -> Subject:
    from pydantic_ai import Agent  # type: ignore[import-not-found]
    from pydantic_ai.models.openai import OpenAIChatModel  # type: ignore[import-not-found]
    from pydantic_ai.providers.openai import OpenAIProvider  # type: ignore[import-not-found]

    agent = Agent(OpenAIChatModel(MODEL, provider=OpenAIProvider(api_key=KEY, base_url=f"{url}/v1")))

    async def stream() -> AsyncIterator[Any]:
        async with agent.run_stream(ASK_LONG) as result:
            async for text in result.stream_text(delta=True, debounce_by=None):
                yield text

    return Subject(lambda: agent.run(ASK), stream)


async def langchain(url: str) -> Subject:
    from langchain_openai import ChatOpenAI  # type: ignore[import-not-found]

    model = ChatOpenAI(model=MODEL, api_key=KEY, base_url=f"{url}/v1", max_retries=0)
    return Subject(lambda: model.ainvoke(ASK), lambda: model.astream(ASK_LONG))


async def aisuite(url: str) -> Subject:
    import aisuite as suite  # type: ignore[import-not-found]

    client = suite.Client({"openai": {"api_key": KEY, "base_url": f"{url}/v1"}})

    async def call() -> Any:  # it has no async API
        return client.chat.completions.create(model=f"openai:{MODEL}", messages=MESSAGES)

    async def stream() -> AsyncIterator[Any]:
        for chunk in client.chat.completions.create(model=f"openai:{MODEL}", messages=MESSAGES_LONG, stream=True):
            yield chunk

    return Subject(call, stream)


async def litellm(url: str) -> Subject:
    import litellm as lite  # type: ignore[import-not-found]

    lite.telemetry = False
    common: dict[str, Any] = {"model": f"openai/{MODEL}", "api_base": f"{url}/v1", "api_key": KEY}

    async def stream() -> AsyncIterator[Any]:
        async for chunk in await lite.acompletion(messages=MESSAGES_LONG, stream=True, **common):
            yield chunk

    return Subject(lambda: lite.acompletion(messages=MESSAGES, **common), stream)


SUBJECTS: dict[str, Callable[[str], Awaitable[Subject]]] = {
    "openai": openai_sdk,
    "client": our_client,
    "routed": our_routed_client,
    "agent": our_agent,
    "any-llm": any_llm,
    "pydantic-ai": pydantic_ai,
    "langchain": langchain,
    "aisuite": aisuite,
    "litellm": litellm,
}


# Measurement


async def _calls(subject: Subject, count: int) -> dict[str, float]:
    began = time.process_time()
    for _ in range(count):
        await subject.call()
    return {"cpu_us": (time.process_time() - began) / count * 1e6}


async def _streams(subject: Subject, count: int) -> dict[str, float]:
    """``first_ms``: time to the first chunk of any kind; the stub sends it at once."""
    firsts, chunks, cpu = [], 0, time.process_time()
    for _ in range(count):
        began, first = time.perf_counter(), 0.0
        async for _chunk in subject.stream():
            chunks += 1
            first = first or time.perf_counter() - began
        firsts.append(first * 1e3)
    used = time.process_time() - cpu
    assert chunks >= count * CHUNKS * 0.9, f"{chunks} chunks of {count} streams"
    return {"cpu_us": used / count / CHUNKS * 1e6, "first_ms": statistics.median(firsts)}


def _memory_mb() -> float:
    with open("/proc/self/status", encoding="ascii") as file:  # noqa: PTH123 (older Pythons too)
        return int(file.read().partition("VmRSS:")[2].split()[0]) / 1024


async def _serve(name: str, url: str) -> None:
    subject = await SUBJECTS[name](url)
    print(json.dumps({"ready": name}), flush=True)
    for line in iter(sys.stdin.readline, ""):
        what, count = line.split()
        found = await (_calls if what == "call" else _streams)(subject, int(count))
        print(json.dumps({**found, "memory_mb": _memory_mb()}), flush=True)


if __name__ == "__main__":
    out, sys.stdout = sys.stdout, sys.stderr  # keep output of libraries away from the parent
    sys.stdout = os.fdopen(os.dup(out.fileno()), "w")
    try:
        import uvloop

        run: Callable[[Any], None] = uvloop.run
    except ImportError:
        run = asyncio.run
    run(_serve(sys.argv[1], sys.argv[2]))
