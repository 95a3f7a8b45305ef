"""Searches the web with several queries at once, and returns one ranked list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Field

from agents.loop import Limits
from agents.search.answers import CitedAnswer, CitingAgent
from agents.search.citing import CitationFilter
from agents.search.session import STRANGERS, SearchSession
from agents.search.sources import Source, Sources
from agents.texts import markdown_escaped
from agents.tools import Tool, tool
from llm_credentials.providers import LLMMessage

Queries = Annotated[list[str], Field(min_length=1, max_length=5, description="Two to four that complement each other.")]


class SearchResult(BaseModel):
    number: int
    url: str
    title: str
    snippet: str
    services: list[str]
    queries: list[str]
    cited: bool


class SearchAnswer(CitedAnswer):
    queries: list[str]
    """The rewritten queries."""
    results: list[SearchResult]
    """The best of each search first."""
    notices: list[str]


class SearchEngineAgent(CitingAgent):
    slug = "search_engine"
    title = "Search engine"
    description = (
        "Say what you are looking for. It searches with several queries at once, merges what several services find, "
        "and shows one ranked list with a word on what is in it."
    )
    icon = "search"
    examples = (
        "What do I need to add an agent to this site?",
        "Which open source vector databases can filter by metadata and run on one small server?",
        "Official guidance on taking lithium batteries on a plane, from this year",
    )
    weight = "normal"
    temperature = 0.2
    max_tokens = 1500
    limits = Limits(max_steps=5, max_tokens=80_000, max_seconds=120.0)
    position = 30

    def begin(self, conversation: Sequence[LLMMessage]) -> None:
        self._search = SearchSession(self.user)
        self._found: dict[int, SearchResult] = {}
        self._sources = Sources()
        self._sources.recall(conversation, "search", first_line_only=False)

    def tools_for(self) -> Sequence[Tool]:
        session, sources, found = self._search, self._sources, self._found

        @tool(access="network")
        async def search(queries: Queries) -> str:
            """Search with several queries at once; gives one numbered list, the best first, each page once."""
            results = await session.search(queries)
            if not results:
                return "Nothing was found. Try other words."
            lines = [STRANGERS]
            for result in results:
                source = sources.add(result.url, result.title, result.snippet)
                found[source.number] = SearchResult(
                    number=source.number,
                    url=source.url,
                    title=source.title,
                    snippet=source.snippet,
                    services=list(result.services),
                    queries=list(result.queries),
                    cited=False,
                )
                lines += [source.head, f"    {source.snippet}"]
            return "\n".join([*lines, *session.notices])

        return [search]

    def report(self, answer: str, cited: CitationFilter) -> SearchAnswer:
        results = [each.model_copy(update={"cited": each.number in cited.cited}) for each in self._found.values()]
        return SearchAnswer(
            answer=answer,
            struck=cited.struck,
            queries=self._search.queries,
            results=sorted(results, key=lambda result: result.number),
            notices=self._search.notices,
        )

    def below(self, output: Any) -> str:
        pieces = [f"*{markdown_escaped(notice)}*" for notice in output.notices]
        lines = []
        for result in output.results:
            link = Source(number=result.number, url=result.url, title=result.title).link
            lines.append(f"- \\[{result.number}\\] {link}  \n  {markdown_escaped(result.snippet)}".rstrip())
        return "\n\n".join([*pieces, "\n".join(lines)] if lines else pieces)
