"""Base class of agents that append something of their own to the model's answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from agents.base import Agent
from agents.endings import with_texts
from agents.events import Done, Event, Text
from agents.loop import joined_text


class ConcludingAgent(Agent):
    """Subclasses compute the output from an answer; their outputs keep the text as ``answer``."""

    async def concluded(self, answer: str) -> Any:
        """The output of a turn, a ``BaseModel``."""
        raise NotImplementedError

    def below(self, output: Any) -> str:
        """Markdown appended to the answer, for readers without the agent's own template."""
        raise NotImplementedError

    def shown(self, output: Any) -> str:
        return "\n\n".join(part for part in (output.answer, self.below(output)) if part)

    async def passed_on(self, events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
        async with aclosing(events):
            async for event in events:
                if not isinstance(event, Done):
                    yield event
                    continue
                output = await self.concluded(joined_text(event.messages))
                below = set_off(self.below(output), output.answer)
                if below:
                    yield Text(text=below)
                yield replace(event, messages=with_texts(event.messages, (), below), output=output)


def set_off(below: str, answer: str) -> str:
    """Put an empty line between the two if the answer is not empty."""
    return f"\n\n{below}" if below and answer else below
