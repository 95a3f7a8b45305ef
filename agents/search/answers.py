"""Agents whose answers cite sources: citations without a source are removed while the model writes, and the list of
sources is appended.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from pydantic import BaseModel

from agents.concluding import ConcludingAgent, set_off
from agents.endings import with_texts
from agents.events import Done, Event, StepReceipt, Stopped, Text
from agents.search.citing import CitationFilter
from agents.search.sources import Sources


class CitedAnswer(BaseModel):
    """What every such agent's output holds; each adds its own."""

    answer: str
    """As the model wrote it, with citations checked."""
    struck: list[int] = []
    """Citation numbers without a source, which were removed."""


class CitingAgent(ConcludingAgent):
    """Subclasses add to ``sources`` through their tools, and define what is appended to an answer."""

    _sources: Sources
    """Sources of this turn, created by ``begin``."""

    def report(self, answer: str, cited: CitationFilter) -> CitedAnswer:
        """The output of a turn."""
        raise NotImplementedError

    async def passed_on(self, events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
        cited = CitationFilter(self._sources.__contains__)
        texts: list[list[str]] = [[]]

        def shown(text: str) -> list[Text]:
            texts[-1].append(text)
            return [Text(text=text)] if text else []

        async with aclosing(events):
            async for event in events:
                match event:
                    case Text():
                        for piece in shown(cited.feed(event.text)):
                            yield piece
                    case StepReceipt():
                        for piece in shown(cited.finish()):
                            yield piece
                        texts.append([])
                        yield event
                    case Done() | Stopped():
                        for piece in shown(cited.finish()):
                            yield piece
                        whole, below, output = self._ending(["".join(text) for text in texts], cited)
                        if below:
                            yield Text(text=below)
                        messages = with_texts(event.messages, whole, below)
                        ended: Done | Stopped
                        if isinstance(event, Done):
                            ended = replace(event, messages=messages, output=output)
                        else:
                            ended = replace(event, messages=messages)
                        yield ended
                    case _:
                        yield event

    def _ending(self, texts: list[str], cited: CitationFilter) -> tuple[list[str], str, CitedAnswer]:
        """(the text of each step, what is appended, the output)"""
        answer = "\n\n".join(text.strip() for text in texts if text.strip())
        output = self.report(answer, cited)
        return texts, set_off(self.below(output), answer), output
