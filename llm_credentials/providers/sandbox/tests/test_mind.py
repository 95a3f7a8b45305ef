import json

import pytest

from llm_credentials.providers.sandbox.asks import Ask, Reply, Tool, ToolResult
from llm_credentials.providers.sandbox.mind import answer, pieces_of

TOOLS = [
    Tool("get_weather", "Weather", {"type": "object", "properties": {"city": {"type": "string"}}}),
    Tool("calculate", "", {"type": "object", "properties": {"expression": {"type": "string"}}}),
    Tool("fetch_page", "", {"type": "object", "properties": {"url": {"type": "string"}}}),
]


def reply_to(*turns: str, **values: object) -> Reply:
    return answer(Ask("sandbox-chat", turns=list(turns), **values), lambda: "call_1")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("What is 17 * 23?", "Sandbox: 17 * 23 = 391."),
        ("please tell me 12 plus 30", "Sandbox: 12 + 30 = 42."),
        ("count to 5", "Sandbox: 1 2 3 4 5"),
        ("Reply with the single word: pong", "Sandbox: pong"),
        ("say <b>hi</b>", "Sandbox: <b>hi</b>"),
        ("what did I say?", "Sandbox: this is the first thing that you wrote."),
    ],
)
def test_mind_answers_what_it_can(said: str, expected: str) -> None:
    assert reply_to(said).text == expected


def test_mind_quotes_what_it_cannot_answer() -> None:
    text = reply_to("Why is the sky blue?").text
    assert text.endswith("You asked: Why is the sky blue?") and "no real model" in text


def test_mind_gives_the_same_answer_to_the_same_words() -> None:
    assert reply_to("Tell me a story").text == reply_to("Tell me a story").text


@pytest.mark.parametrize("number", [1, 2, 300, 5_000])
def test_mind_writes_as_many_words_as_asked(number: int) -> None:
    assert len(reply_to(f"write {number} words").text.split()) == number


def test_mind_knows_earlier_words_and_instructions() -> None:
    assert reply_to("My cat is Tom", "What did I say?").text.endswith("you wrote: My cat is Tom")
    assert reply_to("What are your instructions?", system="Be kind.").text.endswith("Be kind.")


@pytest.mark.parametrize(
    ("said", "calls"),
    [
        ('use get_weather with {"city": "Oslo"}', [("get_weather", {"city": "Oslo"})]),
        ("use get_weather\nuse calculate", [("get_weather", None), ("calculate", None)]),
        ("call get_weather and fetch_page", [("get_weather", None), ("fetch_page", None)]),
        ("get_weather for Paris please", [("get_weather", {"city": "Paris"})]),
        ("calculate 17*23", [("calculate", {"expression": "17*23"})]),
        ("fetch_page https://example.org/a?b=1 now", [("fetch_page", {"url": "https://example.org/a?b=1"})]),
        ('use get_weather with {"city": broken', [("get_weather", None)]),
        ("What is the weather?", []),
        ("use no_such_tool", []),
    ],
)
def test_mind_calls_the_tools_that_are_named(said: str, calls: list[tuple[str, dict[str, str] | None]]) -> None:
    made = [(call.name, json.loads(call.arguments)) for call in reply_to(said, tools=TOOLS).calls]
    assert [name for name, _ in made] == [name for name, _ in calls]
    for (_, arguments), (_, expected) in zip(made, calls, strict=True):
        assert expected is None or arguments == expected


def test_mind_tells_tool_results_and_failures() -> None:
    results = [ToolResult("look", "rain"), ToolResult("listen", "too loud", is_error=True)]
    text = reply_to("call look and listen", tools=TOOLS, results=results).text
    assert text == "Sandbox: look answered: rain\n\nSandbox: listen failed: too loud"


def test_mind_gives_up_a_call_that_does_not_fit_the_limit() -> None:
    reply = reply_to("get_weather for Paris", tools=TOOLS, max_tokens=3)
    assert (reply.calls, reply.finish) == ([], "length")


@pytest.mark.parametrize("text", ["", " ", "one", " two  words\n\n- and\tmore \n"])
def test_mind_pieces_join_to_the_text(text: str) -> None:
    assert "".join(pieces_of(text)) == text


def test_mind_is_quick_with_a_megabyte() -> None:
    assert reply_to("1 + " * 250_000, tools=TOOLS).text.startswith("Sandbox: ")
