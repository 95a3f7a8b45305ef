"""The client for callers: the interface of an LLMClient over a user's whole chain of keys."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import count
from typing import Any, TypeVar

from asgiref.sync import sync_to_async
from django.db import InterfaceError, OperationalError

from llm_credentials.ledger import estimate
from llm_credentials.ledger.budgets import Limits
from llm_credentials.models import PersonalAccessToken
from llm_credentials.opening import open_client
from llm_credentials.providers import (
    Embeddings,
    ImagePart,
    LLMClient,
    LLMMessage,
    LLMStreamChunk,
    ModelInfo,
    RequestRejected,
    SecretInRequest,
    SiteUnavailable,
    ToolDefinition,
)
from llm_credentials.providers.calls import DEFAULT_TIMEOUT_S, model_id_fault
from llm_credentials.providers.messages import Embedded
from llm_credentials.routing import health, snapshot_cache
from llm_credentials.routing.account import routed
from llm_credentials.routing.receipt import Receipt, RoutedEmbeddings, RoutedResponse
from llm_credentials.routing.resolve import MAX_TOKENS, TEMPERATURE
from llm_credentials.routing.router import Chain
from llm_credentials.routing.run_budget import RunBudget
from llm_credentials.routing.snapshot import Loaded, Person
from llm_credentials.routing.trials import Piece, Size
from llm_credentials.routing.values import Candidate, Request, Route
from llm_credentials.tripwire import Tripwire, refuse_secrets, texts_of

T = TypeVar("T")
P = TypeVar("P", bound=Piece)

TASK_MAX = 60
"""Width of the ledger's column."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Defaults:
    """Used where neither the call nor the override, the user or staff set a value."""

    temperature: float = TEMPERATURE
    max_tokens: int = MAX_TOKENS


@dataclass(frozen=True, slots=True)
class _Asked:
    """The arguments of a call except its model, in the order of ``LLMClient.complete``."""

    messages: Sequence[LLMMessage]
    tools: Sequence[ToolDefinition] | None
    tool_choice: str | None
    response_schema: Mapping[str, Any] | None
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    stop: Sequence[str] | None
    seed: int | None

    def needs(self) -> frozenset[str]:
        sees = any(isinstance(part, ImagePart) for message in self.messages for part in message.parts)
        asked = {"tools": bool(self.tools), "vision": sees, "json": self.response_schema is not None}
        return frozenset(need for need, is_asked in asked.items() if is_asked)

    def arguments(self) -> dict[str, Any]:
        """The arguments that are the same for every candidate."""
        own = ("messages", "max_tokens", "temperature")
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name not in own}

    def texts(self) -> Iterable[str | bytes]:
        return texts_of(self.messages, self.tools or ())


