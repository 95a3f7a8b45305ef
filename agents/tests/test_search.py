"""Merging what services found, and the index that needs none."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from agents.search import canonical, merged, search_all
from agents.search.local import Document, LocalIndex, documentation
from agents.search.merging import Ranking, without_trackers
from agents.search.searching import MAX_QUERIES
from llm_credentials.providers import EgressBlocked
from llm_credentials.providers.search import Hit, SearchFailed


def hit(url: str, snippet: str = "") -> Hit:
    return Hit(url=url, title=url.rpartition("/")[2], snippet=snippet)


class Fixed:
    """Answers each query with the same hits, or fails."""

    def __init__(self, label: str, *urls: str, fault: Exception | None = None) -> None:
        self.label = label
        self.hits = [hit(url) for url in urls]
        self.fault = fault
        self.asked: list[str] = []

    async def search(self, query: str, *, count: int = 10) -> list[Hit]:
        self.asked.append(query)
        if self.fault:
            raise self.fault
        return self.hits[:count]


@pytest.mark.parametrize(
    "same",
    [
        (
            "https://example.com/a",
            "http://www.example.com/a/",
            "HTTPS://EXAMPLE.com:443/a#part",
            "https://example.com./a",
        ),
        ("https://example.com/a?b=1&c=2", "https://example.com/a?c=2&b=1&utm_source=x&gclid=y"),
        (
            "https://example.com",
            "https://example.com/",
            "https://example.com/index.html",
            "https://example.com/?fbclid=1",
        ),
        ("https://example.com/caf%C3%A9", "https://example.com/café", "https://example.com/caf%c3%a9"),
        ("docs:README.md#run", " docs:README.md#run"),
    ],
)
def test_addresses_of_one_page_are_one(same: Sequence[str]) -> None:
    assert len({canonical(url) for url in same}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://example.com/a", "https://example.com/A"),
        ("https://example.com/a?id=1", "https://example.com/a?id=2"),
        ("https://example.com/a", "https://example.com:8443/a"),
        ("https://example.com/a", "https://docs.example.com/a"),
        ("https://[::1/", "https://example.com/"),
    ],
)
def test_addresses_of_different_pages_stay_apart(one: str, other: str) -> None:
    assert canonical(one) != canonical(other)


def test_trackers_are_cut_off_an_address_and_nothing_else() -> None:
    assert without_trackers("https://x.example/a?utm_source=b&id=%20C&gclid=1#f") == "https://x.example/a?id=%20C#f"
    assert without_trackers("https://x.example/a?utm_source=b") == "https://x.example/a"
    assert without_trackers("https://x.example/a#f?utm_source=b") == "https://x.example/a#f?utm_source=b"


def test_merging_puts_first_what_several_lists_hold_high() -> None:
    lists = [
        Ranking(service="A", query="q", hits=[hit("https://x.example/1"), hit("https://x.example/2", "short")]),
        Ranking(service="B", query="q", hits=[hit("https://x.example/3"), hit("http://x.example/2/", "much longer")]),
        Ranking(service="A", query="r", hits=[hit("https://x.example/2?utm_id=9"), hit("https://www.x.example/2")]),
    ]
    results = merged(lists, count=10)
    assert [result.url for result in results] == [f"https://x.example/{number}" for number in (2, 1, 3)]
    best = results[0]
    assert (best.snippet, best.services, best.queries) == ("much longer", ("A", "B"), ("q", "r"))
    assert best.score == pytest.approx(1 / 62 + 1 / 62 + 1 / 61), "twice in one list counts once"
    assert len(merged(lists, count=2)) == 2
    assert merged([], count=5) == []


async def test_search_asks_all_at_once_and_each_question_once() -> None:
    both = asyncio.Barrier(4)

    class Meeting(Fixed):
        async def search(self, query: str, *, count: int = 10) -> list[Hit]:
            await both.wait()
            return await super().search(query, count=count)

    searchers = [Meeting("A", "https://x.example/1"), Meeting("B", "https://x.example/1")]
    async with asyncio.timeout(5):
        found = await search_all(searchers, ["fox", " fox ", "", "dog"])
    assert [sorted(searcher.asked) for searcher in searchers] == [["dog", "fox"]] * 2
    assert (len(found.results), found.results[0].services, found.faults) == (1, ("A", "B"), ())


async def test_search_goes_on_without_what_is_down() -> None:
    down = Fixed("B", fault=SearchFailed("B is out of order just now."))
    closed = Fixed("C", fault=EgressBlocked("private"))
    found = await search_all([Fixed("A", "https://x.example/1"), down, closed], ["fox", "dog"])
    assert [result.url for result in found.results] == ["https://x.example/1"]
    assert found.faults == (
        "B is out of order just now.",
        "C: its address is not allowed on this site. Ask the operator to allow it for tools.",
    )


async def test_search_asks_no_more_than_it_may() -> None:
    searcher = Fixed("A")
    await search_all([searcher], [f"query {number}" for number in range(50)])
    assert len(searcher.asked) == MAX_QUERIES
    assert (await search_all([searcher], [])).results == []


async def test_documentation_is_found_by_words() -> None:
    hits = await documentation().search("How do I add an agent?")
    assert hits[0].url.startswith("docs:")
    assert "agent" in hits[0].title.lower()
    assert hits[0].snippet
    assert documentation().read(hits[0].url) is not None


@pytest.mark.parametrize(
    "query", ["", '"', "fox OR", "a NEAR(b", "* ^ - : ( )", "\0", "'; DROP TABLE sections; --", "the"]
)
async def test_index_takes_any_words(query: str) -> None:
    index = LocalIndex([Document("docs:a", "Foxes", "The quick brown fox."), Document("docs:b", "Dogs", "A lazy dog.")])
    await index.search(query)
    assert [found.url for found in await index.search("fox")] == ["docs:a"]
    assert [found.url for found in await index.search("the foxes", count=1)] == ["docs:a"]
    assert index.read("docs:nowhere") is None
