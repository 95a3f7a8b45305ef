"""Agents whose answers cite: while the model writes, numbers without a source are taken out; at the end stands what
they stood for.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, cast

from pydantic import BaseModel

from agents.base import Agent
from agents.endings import with_texts
from agents.events import Done, Event, Spent, StepReceipt, Stopped, Text
from agents.loop import ChatClient, Guard
from agents.search.citing import CitationFilter
from agents.search.sources import Sources
from llm_credentials.providers import LLMMessage


class CitedAnswer(BaseModel):
    """What every such agent's output holds; each adds its own."""

    answer: str
    """As the model wrote it, with checked numbers."""
    struck: list[int] = []
    """Numbers that stood for nothing, and were taken out."""


class CitingAgent(Agent):
    """Subclasses make ``sources`` grow by their tools, and say what stands below an answer."""

    def begin(self, conversation: Sequence[LLMMessage]) -> Sources:
        """Called before each turn, and before ``tools_for``."""
        raise NotImplementedError

    def report(self, answer: str, cited: CitationFilter) -> CitedAnswer:
        """The output of a turn."""
        raise NotImplementedError

    def below(self, output: Any) -> str:
        """What is put below the answer, as Markdown, for readers without the agent's own page part."""
        raise NotImplementedError

    def shown(self, output: BaseModel) -> str:
        answer = cast("CitedAnswer", output)
        return "\n\n".join(part for part in (answer.answer, self.below(answer)) if part)

    def _loop(
        self,
        client: ChatClient,
        conversation: Sequence[LLMMessage],
        guard: Guard | None,
        approvals: Mapping[str, bool | None] | None,
        spent: Spent,
    ) -> AsyncGenerator[Event, None]:
        sources = self.begin(conversation)
        return self._checked(super()._loop(client, conversation, guard, approvals, spent), sources)

    async def _checked(self, events: AsyncGenerator[Event, None], sources: Sources) -> AsyncGenerator[Event, None]:
        cited = CitationFilter(sources.__contains__)
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
        """(the text of each step, what stands below, the output)."""
        answer = "\n\n".join(text.strip() for text in texts if text.strip())
        output = self.report(answer, cited)
        below = self.below(output)
        return texts, f"\n\n{below}" if below and answer else below, output
