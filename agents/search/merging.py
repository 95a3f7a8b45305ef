"""Merges ranked lists: each page once, and pages that rank high in several lists come first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from llm_credentials.providers.search import Hit

K: Final = 60
"""Constant of reciprocal rank fusion: dampens the influence of rank; the value of the original paper."""
_TRACKERS: Final = frozenset(
    {"fbclid", "gclid", "gclsrc", "dclid", "msclkid", "yclid", "twclid", "igshid", "mc_cid", "mc_eid", "_ga", "_gl"}
    | {"ref_src", "ref_url", "spm", "cmpid", "srsltid", "wt_mc", "mkt_tok", "oly_enc_id", "vero_id", "si"}
)
_INDEXES: Final = ("/index.html", "/index.htm", "/index.php", "/default.aspx")
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    url: str
    title: str
    snippet: str
    score: float
    services: tuple[str, ...]
    """Labels of the services that found it."""
    queries: tuple[str, ...]
    """Queries that found it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranking:
    """One service's answer to one query, best first."""

    service: str
    query: str
    hits: Sequence[Hit]


@dataclass
class _Merged:
    first: Hit
    first_rank: int
    score: float = 0.0
    services: dict[str, None] = field(default_factory=dict)
    queries: dict[str, None] = field(default_factory=dict)
    snippet: str = ""


def merged(rankings: Iterable[Ranking], *, count: int) -> list[Result]:
    """The best ``count`` by reciprocal rank fusion; ties go to the one seen first."""
    found: dict[str, _Merged] = {}
    for ranking in rankings:
        seen: set[str] = set()
        for rank, hit in enumerate(ranking.hits, 1):
            place = canonical(hit.url)
            if place in seen:
                continue  # count duplicates within a list once
            seen.add(place)
            page = found.setdefault(place, _Merged(first=hit, first_rank=rank))
            page.score += 1 / (K + rank)
            page.services[ranking.service] = page.queries[ranking.query] = None
            if rank < page.first_rank:
                page.first, page.first_rank = hit, rank
            if len(hit.snippet) > len(page.snippet):
                page.snippet = hit.snippet
    best = sorted(found.values(), key=lambda page: -page.score)[:count]
    return [
        Result(
            url=without_trackers(page.first.url),
            title=page.first.title,
            snippet=page.snippet,
            score=page.score,
            services=tuple(page.services),
            queries=tuple(page.queries),
        )
        for page in best
    ]


def canonical(url: str) -> str:
    """A normalised address for comparing pages, not for requests."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        return url
    if parts.scheme not in _PORTS or not parts.hostname:
        return url.strip()
    host = parts.hostname.rstrip(".").removeprefix("www.")
    if port is not None and port != _PORTS[parts.scheme]:
        host = f"{host}:{port}"
    path = quote(unquote(parts.path), safe="/~:@!$&'()*+,;=-._")
    for index in _INDEXES:
        if path.lower().endswith(index):
            path = path[: -len(index)]
    query = urlencode(sorted(_kept(parts.query)))
    return f"{host}{path.rstrip('/')}{'?' if query else ''}{query}"


def without_trackers(url: str) -> str:
    """The address without tracking parameters."""
    head, mark, fragment = url.partition("#")
    address, _, query = head.partition("?")
    if not query:
        return url
    kept = "&".join(pair for pair in query.split("&") if not _is_tracker(pair.partition("=")[0]))
    return f"{address}{'?' if kept else ''}{kept}{mark}{fragment}"


def _kept(query: str) -> list[tuple[str, str]]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=100)
    except ValueError:
        return [(query, "")]
    return [(name, value) for name, value in pairs if not _is_tracker(name)]


def _is_tracker(name: str) -> bool:
    return name.lower().startswith("utm_") or name.lower() in _TRACKERS
