"""Base class of agents: instructions, tools and limits around a client from the factory.

Call ``result = await ConversationAgent(user).run("…")``, or stream events with ``agent.stream("…")``; pass
``history=result.messages`` to the next turn.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

from pydantic import BaseModel

from agents import context
from agents.loop import (
    NOTHING_SPENT,
    ChatClient,
    Done,
    Event,
    Guard,
    Guarded,
    Limits,
    Pending,
    Spent,
    StepReceipt,
    Stopped,
    StopReason,
    joined_text,
    run_loop,
)
from agents.tools import Tool
from llm_credentials.providers import ContextLengthExceeded, LLMMessage, LLMResponse
from llm_credentials.routing.kinds import Weight
from llm_credentials.routing.run_budget import RunBudget

if TYPE_CHECKING:
    from django import forms
    from django.contrib.auth.models import User

    from agents.attachments import Attachment
    from llm_credentials.factory import RoutedClient


@dataclass(frozen=True, kw_only=True)
class AgentResult:
    text: str
    """The answer; a partial one if ``stopped`` is set."""
    response: LLMResponse | None
    """The model's last complete answer; None if a limit was reached before there was one."""
    receipt: Any
    """The router's Receipt of that answer."""
    receipts: tuple[Any, ...]
    """One per model call, in order."""
    messages: tuple[LLMMessage, ...]
    """The whole conversation including this turn, without instructions; pass it as ``history`` to the next turn."""
    output: BaseModel | None = None
    """The answer in the agent's own shape (``Agent.output``)."""
    stopped: StopReason | None = None
    pending: tuple[Pending, ...] = ()
    """With ``stopped == "approval"``: calls the user has to approve or refuse; continue with ``Agent.resume``."""
    spent: Spent = NOTHING_SPENT


@dataclass(frozen=True, kw_only=True)
class ResultFile:
    """A file in which a result can be downloaded."""

    name: str
    media_type: str
    content: bytes
    is_page: bool = False
    """Whether it may be shown in a frame, where it can run and fetch nothing."""


class CannotBegin(Exception):
    """The input cannot be used, and no model was asked. The text tells the user what to do."""


