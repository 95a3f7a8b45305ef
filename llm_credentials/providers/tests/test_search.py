"""Search services, spoken to by a local server that answers as they do, or worse."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from llm_credentials.providers import EgressBlocked, EgressPolicy
from llm_credentials.providers.fetch import FetchFailed, ask
from llm_credentials.providers.search import MAX_HITS, SEARCH_SPECS, SearchFailed, WebSearch
from llm_credentials.providers.tests.test_fetch import Site, moved, page, serving

JSON = b"content-type: application/json"
KEY = "tvly-0123456789abcdefghij"
RESULTS: dict[str, Callable[[list[dict[str, str]]], Any]] = {
    "searxng": lambda rows: {"query": "q", "results": rows},
    "brave": lambda rows: {"type": "search", "web": {"results": rows}},
    "tavily": lambda rows: {"results": rows, "response_time": 1.2},
}


def answer(slug: str, rows: list[dict[str, Any]]) -> bytes:
    return page(json.dumps(RESULTS[slug](rows)).encode(), JSON)


def service(slug: str, site: Site) -> WebSearch:
    return WebSearch(SEARCH_SPECS[slug], key=KEY, base_url=f"{site.url}/", egress=site.policy)


@pytest.mark.parametrize("slug", SEARCH_SPECS)
async def test_search_reads_each_service(slug: str) -> None:
    words = {SEARCH_SPECS[slug].snippet_key: "A <strong>fast</strong>\n brown &amp; lazy\u2028fox"}
    rows = [{"url": "https://a.example/x", "title": "The <b>fox</b>", **words}, {"url": "https://b.example/"}]
    async with serving(lambda path: answer(slug, rows)) as site:
        hits = await service(slug, site).search("fox & dog", count=5)
    assert [(hit.url, hit.title, hit.snippet) for hit in hits] == [
        ("https://a.example/x", "The fox", "A fast brown & lazy fox"),
        ("https://b.example/", "https://b.example/", ""),
    ]
    (head,) = site.heads
    assert b"fox+%26+dog" in head or head.startswith(b"POST")
    assert KEY.encode() not in head.split(b"\r\n")[0], "no key in an address"
    assert KEY.encode() in head


async def test_search_posts_where_the_service_wants_it() -> None:
    async with serving(lambda path: answer("tavily", [])) as site:
        await service("tavily", site).search("x" * 3000, count=99)
    (head,) = site.heads
    assert head.startswith(b"POST /search HTTP/1.1")
    length = re.search(rb"content-length: (\d+)", head.lower())
    assert length is not None
    assert int(length[1]) == len(json.dumps({"query": "x" * 400, "max_results": MAX_HITS, "search_depth": "basic"})) - 5


@pytest.mark.parametrize(
    ("slug", "status", "words"),
    [
        *(("tavily", 401, "refuses the key"), ("brave", 403, "refuses the key"), ("tavily", 432, "used up")),
        *(("searxng", 403, "search.formats"), ("searxng", 401, "asks for a token"), ("brave", 429, "Try again later")),
        *(("searxng", 500, "out of order"), ("brave", 422, "answered 422")),
    ],
)
async def test_search_says_what_a_refusal_means(slug: str, status: int, words: str) -> None:
    refusal = page(b'{"detail": "no: %s"}' % KEY.encode(), JSON, status=b"%d x" % status)
    async with serving(lambda path: refusal) as site:
        with pytest.raises(SearchFailed) as caught:
            await service(slug, site).search("fox")
    assert words in str(caught.value)
    assert KEY not in str(caught.value)
    assert caught.value.is_refusal == ("key" in words or "token" in words)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (page(b"<!doctype html><p>Hello", b"content-type: text/html"), "It answered with a web page. Let the instance"),
        (page(b"", JSON), "not JSON"),
        (page(b'{"results": [', JSON), "not JSON"),
        (page(b'{"answers": []}', JSON), "no results"),
        (page(b"[]", JSON), "no results"),
        (page(b'{"results": ["x"]}', JSON), "no results"),
        (page(b'{"results": 7}', JSON), "no results"),
        (page(b'{"x": "' + b"y" * 1_100_000 + b'"}', JSON), "too long"),
        (page(gzip.compress(b" " * 30_000_000), JSON, b"content-encoding: gzip"), "too long"),
        (page(b"not gzip", JSON, b"content-encoding: gzip"), "could not be understood"),
        (moved(b"https://elsewhere.example/search"), "Enter the address where it answers itself"),
        (moved(b"http://169.254.169.254/"), "Enter the address where it answers itself"),
        (b"SSH-2.0-OpenSSH\r\n", "could not be understood"),
    ],
    ids=[
        *("html", "empty", "cut", "other shape", "list", "strings", "number", "endless", "bomb", "broken gzip"),
        *("redirect", "metadata", "no http"),
    ],
)
async def test_search_that_answers_nonsense_is_told_in_words(body: bytes, words: str) -> None:
    async with serving(lambda path: body) as site:
        with pytest.raises(SearchFailed) as caught:
            await service("searxng", site).search("fox")
    assert words in str(caught.value)
    assert len(site.heads) == 1, "no redirect is followed with a key"


async def test_search_leaves_out_what_is_no_page() -> None:
    rows: list[dict[str, Any]] = [
        {"url": "javascript:alert(1)", "title": "x"},
        {"url": "https://a.example/" + "x" * 3000, "title": "x"},
        {"url": None, "title": "x"},
        {"url": "https://a.example/", "title": 7, "content": ["x"]},
    ]
    async with serving(lambda path: answer("searxng", rows)) as site:
        hits = await service("searxng", site).search("fox")
    assert [(hit.url, hit.title, hit.snippet) for hit in hits] == [("https://a.example/", "https://a.example/", "")]


async def test_search_goes_nowhere_that_the_policy_does_not_open() -> None:
    for address in (
        "http://127.0.0.1:1",
        "https://169.254.169.254",
        "https://metadata.google.internal",
        "http://x.example",
    ):
        with pytest.raises(EgressBlocked):
            await WebSearch(SEARCH_SPECS["searxng"], key="", base_url=address, egress=EgressPolicy()).search("fox")


async def test_search_that_is_down_is_told_in_words() -> None:
    policy = EgressPolicy(allow=["127.0.0.1:1"])
    search = WebSearch(SEARCH_SPECS["searxng"], key="", base_url="http://127.0.0.1:1", egress=policy)
    with pytest.raises(SearchFailed, match="SearXNG: No connection to the service"):
        await search.search("fox")
    assert KEY not in repr(search)


async def test_ask_ends_in_time() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n"
    async with serving(lambda path: head, stay=True) as site:
        with pytest.raises(FetchFailed, match="did not answer in time"):
            await ask(site.url, egress=site.policy, headers={}, timeout_s=0.05)
