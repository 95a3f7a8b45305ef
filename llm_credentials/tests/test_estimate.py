from __future__ import annotations

from typing import Any

import pytest

from llm_credentials.ledger import estimate
from llm_credentials.providers import ImagePart, LLMMessage, TextPart, ToolCall, ToolDefinition, ToolResult


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("abc", 1), ("abcd", 2), ("äää", 2), ("\ud800", 1)])
def test_text_counts_a_token_for_three_bytes(text: str, tokens: int) -> None:
    assert estimate.text_tokens(text) == tokens


def test_prompt_counts_every_part_and_the_tools() -> None:
    messages = [
        LLMMessage.system("abc"),
        LLMMessage.user((TextPart(text="abc"), ImagePart(data=b"x", media_type="image/png"))),
        LLMMessage.assistant((ToolCall(id="1", name="abc", arguments={"a": "b"}),)),
        LLMMessage.tool(ToolResult(call_id="1", name="abc", content="abcdef", images=(ImagePart(url="https://x"),))),
    ]
    plain = estimate.prompt_tokens(messages)
    assert plain == 1 + 1 + 2 * estimate.IMAGE_TOKENS + (1 + 3) + 2 + 4 * estimate.MESSAGE_TOKENS
    tool = ToolDefinition(name="abc", description="def", parameters={"a": 1})
    assert estimate.prompt_tokens(messages, [tool]) == plain + 2 + 3


@pytest.mark.parametrize("arguments", [{"n": 10**5000}, {"s": "\ud800"}, {1: {2: float("nan")}}, {"o": object()}])
def test_prompt_counts_arguments_that_are_no_proper_json(arguments: Any) -> None:
    message = LLMMessage.assistant((ToolCall(id="1", name="abc", arguments=arguments),))
    assert estimate.prompt_tokens([message]) > 0