class RoutedClient:
    """The interface of an LLMClient over a user's whole chain of keys; safe to share between tasks."""

    def __init__(
        self,
        user: Person,
        request: Request,
        defaults: Defaults | None = None,
        token: PersonalAccessToken | None = None,
        run_budget: RunBudget | None = None,
    ) -> None:
        self._user = user
        self._request = request
        self._token = token
        self._run_budget = run_budget
        self._defaults = defaults or Defaults()

    def __repr__(self) -> str:
        return f"<RoutedClient task={self._request.task!r}>"

    @property
    def provider(self) -> str:
        """The provider that was named; empty when the route decides."""
        return self._request.provider or ""

    @property
    def model(self) -> str:
        return self._request.model or ""

    def with_defaults(self, *, temperature: float | None = None, max_tokens: int | None = None) -> RoutedClient:
        """A copy with an agent's own defaults; settings of the user and staff override them."""
        defaults = Defaults(
            temperature=self._defaults.temperature if temperature is None else temperature,
            max_tokens=self._defaults.max_tokens if max_tokens is None else max_tokens,
        )
        return RoutedClient(self._user, self._request, defaults, self._token, self._run_budget)

    def with_run_budget(self, run_budget: RunBudget) -> RoutedClient:
        """A copy whose calls share this budget with all other clients that use it."""
        return RoutedClient(self._user, self._request, self._defaults, self._token, run_budget)

    def only_at(self, provider: str) -> RoutedClient:
        """A copy restricted to this provider, for when another provider's answer would be useless."""
        allowed = self._request.providers
        providers = frozenset({provider}) if allowed is None else allowed & {provider}
        request = replace(self._request, providers=providers)
        return RoutedClient(self._user, request, self._defaults, self._token, self._run_budget)

    async def route(self) -> Route:
        """The route that a call would take now. Opens no key."""
        _, route = await _alook(self._user, self._request)
        return route

    async def complete(
        self,
        messages: Sequence[LLMMessage],
        *,
        tools: Sequence[ToolDefinition] | None = None,
        tool_choice: str | None = None,
        response_schema: Mapping[str, Any] | None = None,
        model: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        stop: Sequence[str] | None = None,
        seed: int | None = None,
        timeout_s: float | None = None,
    ) -> RoutedResponse:
        """A complete answer. ``timeout_s`` covers the whole chain. Raises LLMError with its receipt."""
        asked = _Asked(messages, tools, tool_choice, response_schema, max_tokens, temperature, top_p, stop, seed)
        chain = await self._chain(asked.needs(), model, timeout_s, self._size(asked), asked.texts())
        response, receipt = await chain.ask(
            lambda client, candidate, limit_s: client.complete(
                asked.messages, **asked.arguments(), **self._sampling(candidate, asked), timeout_s=limit_s
            )
        )
        return routed(response, receipt)

    async def stream(
        self,
        messages: Sequence[LLMMessage],
        *,
        tools: Sequence[ToolDefinition] | None = None,
        tool_choice: str | None = None,
        response_schema: Mapping[str, Any] | None = None,
        model: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        stop: Sequence[str] | None = None,
        seed: int | None = None,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[LLMStreamChunk, None]:
        """Streams the answer; the last chunk carries a RoutedResponse. Yields nothing before the first real content.

        Raises LLMError before the first content and StreamInterrupted (with the partial answer) after it. ``aclose()``
        closes the upstream connection.
        """
        asked = _Asked(messages, tools, tool_choice, response_schema, max_tokens, temperature, top_p, stop, seed)
        chain = await self._chain(asked.needs(), model, timeout_s, self._size(asked), asked.texts())
        chunks = chain.stream(
            lambda client, candidate, limit_s: client.stream(
                asked.messages, **asked.arguments(), **self._sampling(candidate, asked), timeout_s=limit_s
            )
        )
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk

    async def embed(
        self, texts: Embedded, *, model: str | None = None, dimensions: int | None = None
    ) -> RoutedEmbeddings:
        words = [text for text in texts if isinstance(text, str)]
        size = Size(lambda: estimate.embedded_tokens(texts), lambda _: 0)
        chain = await self._chain(frozenset({"embeddings"}), model, None, size, words)
        found, receipt = await chain.ask(
            lambda client, candidate, _: client.embed(texts, model=candidate.model, dimensions=dimensions)
        )
        values = {each.name: getattr(found, each.name) for each in fields(Embeddings)}
        return RoutedEmbeddings(**values, receipt=receipt)

    async def list_models(self) -> list[ModelInfo]:
        """The models of the first key in the chain that can list them."""
        chain = await self._chain(frozenset(), None, None, None)
        models, _ = await chain.ask(lambda client, _, __: client.list_models())
        return models

    async def relay(
        self,
        work: Callable[[LLMClient, Candidate, float], Awaitable[T]],
        *,
        needs: frozenset[str] = frozenset(),
        size: Size,
        leaving: Iterable[str | bytes],
        timeout_s: float | None = None,
    ) -> tuple[T, Receipt]:
        """The result of ``work(client, candidate, limit_s)`` for the first candidate for which it raises no LLMError.

        For callers with their own wire format; all others call ``complete``. ``leaving``: what is sent to the provider,
        which must contain no key. Raises LLMError.
        """
        return await (await self._chain(needs, None, timeout_s, size, leaving)).ask(work)

    async def relay_stream(
        self,
        work: Callable[[LLMClient, Candidate, float], AsyncGenerator[P, None]],
        *,
        needs: frozenset[str] = frozenset(),
        size: Size,
        leaving: Iterable[str | bytes],
        timeout_s: float | None = None,
    ) -> AsyncGenerator[P, None]:
        """As ``relay``, streamed like ``stream``; the last piece's response is a RoutedResponse."""
        return (await self._chain(needs, None, timeout_s, size, leaving)).stream(work)

    async def tripwire(self) -> Tripwire:
        """Detects this user's and the site's keys in what tools return."""
        loaded, _ = await _alook(self._user, self._request)
        return loaded.tripwire

    async def aclose(self) -> None:
        """Does nothing: the process owns the shared clients and connections."""

    async def _chain(
        self,
        needs: frozenset[str],
        model: str | None,
        timeout_s: float | None,
        size: Size | None,
        leaving: Iterable[str | bytes] = (),
    ) -> Chain:
        """``leaving``: the texts that are sent to the provider. Raises SecretInRequest when one contains a key."""
        model = model or self._request.model
        if model and (fault := model_id_fault(model)):
            error = RequestRejected(fault, provider=self._request.provider)
            error.receipt = Receipt()
            raise error
        request = self._request
        if model != request.model or not needs <= request.needs:
            request = replace(request, needs=request.needs | needs, model=model)
        loaded, route = await _alook(self._user, request, next(_turns))
        try:
            await refuse_secrets(loaded.tripwire, leaving)
        except SecretInRequest as error:
            error.receipt = Receipt()
            raise
        return Chain(
            loaded=loaded,
            limits=self._limits(loaded),
            route=route,
            task=(request.task or "")[:TASK_MAX],
            opener=partial(open_client, user_id=loaded.user_id),
            deadline_s=DEFAULT_TIMEOUT_S if timeout_s is None else timeout_s,
            size=size,
            run_budget=self._run_budget,
        )

    def _limits(self, loaded: Loaded) -> Limits:
        """The user's limits, plus those of the call's access token."""
        if self._token is None:
            return loaded.limits
        token = (self._token.pk, self._token.budget_usd)
        limits = loaded.within_token.get(token)
        if limits is None:
            limits = replace(loaded.limits, token_id=token[0], token_monthly_usd=token[1])
            loaded.within_token[token] = limits
        return limits

    def _sampling(self, candidate: Candidate, asked: _Asked) -> dict[str, Any]:
        """Model, temperature and max_tokens: the call's, else the candidate's, else the defaults."""
        max_tokens, temperature = asked.max_tokens, asked.temperature
        if max_tokens is None:
            max_tokens = candidate.max_tokens or self._defaults.max_tokens
            most = candidate.facts.max_output_tokens if candidate.facts else None
            max_tokens = min(max_tokens, most or max_tokens)
        if temperature is None:
            temperature = self._defaults.temperature if candidate.temperature is None else candidate.temperature
        return {"model": candidate.model, "temperature": temperature, "max_tokens": max_tokens}

    def _size(self, asked: _Asked) -> Size:
        return Size(
            lambda: estimate.prompt_tokens(asked.messages, asked.tools or ()),
            lambda candidate: _count(self._sampling(candidate, asked)["max_tokens"]),
        )


def _count(value: object) -> int:
    """A caller's token count, not validated yet."""
    return value if isinstance(value, int) and value > 0 else 0


def look(user: Person, request: Request, turn: int = 0) -> tuple[Loaded, Route]:
    """``turn``: of the call about to be made; an explanation uses no turn."""
    loaded = snapshot_cache.load(user)
    return loaded, loaded.route(_in_turn(loaded, request, turn), health.cooling(loaded.targets))


async def _alook(user: Person, request: Request, turn: int = 0) -> tuple[Loaded, Route]:
    """As ``look``; stays on the event loop when the snapshot is cached."""
    loaded = snapshot_cache.find(user)
    if loaded is None:
        try:
            return await sync_to_async(look)(user, request, turn)
        except (OperationalError, InterfaceError):
            away = SiteUnavailable()
            away.receipt = Receipt()
            raise away from None
    return loaded, loaded.route(_in_turn(loaded, request, turn), await health.look(loaded.targets))


_turns = count()


def _in_turn(loaded: Loaded, request: Request, turn: int) -> Request:
    return replace(request, turn=turn) if loaded.takes_turns else request
