"""Sends all queries to all services at once; failures are reported, and the remaining results are used."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from agents.search.merging import Ranking, Result, merged
from llm_credentials.providers import EgressBlocked
from llm_credentials.providers.search import QUERY_MAX, Hit, SearchFailed

MAX_QUERIES: Final = 5
HITS_EACH: Final = 10


class Searcher(Protocol):
    """A search service; the whole interface of a back end."""

    @property
    def label(self) -> str: ...

    async def search(self, query: str, *, count: int = HITS_EACH) -> list[Hit]:
        """Best first. Raises SearchFailed, EgressBlocked."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    results: Sequence[Result]
    faults: Sequence[str]
    """Error messages; empty if all services answered."""


async def search_all(searchers: Sequence[Searcher], queries: Sequence[str], *, count: int = HITS_EACH) -> Found:
    """Sends the first ``MAX_QUERIES`` distinct queries, each once. Never raises: ``faults`` has the errors."""
    asked = list(dict.fromkeys(" ".join(query.split())[:QUERY_MAX] for query in queries if query.strip()))[:MAX_QUERIES]
    pairs = [(searcher, query) for query in asked for searcher in searchers]
    answers = await asyncio.gather(*(_hits(searcher, query) for searcher, query in pairs))
    rankings = [
        Ranking(service=searcher.label, query=query, hits=hits)
        for (searcher, query), (hits, _) in zip(pairs, answers, strict=True)
    ]
    faults = dict.fromkeys(fault for _, fault in answers if fault)
    return Found(results=merged(rankings, count=count), faults=tuple(faults))


async def _hits(searcher: Searcher, query: str) -> tuple[list[Hit], str]:
    try:
        return await searcher.search(query, count=HITS_EACH), ""
    except SearchFailed as failed:
        return [], str(failed)
    except EgressBlocked:
        return [], f"{searcher.label}: its address is not allowed on this site. Ask the operator to allow it for tools."
