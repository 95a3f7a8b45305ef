"""Measures the search for stored keys in a call's 33 KB of history, with ten tools and six keys: CPU of this process.

python benchmarks/tripwire.py
"""

from __future__ import annotations

import random
import statistics
import string
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from project import env  # noqa: E402

env.use_settings("project.settings_test")

import django  # noqa: E402

django.setup()

from llm_credentials.models import UserCredential  # noqa: E402
from llm_credentials.providers import LLMMessage, ToolDefinition  # noqa: E402
from llm_credentials.tripwire import Tripwire, texts_of  # noqa: E402

BYTES = 33_000
MESSAGES = 12
KEYS = 6
ROUNDS = 300
LIMIT_US = 100

_TOOLS = [
    ToolDefinition(
        name=f"look_up_{number}",
        description="Look something up and say what was found.",
        parameters={"type": "object", "properties": {"query": {"type": "string", "description": "What to look for."}}},
    )
    for number in range(10)
]


def _wire() -> Tripwire:
    rows = []
    for number in range(KEYS):
        row = UserCredential(user_id=1, provider="openai", name=str(number))
        row.seal("sk-proj-" + "".join(random.choices(string.ascii_letters + string.digits, k=60)))
        rows.append(row)
    return Tripwire(rows)


def _history(text: str) -> list[LLMMessage]:
    """New objects each time, as if read from the database."""
    size = BYTES // MESSAGES
    return [LLMMessage.user("".join([text[number * size : (number + 1) * size], " "])) for number in range(MESSAGES)]


def _look(wire: Tripwire, messages: list[LLMMessage]) -> None:
    wire.refuse(texts_of(messages, _TOOLS))


def _us(work: Callable[[], object]) -> float:
    before = time.process_time()
    work()
    return (time.process_time() - before) * 1e6


def main() -> int:
    random.seed(7)
    wire = _wire()
    words = ["".join(random.choices(string.ascii_lowercase, k=random.randint(1, 10))) for _ in range(800)]
    prose = " ".join(random.choices(words, k=8000))
    code = (ROOT / "llm_credentials/factory.py").read_text() + (ROOT / "llm_credentials/services.py").read_text()
    steady = {}
    for name, text in {"prose": prose, "program code": code}.items():
        first, same, again = [], [], []
        for _ in range(ROUNDS):
            messages = _history(text)
            wire._clean.clear()
            first.append(_us(partial(_look, wire, messages)))
            same.append(_us(partial(_look, wire, messages)))
            fresh = _history(text)
            again.append(_us(partial(_look, wire, fresh)))
        steady[name] = statistics.median(again)
        print(
            f"  {name:<14} seen for the first time {statistics.median(first):.0f} us, in the next turn "
            f"{statistics.median(again):.0f} us, in the next step {statistics.median(same):.0f} us"
        )
    print(f"  asked for: at most {LIMIT_US} us a call of a conversation that goes on")
    return int(max(steady.values()) > LIMIT_US)


if __name__ == "__main__":
    sys.exit(main())
