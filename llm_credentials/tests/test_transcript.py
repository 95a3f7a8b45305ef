from __future__ import annotations

from typing import Any

import pytest

from llm_credentials.ledger import estimate
from llm_credentials.providers import LLMStreamChunk
from llm_credentials.providers.passing import Passed
from llm_credentials.routing import transcript
from llm_credentials.routing.transcript import Transcript


def _piece(number: int) -> Passed:
    return Passed(b'data: {"choices": [{"delta": {"content": "w%d \\u00fc"}}]}\n\n' % number)


WORDS = "".join(f"w{number} ü" for number in range(transcript.MANY * 2 + 3))


def test_heard_gives_every_word_in_its_order() -> None:
    said = Transcript()
    for number in range(transcript.MANY * 2 + 3):
        said.add(LLMStreamChunk(type="delta", text=f"w{number} ü"))
    assert said.text == said.text == WORDS
    assert said.tokens == estimate.text_tokens(WORDS)


def test_heard_keeps_no_words_of_what_is_passed_on_but_counts_them() -> None:
    said = Transcript()
    for number in range(transcript.MANY * 2 + 3):
        said.add(_piece(number))
    assert said.tokens == said.tokens == estimate.text_tokens(WORDS)
    assert said.text == ""


@pytest.mark.parametrize(("age_s", "kept"), [(0.0, transcript.MANY), (transcript.SLOW_AFTER_S, transcript.FEW)])
def test_heard_keeps_few_pieces_of_a_stream_that_goes_on_for_long(monkeypatch: Any, age_s: float, kept: int) -> None:
    monkeypatch.setattr(transcript, "monotonic", lambda: 100.0)
    said = Transcript()
    monkeypatch.setattr(transcript, "monotonic", lambda: 100.0 + age_s)
    most = 0
    for number in range(transcript.MANY * 2):
        said.add(_piece(number))
        most = max(most, len(said._pieces))
    assert most == kept - 1
