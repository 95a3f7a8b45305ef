"""Scripted answers behind real wires: the sandbox says what a test tells it to, in each of the three formats."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from agents.tests.scripted import Answer
from llm_credentials.providers import EgressPolicy, LLMClient, build_client
from llm_credentials.providers.sandbox import mind
from llm_credentials.providers.sandbox.asks import Ask, Call, Reply

WIRES = {"chat": ("openai_compatible", "/v1"), "messages": ("anthropic", ""), "generate": ("gemini", "")}


@dataclass
class Script:
    url: str
    asked: list[Ask] = field(default_factory=list)

    def client(self, wire: str, model: str = "sandbox-chat") -> LLMClient:
        """A client of one wire format; close it on the loop that used it."""
        provider, path = WIRES[wire]
        return build_client(
            provider,
            api_key="sbx-good-script",
            model=model,
            base_url=f"{self.url}{path}",
            egress=EgressPolicy(allow=(self.url.removeprefix("http://"),)),
        )


@contextmanager
def scripted(url: str, *answers: Answer | str) -> Iterator[Script]:
    """The sandbox at ``url``, of this process, gives these answers in turn and then its own again."""
    script = Script(url)
    left = [Answer(text=[answer]) if isinstance(answer, str) else answer for answer in answers]

    def answer(ask: Ask, call_ids: Callable[[], str]) -> Reply:
        script.asked.append(ask)
        if not left:
            return own(ask, call_ids)
        given = left.pop(0)
        calls = [
            Call(call_ids(), call.name, call.invalid_arguments or json.dumps(call.arguments)) for call in given.calls
        ]
        reply = Reply(pieces=list(given.text), calls=calls, finish="tool_calls" if calls else "stop")
        mind.count(ask, reply)
        return reply

    own = mind.answer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mind, "answer", answer)
        yield script