class Agent:
    """Subclass in ``agents/catalog/``. Instructions come from ``instructions``, or from ``<slug>.md`` beside the
    module.
    """

    slug: ClassVar[str]
    title: ClassVar[str]
    description: ClassVar[str]
    """Input and output, one sentence each."""
    icon: ClassVar[str] = "agents"
    do_not_call_in_templates: ClassVar[bool] = True
    """Templates show the class; without this they would call it."""
    examples: ClassVar[tuple[str, ...]] = ()
    instructions: ClassVar[str] = ""
    tools: ClassVar[tuple[Tool, ...]] = ()
    output: ClassVar[type[BaseModel] | None] = None
    """Shape of the final answer. The model gets its JSON Schema, and the answer is validated against it."""
    form: ClassVar[type[forms.Form] | None] = None
    """Fields beside the prompt, such as tone or length; ``self.options`` has their cleaned values as JSON."""
    takes_files: ClassVar[bool] = False
    """Whether its page offers an upload."""
    sees_pictures: ClassVar[bool] = False
    """Whether images among its files go to the model, which must then support vision."""
    kept_at: ClassVar[tuple[str, str] | None] = None
    """URL name and label of the page that lists what its user has kept of its results."""
    uses_servers: ClassVar[bool] = False
    """Whether it may also use the approved tools of the user's own tool servers."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """Model capabilities required beyond chat; tools are added automatically."""
    weight: ClassVar[Weight] = "normal"
    temperature: ClassVar[float | None] = None
    max_tokens: ClassVar[int | None] = None
    """Per answer. User and staff settings override both; None leaves them to the router."""
    limits: ClassVar[Limits] = Limits()
    history_tokens: ClassVar[int] = 48_000
    """How much of the conversation is sent; the oldest turns are dropped."""
    position: ClassVar[int] = 100
    """Low numbers come first on the page."""

    def __init__(
        self,
        user: User,
        *,
        provider: str | None = None,
        model: str | None = None,
        credential: UUID | None = None,
        client: ChatClient | None = None,
        token: Any = None,
        attachments: Sequence[Attachment] = (),
        options: Mapping[str, Any] | None = None,
        max_cost_usd: Decimal | None = None,
    ) -> None:
        """``client`` replaces the factory's client, for tests and callers that already have one; ``token``: the access
        token row the call came with; ``max_cost_usd``: lowers the agent's own cost limit.
        """
        self.user = user
        self.provider = provider
        self.model = model
        self.credential = credential
        self.attachments = tuple(attachments)
        self.options: dict[str, Any] = dict(options or {})
        self.max_cost_usd = min(
            (limit for limit in (self.limits.max_cost_usd, max_cost_usd) if limit is not None), default=None
        )
        self._connected: Sequence[Tool] = ()
        """Tools of the user's own servers, as approved when a turn begins."""
        self._client = client
        self._token = token
        self._run_budget = None if self.max_cost_usd is None else RunBudget(self.max_cost_usd)

    # Hooks for subclasses

    def begin(self, conversation: Sequence[LLMMessage]) -> None:
        """Called before each turn, and before ``tools_for``."""

    def passed_on(self, events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
        """The loop's events as the user gets them; override it to check them or append to the answer."""
        return events

    def tools_for(self) -> Sequence[Tool]:
        """The tools of this turn; they may close over ``self.user``, ``self.attachments`` and ``self.options``.

        Does no I/O.
        """
        return self.tools

    def instructions_for(self) -> str:
        """The instructions of this turn, for example with options filled in."""
        return self.system_prompt()

    async def turn(self, prompt: LLMMessage) -> LLMMessage:
        """The prompt for the model, made from the user's message by adding files or options. May raise CannotBegin."""
        return prompt

    def shown(self, output: BaseModel) -> str:
        """The output as Markdown, for readers without the agent's own template (``templates/agents/<slug>/``)."""
        return f"```json\n{output.model_dump_json(indent=2)}\n```"

    @classmethod
    def result_files(cls, result: Mapping[str, Any]) -> Sequence[ResultFile]:
        """Downloads offered on the page of a run, made from its result (the output as JSON)."""
        return ()

    def client(self, *, needs: Collection[str] = (), model: str | None = None) -> RoutedClient:
        """A client for tools that ask a model themselves; its cost counts against the same limit."""
        from llm_credentials.factory import client_for  # agents are listed before the apps' models are ready

        routed = client_for(
            self.user,
            task=self.slug,
            provider=self.provider or None,
            model=model or self.model or None,
            credential=self.credential,
            needs=needs,
            token=self._token,
        )
        return routed if self._run_budget is None else routed.with_run_budget(self._run_budget)

    @classmethod
    def has_page_first(cls) -> bool:
        """Whether users start it from its own page instead of a conversation."""
        return bool(cls.output or cls.form or cls.takes_files)

    @classmethod
    def all_needs(cls) -> frozenset[str]:
        """Capabilities its model needs in every turn."""
        tools = {"tools"} if cls.tools or cls.tools_for is not Agent.tools_for else set()
        return cls.needs | tools | ({"json"} if cls.output else set())

    @classmethod
    def system_prompt(cls) -> str:
        """Raises FileNotFoundError if the agent has neither ``instructions`` nor a file."""
        if cls.instructions:
            return cls.instructions
        return _text_beside(str(sys.modules[cls.__module__].__file__), f"{cls.slug}.md")

    # Running it

    async def run(self, prompt: str | LLMMessage, *, history: Sequence[LLMMessage] | None = None) -> AgentResult:
        """The complete answer. Raises LLMError and CannotBegin."""
        before = (*(history or ()), as_message(prompt))
        async with aclosing(self.stream(prompt, history=history)) as events:
            return await self._gathered(events, before)

    async def resume(self, paused: AgentResult, approvals: Mapping[str, bool]) -> AgentResult:
        """Continue after ``stopped == "approval"`` with the user's decisions by call id; a missing one is a no."""
        async with aclosing(self.stream_on(paused.messages, approvals, spent=paused.spent)) as events:
            return await self._gathered(events, paused.messages)

    async def stream(
        self,
        prompt: str | LLMMessage,
        *,
        history: Sequence[LLMMessage] | None = None,
        spent: Spent = NOTHING_SPENT,
    ) -> AsyncGenerator[Event, None]:
        """Yield events as they happen; the last is Done or Stopped. Raises LLMError and CannotBegin. ``spent``: usage
        of earlier attempts.

        Close it (``aclosing``) to stop: this closes the provider's stream and cancels running tools.
        """
        async with aclosing(self._stream((as_message(prompt),), history or (), None, spent)) as events:
            async for event in events:
                yield event

    async def stream_on(
        self, messages: Sequence[LLMMessage], approvals: Mapping[str, bool | None], *, spent: Spent = NOTHING_SPENT
    ) -> AsyncGenerator[Event, None]:
        """The events after an approval. ``messages``: the whole conversation; its last message has the calls."""
        begin = max((index for index, message in enumerate(messages) if message.role == "user"), default=0)
        async with aclosing(self._stream(messages[begin:], messages[:begin], approvals, spent)) as events:
            async for event in events:
                yield event

    async def _stream(
        self,
        turn: Sequence[LLMMessage],
        history: Sequence[LLMMessage],
        approvals: Mapping[str, bool | None] | None,
        spent: Spent,
    ) -> AsyncGenerator[Event, None]:
        client = self._client or self._routed_client()
        if self._run_budget is not None:
            self._run_budget.begin(spent.cost_usd)
        guard = await client.tripwire() if isinstance(client, Guarded) else None
        asked = (await self.turn(turn[0]), *turn[1:])
        self._connected = await self._server_tools()
        room = self.history_tokens
        while True:
            kept = context.trim(history, max_tokens=room)
            began = False
            try:
                async with aclosing(self._loop(client, (*kept, *asked), guard, approvals, spent)) as events:
                    async for event in events:
                        began = True
                        yield event
                return
            except ContextLengthExceeded:
                # The context window is smaller than estimated. Retry with less history, unless events were already
                # yielded.
                if began or not kept:
                    raise
                room = context.size(kept) // 2

    def _loop(
        self,
        client: ChatClient,
        conversation: Sequence[LLMMessage],
        guard: Guard | None,
        approvals: Mapping[str, bool | None] | None,
        spent: Spent,
    ) -> AsyncGenerator[Event, None]:
        self.begin(conversation)
        return self.passed_on(
            run_loop(
                client,
                (LLMMessage.system(self.instructions_for()), *conversation),
                tools=(*self.tools_for(), *self._connected),
                limits=replace(self.limits, max_cost_usd=self.max_cost_usd),
                guard=guard,
                output=self.output,
                approvals=approvals,
                spent=spent,
            )
        )

    async def _server_tools(self) -> Sequence[Tool]:
        if not self.uses_servers or self.user.pk is None:
            return ()
        from agents.tools.mcp import tools_of  # its models are not ready when agents are listed

        return await tools_of(self.user)

    async def _gathered(self, events: AsyncGenerator[Event, None], before: Sequence[LLMMessage]) -> AgentResult:
        receipts: list[Any] = []
        response: LLMResponse | None = None
        async for event in events:
            if isinstance(event, StepReceipt):
                receipts.append(event.receipt)
                response = event.response
            elif isinstance(event, Done | Stopped):
                output = event.output if isinstance(event, Done) else None
                stopped = event if isinstance(event, Stopped) else None
                return AgentResult(
                    text=joined_text(event.messages) if output is None else self.shown(output),
                    response=response,
                    receipt=receipts[-1] if receipts else None,
                    receipts=tuple(receipts),
                    messages=(*before, *event.messages),
                    output=output,
                    stopped=stopped.reason if stopped else None,
                    pending=stopped.pending if stopped else (),
                    spent=stopped.spent if stopped else NOTHING_SPENT,
                )
        raise AssertionError("the loop ended without saying how")

    def _routed_client(self) -> ChatClient:
        routed = self.client(needs=self.all_needs())
        return routed.with_defaults(temperature=self.temperature, max_tokens=self.max_tokens)


@cache
def _text_beside(source: str, name: str) -> str:
    """Cached: the file is part of the code."""
    return Path(source).with_name(name).read_text(encoding="utf-8").strip()


def as_message(prompt: str | LLMMessage) -> LLMMessage:
    return LLMMessage.user(prompt) if isinstance(prompt, str) else prompt
