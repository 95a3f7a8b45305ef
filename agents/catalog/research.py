"""Answers a question with numbered sources that were really read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Field

from agents.loop import Limits
from agents.progress import say
from agents.search.answers import CitedAnswer, CitingAgent
from agents.search.citing import CitationFilter
from agents.search.session import STRANGERS, SearchSession
from agents.search.sources import Source, Sources
from agents.texts import markdown_escaped
from agents.tools import Tool, tool
from agents.web.session import ReadingSession
from llm_credentials.providers import LLMMessage

Questions = Annotated[list[str], Field(min_length=1, max_length=8)]
Queries = Annotated[list[str], Field(min_length=1, max_length=5)]
Url = Annotated[str, Field(min_length=5, max_length=2048)]
Part = Annotated[int, Field(ge=1, le=50, description="Of a long page: 1 is its beginning.")]


class ReadSource(BaseModel):
    number: int
    url: str
    title: str
    cited: bool


class ResearchAnswer(CitedAnswer):
    questions: list[str]
    """The smaller questions that it was split into."""
    queries: list[str]
    sources: list[ReadSource]
    """Every page read in this turn, or read earlier and cited now."""
    not_read: dict[str, str]
    """Address → why."""
    notices: list[str]


class ResearchAgent(CitingAgent):
    slug = "research"
    title = "Research"
    description = (
        "Ask something that takes more than one page to answer. It plans, searches, reads and compares, and answers "
        "with numbered sources that it has really read."
    )
    icon = "research"
    examples = (
        "How does this site keep one user's keys apart from another's?",
        "What do recent studies say about intermittent fasting and sleep, and how good are they?",
        "Compare SQLite and PostgreSQL for a small web shop: backups, full-text search, running costs.",
    )
    weight = "heavy"
    temperature = 0.2
    max_tokens = 6000
    limits = Limits(max_steps=16, max_tokens=400_000, max_seconds=420.0)
    position = 20

    def begin(self, conversation: Sequence[LLMMessage]) -> None:
        self._sources = Sources()
        self._sources.recall(conversation, "read_page", first_line_only=True)
        self._recalled = len(self._sources)
        self._search = SearchSession(self.user)
        self._reading = ReadingSession(self._sources)
        self._reading.allow_what_was_said(conversation)
        self._questions: list[str] = []

    def tools_for(self) -> Sequence[Tool]:
        session, reading, questions = self._search, self._reading, self._questions

        @tool
        async def plan(questions_to_answer: Questions) -> str:
            """Note the smaller questions whose answers together answer what the user asks. Call it first."""
            questions[:] = [" ".join(question.split())[:300] for question in questions_to_answer]
            for number, question in enumerate(questions, 1):
                say(f"{number}. {question}")
            return "Noted. Search for them now."

        @tool(access="network")
        async def search(queries: Queries) -> str:
            """Search the web with several queries at once; gives titles, addresses and snippets, the best first."""
            results = await session.search(queries)
            reading.allow(result.url for result in results)
            if not results:
                return "Nothing was found. Try other words."
            lines = [f"- {result.title} <{result.url}>\n    {result.snippet}" for result in results]
            return "\n".join([STRANGERS, *lines, *session.notices])

        @tool(access="network")
        async def read_page(url: Url, part: Part = 1) -> str:
            """Read a page, or a part of a long one; gives its text under the number by which it is cited."""
            return await reading.read(url, part)

        return [plan, search, read_page]

    def report(self, answer: str, cited: CitationFilter) -> ResearchAnswer:
        read = [
            ReadSource(number=source.number, url=source.url, title=source.title, cited=source.number in cited.cited)
            for source in self._sources.all()
            if source.number > self._recalled or source.number in cited.cited
        ]
        return ResearchAnswer(
            answer=answer,
            struck=cited.struck,
            questions=self._questions,
            queries=self._search.queries,
            sources=read,
            not_read=self._reading.refused,
            notices=self._search.notices,
        )

    def below(self, output: Any) -> str:
        pieces = [f"*{markdown_escaped(notice)}*" for notice in output.notices]
        if output.struck:
            numbers = ", ".join(str(number) for number in output.struck)
            pieces.append(f"*Taken out, because no page with this number was read: {numbers}.*")
        for title, sources in (
            ("Sources", [source for source in output.sources if source.cited]),
            ("Also read", [source for source in output.sources if not source.cited]),
        ):
            lines = [
                f"- \\[{source.number}\\] {Source(number=source.number, url=source.url, title=source.title).link}"
                for source in sources
            ]
            if lines:
                pieces.append("\n".join([f"**{title}**\n", *lines]))
        return "\n\n".join(pieces)
