"""What an agent is: instructions, tools and limits around a client from the factory.

Use it as ``result = await ConversationAgent(user).run("…")``, or event by event with ``agent.stream("…")``; the next
turn takes ``history=result.messages``.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

from agents import context
from agents.loop import (
    ChatClient,
    Done,
    Event,
    Guard,
    Guarded,
    Limits,
    StepReceipt,
    Stopped,
    StopReason,
    joined_text,
    run_loop,
)
from agents.tools import Tool
from llm_credentials.providers import ContextLengthExceeded, LLMMessage, LLMResponse
from llm_credentials.routing.kinds import Weight

if TYPE_CHECKING:
    from django.contrib.auth.models import User


@dataclass(frozen=True, kw_only=True)
class AgentResult:
    text: str
    """The answer. With ``stopped`` set, what there was of it."""
    response: LLMResponse | None
    """The last whole answer of the model; None if a limit was reached before there was one."""
    receipt: Any
    """The router's Receipt of that answer."""
    receipts: tuple[Any, ...]
    """One for every model call, in order."""
    messages: tuple[LLMMessage, ...]
    """The whole conversation without instructions, this turn included: the next turn's ``history``."""
    stopped: StopReason | None = None


class Agent:
    """Subclass it in ``agents/catalog/``. Its instructions: ``<slug>.md`` beside it, or ``instructions``."""

    slug: ClassVar[str]
    title: ClassVar[str]
    description: ClassVar[str]
    """What one gives and what one gets, in a sentence each."""
    icon: ClassVar[str] = "agents"
    do_not_call_in_templates: ClassVar[bool] = True
    """Templates show the class; without this they would call it."""
    examples: ClassVar[tuple[str, ...]] = ()
    instructions: ClassVar[str] = ""
    tools: ClassVar[tuple[Tool, ...]] = ()
    needs: ClassVar[frozenset[str]] = frozenset()
    """What a model must be able to do beyond chat; tools are added by themselves."""
    weight: ClassVar[Weight] = "normal"
    temperature: ClassVar[float | None] = None
    max_tokens: ClassVar[int | None] = None
    """Of one answer. Both yield to what user and staff settled; None leaves them to the router."""
    limits: ClassVar[Limits] = Limits()
    history_tokens: ClassVar[int] = 48_000
    """How much of the conversation goes along; the oldest turns stay behind."""
    position: ClassVar[int] = 100
    """Low numbers stand first on the page."""

    def __init__(
        self,
        user: User,
        *,
        provider: str | None = None,
        model: str | None = None,
        credential: UUID | None = None,
        client: ChatClient | None = None,
        token: Any = None,
    ) -> None:
        """``client`` stands in for the factory's, for tests and for callers that have one already; ``token``: the
        access token (its row) that the call came with.
        """
        self.user = user
        self.provider = provider
        self.model = model
        self.credential = credential
        self._client = client
        self._token = token

    @classmethod
    def all_needs(cls) -> frozenset[str]:
        return cls.needs | ({"tools"} if cls.tools else frozenset())

    @classmethod
    def system_prompt(cls) -> str:
        """Raises FileNotFoundError where an agent has neither ``instructions`` nor its file."""
        if cls.instructions:
            return cls.instructions
        source = Path(str(sys.modules[cls.__module__].__file__))
        return source.with_name(f"{cls.slug}.md").read_text(encoding="utf-8").strip()

    async def run(self, prompt: str | LLMMessage, *, history: Sequence[LLMMessage] | None = None) -> AgentResult:
        """The whole answer. Raises LLMError."""
        receipts: list[Any] = []
        response: LLMResponse | None = None
        async with aclosing(self.stream(prompt, history=history)) as events:
            async for event in events:
                if isinstance(event, StepReceipt):
                    receipts.append(event.receipt)
                    response = event.response
                elif isinstance(event, Done | Stopped):
                    return AgentResult(
                        text=joined_text(event.messages),
                        response=response,
                        receipt=receipts[-1] if receipts else None,
                        receipts=tuple(receipts),
                        messages=(*(history or ()), as_message(prompt), *event.messages),
                        stopped=event.reason if isinstance(event, Stopped) else None,
                    )
        raise AssertionError("the loop ended without saying how")

    async def stream(
        self, prompt: str | LLMMessage, *, history: Sequence[LLMMessage] | None = None
    ) -> AsyncGenerator[Event, None]:
        """Events as they happen; the last is Done or Stopped. Raises LLMError.

        Close it (``aclosing``) to stop: the provider's stream is closed and running tools are cancelled.
        """
        turn = as_message(prompt)
        client = self._client or self._routed_client()
        guard = await client.tripwire() if isinstance(client, Guarded) else None
        room = self.history_tokens
        while True:
            kept = context.trim(history or (), max_tokens=room)
            began = False
            try:
                async with aclosing(self._loop(client, (*kept, turn), guard)) as events:
                    async for event in events:
                        began = True
                        yield event
                return
            except ContextLengthExceeded:
                # The window is smaller than our estimate: less history may fit, as long as nothing was said yet.
                if began or not kept:
                    raise
                room = context.size(kept) // 2

    def _loop(
        self, client: ChatClient, conversation: Sequence[LLMMessage], guard: Guard | None
    ) -> AsyncGenerator[Event, None]:
        messages = (LLMMessage.system(self.system_prompt()), *conversation)
        return run_loop(client, messages, tools=self.tools, limits=self.limits, guard=guard)

    def _routed_client(self) -> ChatClient:
        from llm_credentials.factory import client_for  # agents are listed before the apps' models are ready

        routed = client_for(
            self.user,
            task=self.slug,
            provider=self.provider or None,
            model=self.model or None,
            credential=self.credential,
            needs=self.all_needs(),
            token=self._token,
        )
        return routed.with_defaults(temperature=self.temperature, max_tokens=self.max_tokens)


def as_message(prompt: str | LLMMessage) -> LLMMessage:
    return LLMMessage.user(prompt) if isinstance(prompt, str) else prompt
