"""Tries a route: one candidate after the other, by one table, within one deadline.

Before the first content of an answer a failure is invisible; after it there is never another candidate: the answer is
marked incomplete and its beginning handed over.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import Any, TypeAlias, TypeVar
from uuid import UUID

from asgiref.sync import sync_to_async

from llm_credentials import metrics
from llm_credentials.audit.context import token_id
from llm_credentials.ids import new_id
from llm_credentials.ledger import prices, writer
from llm_credentials.ledger.budgets import Limits
from llm_credentials.ledger.entries import Entry, Outcome, Settlement, State, reservation
from llm_credentials.ledger.prices import Price
from llm_credentials.live import access
from llm_credentials.live.access import WORDS, Reason, Right
from llm_credentials.live.calls import Call, Ended, under_way
from llm_credentials.providers import (
    AccessWithdrawn,
    AuthenticationFailed,
    BadProviderResponse,
    BudgetExceeded,
    LLMClient,
    LLMError,
    LLMResponse,
    ProviderSpec,
    RequestRejected,
    SiteUnavailable,
    StreamInterrupted,
    Usage,
)
from llm_credentials.providers.messages import widened
from llm_credentials.routing import kept, marks
from llm_credentials.routing.afterwards import health_news, settled, take, to_the_end
from llm_credentials.routing.purse import Purse
from llm_credentials.routing.receipt import CANCELLED, OK, Attempt, Receipt, RoutedResponse, left_behind
from llm_credentials.routing.rules import can, pause_after, rule, stayed_here
from llm_credentials.routing.snapshot import Loaded, Row
from llm_credentials.routing.trials import (
    Piece,
    Size,
    Trial,
    counted_of,
    no_candidate,
    ours,
    partial_of,
    reason_of,
    unopened,
)
from llm_credentials.routing.values import Candidate, Route

T = TypeVar("T")
P = TypeVar("P", bound="Piece")

Opener: TypeAlias = Callable[[Row, str], Awaitable[LLMClient]]

FIRST_SHARE = 0.5
"""The part of the remaining time that a candidate gets before the next one is asked instead."""
FIRST_CONTENT_S = 30.0
"""At most so long a stream may stay without content while others could be asked."""
LOOK_AGAIN_S = 0.25
"""Before an attempt that comes later than this, a snapshot is used only if it is known to hold still."""


class Chain:
    """The attempts of one call. Without a ``size`` it costs nothing and is in no ledger."""

    def __init__(
        self,
        *,
        loaded: Loaded,
        route: Route,
        task: str,
        opener: Opener,
        deadline_s: float,
        size: Size | None,
        limits: Limits | None = None,
        purse: Purse | None = None,
    ) -> None:
        """``limits``: where they are not the user's alone."""
        self.loaded = loaded
        self.limits = limits or loaded.limits
        self.route = route
        self.task = task
        self.opener = opener
        self.size = size
        self.purse = purse
        self.call_id: UUID = new_id()
        self.loop = asyncio.get_running_loop()
        self.deadline = self.loop.time() + deadline_s
        self.queue = list(route.candidates)
        self.again: Candidate | None = None
        self.attempts = unopened(route)
        self.prices: list[Price] = []
        """Of the attempts that may have been charged."""
        self.estimated = False
        """Whether one of them is our own count."""
        self.first: tuple[Candidate, LLMError] | None = None
        """The candidate that the user would have had, and its last error: what is raised when nobody answers."""
        self.call = Call(Right(loaded.user_id, token_id=token_id()), self._ended)
        self.renewed: dict[str, Row] = {}
        """Keys that were replaced since the snapshot was read."""
        self.looked_at = self.loop.time()
        """When what the snapshot says was last known to hold."""
        self.flowing: tuple[Trial, AsyncGenerator[Any, None]] | None = None
        """The stream whose pieces are being handed on."""
        self.closing: asyncio.Task[None] | None = None
        metrics.call_began(task)

    # What callers use

    async def ask(self, call: Callable[[LLMClient, Candidate, float], Awaitable[T]]) -> tuple[T, Receipt]:
        """What ``call(client, candidate, limit_s)`` gives, of the first candidate that answers. Raises LLMError."""
        with under_way(self.call):
            while (trial := await self._next()) is not None:
                try:
                    with self.call:
                        client = await self._open(trial)
                        async with asyncio.timeout(trial.limit_s):
                            answer = await call(client, trial.candidate, trial.limit_s)
                except (LLMError, TimeoutError, Ended) as error:
                    await self._lost(trial, ours(error, trial))
                except BaseException as error:
                    await self._left(trial, error)
                    raise
                else:
                    await self._won(trial, answer)
                    return answer, self.receipt(trial.candidate)
            raise self._nobody()

    async def stream(
        self, call: Callable[[LLMClient, Candidate, float], AsyncGenerator[P, None]]
    ) -> AsyncGenerator[P, None]:
        """The pieces of the first candidate that begins to answer. Raises LLMError; StreamInterrupted after content."""
        with under_way(self.call):
            trial, upstream, held = await self._begun(call)
            # From here on it is this candidate's answer or none.
            self.flowing = (trial, upstream)
            try:
                for chunk in held:
                    yield await self._passed(chunk, trial)
                if held[-1].type != "done":
                    while (piece := await self._piece(upstream)) is not None:
                        yield await self._passed(piece, trial)
            except (LLMError, TimeoutError, Ended) as error:
                await self._shut(upstream)
                raise await self._broken(trial, ours(error, trial)) from None
            except BaseException as error:
                await self._shut(upstream)
                await self._left(trial, error)
                raise
            await self._shut(upstream)

    def receipt(self, candidate: Candidate | None) -> Receipt:
        known = [price.usd for price in self.prices if price.usd is not None]
        return Receipt(
            attempts=list(self.attempts),
            cost_usd=sum(known, Decimal(0)) if known and len(known) == len(self.prices) else None,
            price_source=self.prices[-1].source or None if self.prices else None,
            reason=reason_of(candidate, self.route.dropped),
            estimated=self.estimated,
        )

    # Streams

    async def _begun(
        self, call: Callable[[LLMClient, Candidate, float], AsyncGenerator[P, None]]
    ) -> tuple[Trial, AsyncGenerator[P, None], list[P]]:
        """The first candidate that begins to answer, the rest of its answer, and what has come of it."""
        while (trial := await self._next()) is not None:
            upstream: AsyncGenerator[P, None] | None = None
            try:
                with self.call:
                    client = await self._open(trial)
                    upstream = call(client, trial.candidate, self._remaining())
                    return trial, upstream, await self._gate(upstream, trial)
            except (LLMError, TimeoutError, Ended) as error:
                await _close(upstream)
                await self._lost(trial, ours(error, trial))
            except BaseException as error:
                await _close(upstream)
                await self._left(trial, error)
                raise
        raise self._nobody()

    async def _gate(self, upstream: AsyncGenerator[P, None], trial: Trial) -> list[P]:
        """Everything up to the first real content, or the whole of an answer without any."""
        held: list[P] = []
        limit_s = min(trial.limit_s, FIRST_CONTENT_S) if self.queue else trial.limit_s
        async with asyncio.timeout(limit_s):
            async for chunk in upstream:
                held.append(chunk)
                if chunk.type == "done":
                    return held
                if chunk.has_content:
                    trial.ttft_ms = self._ms_since(trial.started)
                    return held
        raise BadProviderResponse(provider=trial.candidate.key.provider)

    async def _piece(self, upstream: AsyncGenerator[P, None]) -> P | None:
        with self.call:
            return await anext(upstream, None)

    def _ended(self, reason: Reason) -> None:
        """Whoever reads the stream may not come back for its next piece soon, or ever: close it without them."""
        if self.flowing is not None and not self.call.is_awaited and self.closing is None:
            self.closing = self.loop.create_task(self._close_down(*self.flowing, reason))

    async def _close_down(self, trial: Trial, upstream: AsyncGenerator[Any, None], reason: Reason) -> None:
        await _close(upstream)
        await self._broken(trial, ours(Ended(reason), trial))

    async def _shut(self, upstream: AsyncGenerator[P, None]) -> None:
        self.flowing = None
        if self.closing is not None:
            await asyncio.wait([self.closing])
        await _close(upstream)

    async def _passed(self, chunk: P, trial: Trial) -> P:
        trial.heard.add(chunk)
        if chunk.type != "done" or chunk.response is None:
            return chunk
        await self._won(trial, chunk.response)
        return replace(chunk, response=routed(chunk.response, self.receipt(trial.candidate)))

    async def _broken(self, trial: Trial, error: LLMError) -> StreamInterrupted:
        """The error of a stream that broke after its first content, with what had come."""
        partial = error.partial if isinstance(error, StreamInterrupted) else None
        kind, words = (type(error), str(error)) if isinstance(error, AccessWithdrawn) else (StreamInterrupted, "")
        interrupted = kind(
            words,
            partial=partial or partial_of(trial),
            provider=trial.candidate.key.provider,
            status_code=error.status_code,
            request_id=error.request_id,
            code=error.code,
        )
        await self._book(trial, interrupted, kind.__name__, interrupted.partial)
        self._failed(interrupted, trial.candidate)
        return interrupted

    # Turns

    async def _next(self) -> Trial | None:
        """The next attempt, reserved; None when there is no candidate or no time left.

        Raises BudgetExceeded, AccessWithdrawn.
        """
        candidate, row, number = None, None, 2
        while row is None:
            candidate, number = (self.again, 2) if self.again else (self.queue.pop(0) if self.queue else None, 1)
            self.again = None
            if candidate is None:
                return None
            row = await self._row(candidate)
        remaining_s = self._remaining()
        if candidate is None or remaining_s <= 0:
            return None
        key = candidate.key
        trial = Trial(
            candidate=candidate,
            row=row,
            entry=Entry(
                call_id=self.call_id,
                user_id=self.loaded.user_id,
                task=self.task,
                provider=key.provider,
                model=candidate.model,
                credential_id=key.id,
                key_owner=key.owner,
                token_id=self.limits.token_id,
            ),
            number=number,
            started=self.loop.time(),
            limit_s=remaining_s * FIRST_SHARE if self.queue else remaining_s,
        )
        if self.size is not None:
            await self._reserve(trial, self.size)
        return trial

    async def _row(self, candidate: Candidate) -> Row | None:
        """The candidate's key, and the call resting on it; None if it went out of use since the call began."""
        key = candidate.key
        row = self.renewed.get(key.ref) or self.loaded.rows[key.ref]
        right = self.call.right = Right(
            self.call.right.user_id, None if key.id is None else (key.owner, key.id), self.call.right.token_id
        )
        gone = self.call.reason
        if gone is None and self.loop.time() - self.looked_at >= LOOK_AGAIN_S and not kept.is_current(self.loaded):
            lost = await sync_to_async(access.lost)([right])
            if (gone := lost.get(right)) in (None, "key"):
                now = None if gone else await sync_to_async(kept.row_now)(row)
                self.looked_at = self.loop.time()
                return now
        if gone is not None:
            raise self._failed(AccessWithdrawn(WORDS[gone], what=gone, provider=key.provider), None)
        return row

    async def _reserve(self, trial: Trial, size: Size) -> None:
        """Put the worst case into the ledger before anything leaves."""
        prompt_tokens, answer_tokens = size.prompt_tokens(), size.answer_tokens(trial.candidate)
        worst = prices.worst(self._spec(trial), trial.candidate.model, prompt_tokens, answer_tokens, trial.entry.at)
        trial.reservation = reservation(trial.entry, self.limits, worst, prompt_tokens)
        try:
            if self.purse is not None:
                self.purse.hold(trial.entry.id, worst.usd)
            await writer.reserve(trial.reservation)
        except (BudgetExceeded, RequestRejected, SiteUnavailable) as error:
            if self.purse is not None:
                self.purse.settle(trial.entry.id, None)
            error.provider = trial.candidate.key.provider
            self._failed(error, trial.candidate)
            raise

    def _spec(self, trial: Trial) -> ProviderSpec:
        return self.loaded.snapshot.specs[trial.candidate.key.provider]

    async def _open(self, trial: Trial) -> LLMClient:
        client = await self.opener(trial.row, trial.candidate.model)
        trial.opened = True
        return client

    async def _lost(self, trial: Trial, error: LLMError) -> None:
        """Book a failure and get ready for the next turn. Raises when the table says that there is none."""
        await self._book(trial, error, type(error).__name__, None)
        candidate = trial.candidate
        if self.first is None or self.first[0] is candidate:
            self.first = (candidate, error)
        if isinstance(error, AuthenticationFailed) and trial.number == 1 and await self._was_replaced(trial):
            self.again = candidate
            return
        verdict = rule(error)
        pause_s = pause_after(verdict, error) if trial.number == 1 else None
        if pause_s is not None and pause_s < self._remaining():
            self.again = candidate
            await asyncio.sleep(pause_s)
        elif verdict.next:
            self.queue = [other for other in self.queue if can(other, candidate, error)]
            if self.queue:
                metrics.failed_over(candidate.key.provider)
        else:
            raise self._failed(error, candidate)

    async def _was_replaced(self, trial: Trial) -> bool:
        """Whether the refused key has a successor that this call has not heard of yet."""
        now = await sync_to_async(kept.row_now)(trial.row)
        if now is None or now.version == trial.row.version or now.fingerprint == trial.row.fingerprint:
            return False
        self.renewed[trial.candidate.key.ref] = now
        return True

    def _nobody(self) -> LLMError:
        """The error of a call that nobody answered."""
        candidate, error = self.first or (None, no_candidate(self.route))
        return self._failed(error, candidate)

    def _failed(self, error: LLMError, candidate: Candidate | None) -> LLMError:
        """The call's own error, with its receipt."""
        error.receipt = self.receipt(candidate)
        metrics.call_failed(self.task, error)
        return error

    def _remaining(self) -> float:
        return self.deadline - self.loop.time()

    def _ms_since(self, started: float) -> int:
        return round((self.loop.time() - started) * 1000)

    # The books

    async def _won(self, trial: Trial, answer: object) -> None:
        await self._book(trial, None, OK, answer)

    async def _left(self, trial: Trial, error: BaseException) -> None:
        """The caller went away, or something broke that is no failure of the provider."""
        leaving = isinstance(error, asyncio.CancelledError | GeneratorExit)
        counted = await self._book(trial, None, CANCELLED if leaving else type(error).__name__, None)
        if counted is not None and (answers := left_behind.get()) is not None:
            partial_answer = replace(partial_of(trial), usage=counted)
            answers.append(routed(partial_answer, self.receipt(trial.candidate)))

    async def _book(self, trial: Trial, error: LLMError | None, outcome: str, answer: object) -> Usage | None:
        """Write the attempt down, once, also when the caller is being cancelled. Never fails the call.

        The usage that was written; None where nothing was used, or it had been written before.
        """
        if trial.closed:
            return None
        trial.closed = True
        key = trial.candidate.key
        latency_ms = self._ms_since(trial.started)
        self.attempts.append(
            Attempt(
                provider=key.provider,
                model=trial.candidate.model,
                credential_id=key.id,
                key_owner=key.owner,
                outcome=outcome,
                latency_ms=latency_ms,
            )
        )
        state, counted = counted_of(trial, error, answer, self.size)
        price = prices.cost(self._spec(trial), trial.candidate.model, counted, trial.entry.at)
        if self.purse is not None:
            self.purse.settle(trial.entry.id, None if state == State.VOID else price.usd)
        ended = Outcome(
            state=state,
            outcome=outcome,
            latency_ms=latency_ms,
            ttft_ms=trial.ttft_ms,
            usage=counted,
            price=price,
        )
        metrics.attempt_ended(trial.entry, ended)
        if state != State.VOID:
            self.prices.append(price)
        self.estimated = self.estimated or state == State.ESTIMATED
        sent = trial.opened and not stayed_here(error)
        settlement = Settlement(
            outcome=ended, reservation=trial.reservation, key=marks.key_of(trial.row) if sent else None
        )
        await settled(settlement)
        verdict = marks.verdict(trial.row, error, answered=outcome == OK or trial.ttft_ms is not None)
        steps = list(health_news(trial, error, ended))
        if verdict is not None:
            steps.append(("marks", partial(marks.note, trial.row, verdict)))
        if steps:
            await to_the_end(sync_to_async(take)(steps, trial))
        return None if state == State.VOID else counted


def routed(response: LLMResponse, receipt: Receipt) -> RoutedResponse:
    return widened(response, RoutedResponse, receipt=receipt)


async def _close(upstream: AsyncGenerator[Any, None] | None) -> None:
    if upstream is not None:
        await upstream.aclose()
