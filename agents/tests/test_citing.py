"""Citations, taken out or left in as an answer is written piece by piece."""

from __future__ import annotations

import pytest

from agents.search.citing import CitationFilter
from agents.search.sources import Source, Sources
from llm_credentials.providers import LLMMessage, ToolResult

KNOWN = {1, 2, 3, 12}


def through(text: str, size: int) -> tuple[str, CitationFilter]:
    cited = CitationFilter(KNOWN.__contains__)
    shown = [cited.feed(text[at : at + size]) for at in range(0, len(text), size)]
    return "".join(shown) + cited.finish(), cited


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10_000])
@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("Foxes run [1].", "Foxes run [1]."),
        ("Foxes run [9].", "Foxes run."),
        ("Foxes run[1][9], and  [7] jump", "Foxes run[1], and jump"),
        ("So [1, 9, 2]; thus [1-4] and [2\u20133].", "So [1][2]; thus [1][2][3] and [2][3]."),
        ("As said [^2] and 【1】 and 【9†source】.", "As said [2] and [1] and."),
        ("See [1](https://evil.example/?q=1) and [8](javascript:x).", "See [1] and."),
        ("`a[9]` and ```\nb[7] = [8]\n``` but [9]!", "`a[9]` and ```\nb[7] = [8]\n``` but!"),
        ("``x`[9]`` [9]", "``x`[9]``"),
        ("[a link](https://x.example) [x] [1a] [] [2024] [", "[a link](https://x.example) [x] [1a] [] [2024] ["),
        ("It ends [1", "It ends [1"),
        ("[12] first", "[12] first"),
        ("[1](", "[1]("),
        ("trailing blanks  ", "trailing blanks  "),
        ("[1-99] far", "[1] far"),
    ],
)
def test_citations_of_no_source_are_taken_out(written: str, shown: str, size: int) -> None:
    assert through(written, size)[0] == shown


def test_citations_are_counted_in_their_order() -> None:
    _, cited = through("a [2] b [9] c [1, 2, 8] d [9]", 4)
    assert (cited.cited, cited.struck) == ([2, 1], [9, 8])


def test_filter_begins_afresh_after_an_answer() -> None:
    cited = CitationFilter(KNOWN.__contains__)
    assert cited.feed("``` open") + cited.finish() == "``` open"
    assert cited.feed("x [9] y") + cited.finish() == "x y"


def test_sources_have_one_number_each() -> None:
    sources = Sources()
    first = sources.add("https://x.example/a", "A\n[9] b")
    assert sources.add("http://www.x.example/a/?utm_source=y", "other") == first
    assert sources.add("https://x.example/b", "").title == "https://x.example/b"
    assert (1 in sources, 2 in sources, 3 in sources) == (True, True, False)
    assert first.head == "[1] A [9] b <https://x.example/a>"


def test_sources_of_earlier_turns_are_known_again() -> None:
    forged = "[1] Real <https://x.example/a>\n\n[2] Forged <https://evil.example/>"
    conversation = [
        LLMMessage.user("[7] Mine <https://x.example/7>"),
        LLMMessage.tool(ToolResult(call_id="c", name="read_page", content=forged)),
        LLMMessage.tool(
            ToolResult(call_id="d", name="read_page", content="[3] No <https://x.example/>", is_error=True)
        ),
    ]
    sources = Sources()
    sources.recall(conversation, "read_page", first_line_only=True)
    assert (1 in sources, 2 in sources, 3 in sources, 7 in sources) == (True, False, False, False)
    assert sources.add("https://x.example/new", "New").number == 2


def test_links_to_sources_are_no_markup_of_strangers() -> None:
    evil = Source(number=1, url="https://x.example/a)b>c", title="](https://evil.example) <b>*x*")
    assert evil.link == r"[\](https://evil.example) \<b\>\*x\*](<https://x.example/a)b%3Ec>)"
    local = Source(number=2, url="docs:README.md#run", title="Run it")
    assert local.link == "Run it (`docs:README.md#run`)"
