"""Web search services: how to query each and read its results. A row here is a service; no other file names one."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import orjson

from llm_credentials.providers import transport
from llm_credentials.providers.egress import EgressPolicy
from llm_credentials.providers.errors import BadProviderResponse
from llm_credentials.providers.fetch import Fetched, FetchFailed, ask

MAX_BYTES: Final = 1024 * 1024
MAX_HITS: Final = 20
QUERY_MAX: Final = 400
"""Characters: the lowest limit of all services."""
TITLE_MAX: Final = 300
SNIPPET_MAX: Final = 1000
URL_MAX: Final = 2048
TIMEOUT_S: Final = 15.0

_MARKUP = re.compile(r"<[^<>]{0,200}>")
_BLANKS = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029]+")


class SearchFailed(Exception):
    """A search failed. The message is ours, for people and models; it quotes neither key nor response."""

    def __init__(self, text: str, *, is_refusal: bool = False) -> None:
        super().__init__(text)
        self.is_refusal = is_refusal
        """Whether the key was rejected."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """A result, in plain text written by strangers."""

    url: str
    title: str
    snippet: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A request to a service, relative to its address."""

    path: str
    query: Mapping[str, str | int] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSpec:
    slug: str
    label: str
    docs_url: str
    default_url: str
    """Empty: every user has their own address."""
    key_required: bool
    key_hint: str
    key_prefixes: tuple[str, ...] = ()
    call: Callable[[str, str, int], Call]
    """Takes (key, query, count)."""
    hits: Callable[[Any], list[Mapping[str, Any]]]
    """The results in a response's JSON; raises KeyError, TypeError or AttributeError for an unexpected shape."""
    snippet_key: str


def _searxng_call(key: str, query: str, count: int) -> Call:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return Call(path="/search", query={"q": query, "format": "json", "safesearch": 1}, headers=headers)


def _brave_call(key: str, query: str, count: int) -> Call:
    return Call(
        path="/res/v1/web/search",
        query={"q": query, "count": count, "text_decorations": "false"},
        headers={"x-subscription-token": key},
    )


def _tavily_call(key: str, query: str, count: int) -> Call:
    return Call(
        path="/search",
        headers={"authorization": f"Bearer {key}"},
        body={"query": query, "max_results": count, "search_depth": "basic"},
    )


_SPECS: Final = (
    SearchSpec(
        slug="searxng",
        label="SearXNG",
        docs_url="https://docs.searxng.org/dev/search_api.html",
        default_url="",
        key_required=False,
        key_hint="Only if your instance asks for a bearer token.",
        call=_searxng_call,
        hits=lambda answer: answer["results"],
        snippet_key="content",
    ),
    SearchSpec(
        slug="brave",
        label="Brave Search",
        docs_url="https://api-dashboard.search.brave.com/app/documentation",
        default_url="https://api.search.brave.com",
        key_required=True,
        key_hint="Begins with BSA.",
        key_prefixes=("BSA",),
        call=_brave_call,
        hits=lambda answer: answer.get("web", {}).get("results", []),
        snippet_key="description",
    ),
    SearchSpec(
        slug="tavily",
        label="Tavily",
        docs_url="https://docs.tavily.com/documentation/api-reference/endpoint/search",
        default_url="https://api.tavily.com",
        key_required=True,
        key_hint="Begins with tvly-.",
        key_prefixes=("tvly-",),
        call=_tavily_call,
        hits=lambda answer: answer["results"],
        snippet_key="content",
    ),
)
SEARCH_SPECS: Final[Mapping[str, SearchSpec]] = {spec.slug: spec for spec in _SPECS}


class WebSearch:
    """One service with its key; safe to share between tasks."""

    def __init__(self, spec: SearchSpec, *, key: str, base_url: str, egress: EgressPolicy) -> None:
        self.slug = spec.slug
        self.label = spec.label
        self._spec = spec
        self._key = key
        self._address = (base_url or spec.default_url).rstrip("/")
        self._egress = egress

    def __repr__(self) -> str:
        return f"<WebSearch {self.slug}>"

    async def search(self, query: str, *, count: int = 10) -> list[Hit]:
        """At most ``count`` results, best first. Raises SearchFailed, EgressBlocked."""
        call = self._spec.call(self._key, query[:QUERY_MAX], min(count, MAX_HITS))
        url = self._address + call.path + (f"?{urlencode(call.query)}" if call.query else "")
        headers = {"accept": "application/json", **call.headers}
        body = None
        if call.body is not None:
            body = orjson.dumps(call.body)
            headers["content-type"] = "application/json"
        try:
            answer = await ask(
                url, egress=self._egress, headers=headers, body=body, max_bytes=MAX_BYTES, timeout_s=TIMEOUT_S
            )
        except FetchFailed as failed:
            raise SearchFailed(f"{self.label}: {failed}") from None
        return self._read(answer)[:count]

    def _read(self, answer: Fetched) -> list[Hit]:
        if answer.status != 200:
            raise self._failure(answer.status)
        if answer.truncated:
            raise SearchFailed(f"{self.label}: the answer is too long.")
        try:
            rows = self._spec.hits(transport.load_json(answer.body))
            hits = [self._hit(row) for row in rows]
        except BadProviderResponse:
            page = " It answered with a web page." if answer.body.lstrip()[:1] == b"<" else ""
            raise SearchFailed(f"{self.label}: the answer is not JSON.{page} {self._advice()}".rstrip()) from None
        except (KeyError, TypeError, AttributeError):
            raise SearchFailed(f"{self.label}: the answer holds no results.") from None
        return [hit for hit in hits if hit is not None]

    def _hit(self, row: Mapping[str, Any]) -> Hit | None:
        url = row.get("url")
        if not isinstance(url, str) or not url.startswith(("https://", "http://")) or len(url) > URL_MAX:
            return None
        title = plain(row.get("title"), TITLE_MAX)
        return Hit(url=url, title=title or url, snippet=plain(row.get(self._spec.snippet_key), SNIPPET_MAX))

    def _failure(self, status: int) -> SearchFailed:
        if status in (401, 403) and self._spec.key_required:
            return SearchFailed(f"{self.label} refuses the key. Replace it on the search page.", is_refusal=True)
        if status == 403:
            return SearchFailed(f"{self.label} refuses to answer. {self._advice()}".rstrip())
        if status == 401:
            return SearchFailed(f"{self.label} asks for a token.", is_refusal=True)
        if status in (402, 432, 433):
            return SearchFailed(f"{self.label}: the plan's searches are used up.")
        if status == 429:
            return SearchFailed(f"{self.label}: too many searches just now. Try again later.")
        if status >= 500:
            return SearchFailed(f"{self.label} is out of order just now.")
        return SearchFailed(f"{self.label} answered {status}.")

    def _advice(self) -> str:
        if self._spec.default_url:
            return ""
        return "Let the instance answer in JSON: «json» among search.formats in its settings."


def site_search(address: str) -> WebSearch:
    """The operator's search service for everybody; its address needs no egress entry."""
    parts = urlsplit(address)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return WebSearch(SEARCH_SPECS["searxng"], key="", base_url=address, egress=EgressPolicy(allow=[f"{host}:{port}"]))


def plain(text: object, most: int) -> str:
    """A service's title or snippet without markup, on one line."""
    if not isinstance(text, str):
        return ""
    text = html.unescape(_MARKUP.sub("", text[: most * 4]))
    text = _BLANKS.sub(" ", text).strip().encode("utf-8", "replace").decode()
    return text if len(text) <= most else f"{text[: most - 1]}…"
