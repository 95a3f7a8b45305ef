"""Executes a route: tries one candidate after another, by the table in ``rules``, within one deadline.

The caller does not notice a failure before the first content of an answer. After first content no other candidate is
tried: the caller gets the partial answer, marked incomplete.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeAlias, TypeVar

from asgiref.sync import sync_to_async

from llm_credentials import metrics
from llm_credentials.audit.context import token_id
from llm_credentials.ledger.budgets import Limits
from llm_credentials.live import access
from llm_credentials.live.access import WORDS, Reason
from llm_credentials.live.calls import Call, Ended, under_way
from llm_credentials.providers import (
    AccessWithdrawn,
    AuthenticationFailed,
    BadProviderResponse,
    LLMClient,
    LLMError,
    StreamInterrupted,
)
from llm_credentials.providers.deadlines import until
from llm_credentials.routing import snapshot_cache
from llm_credentials.routing.account import CallAccount, routed
from llm_credentials.routing.receipt import OK, Receipt
from llm_credentials.routing.rules import can, pause_after, rule
from llm_credentials.routing.run_budget import RunBudget
from llm_credentials.routing.snapshot import Loaded, Row
from llm_credentials.routing.trials import Piece, Size, Trial, no_candidate, ours, partial_of
from llm_credentials.routing.values import Candidate, Route

T = TypeVar("T")
P = TypeVar("P", bound="Piece")

Opener: TypeAlias = Callable[[Row, str], Awaitable[LLMClient]]

FIRST_SHARE = 0.5
"""The share of the remaining time for a candidate that is not the last."""
FIRST_CONTENT_S = 30.0
"""The longest time to first content of a stream if other candidates are left."""
LOOK_AGAIN_S = 0.25
"""An attempt later than this after the last check first verifies that the snapshot is current."""


class Chain:
    """The attempts of one call. A call without a ``size`` is free and not in the ledger."""

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
        run_budget: RunBudget | None = None,
    ) -> None:
        """``limits``: replace the user's own, for example those of an access token."""
        self.loaded = loaded
        self.route = route
        self.opener = opener
        self.account = CallAccount(
            loaded=loaded, route=route, task=task, size=size, limits=limits or loaded.limits, run_budget=run_budget
        )
        self.loop = asyncio.get_running_loop()
        self.deadline = self.loop.time() + deadline_s
        self.queue = list(route.candidates)
        self.again: Candidate | None = None
        self.first: tuple[Candidate, LLMError] | None = None
        """The first candidate tried, and its last error: raised if no candidate answers."""
        self.call = Call(loaded.right(None, token_id()), self._ended)
        self.renewed: dict[str, Row] = {}
        """Keys that were replaced since the snapshot was read."""
        self.looked_at = self.loop.time()
        """Loop time at which the snapshot was last known to be current."""
        self.flowing: tuple[Trial, AsyncGenerator[Any, None]] | None = None
        """The stream whose pieces are being passed on."""
        self.closing: asyncio.Task[None] | None = None

    # Entry points

    async def ask(self, call: Callable[[LLMClient, Candidate, float], Awaitable[T]]) -> tuple[T, Receipt]:
        """The result of ``call(client, candidate, limit_s)`` with the first candidate that answers. Raises LLMError."""
        with under_way(self.call):
            while (trial := await self._next()) is not None:
                try:
                    with self.call:
                        client = await self._open(trial)
                        with until(self.loop.time() + trial.limit_s):
                            answer = await call(client, trial.candidate, trial.limit_s)
                except (LLMError, TimeoutError, Ended) as error:
                    await self._lost(trial, ours(error, trial))
                except BaseException as error:
                    await self.account.abandon(trial, error)
                    raise
                else:
                    await self.account.settle(trial, None, OK, answer)
                    return answer, self.account.receipt(trial.candidate)
            raise self._nobody()

    async def stream(
        self, call: Callable[[LLMClient, Candidate, float], AsyncGenerator[P, None]]
    ) -> AsyncGenerator[P, None]:
        """The pieces of the first candidate that starts to answer. Raises LLMError; StreamInterrupted after content."""
        with under_way(self.call):
            trial, upstream, held = await self._begun(call)
            # No fallback from here on.
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
                await self.account.abandon(trial, error)
                raise
            await self._shut(upstream)

    # Streams

    async def _begun(
        self, call: Callable[[LLMClient, Candidate, float], AsyncGenerator[P, None]]
    ) -> tuple[Trial, AsyncGenerator[P, None], list[P]]:
        """The first candidate that starts to answer, the rest of its stream, and the pieces so far."""
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
                await self.account.abandon(trial, error)
                raise
        raise self._nobody()

    async def _gate(self, upstream: AsyncGenerator[P, None], trial: Trial) -> list[P]:
        """Everything up to the first content, or the whole of an answer without any."""
        held: list[P] = []
        limit_s = min(trial.limit_s, FIRST_CONTENT_S) if self.queue else trial.limit_s
        with until(self.loop.time() + limit_s):
            async for chunk in upstream:
                held.append(chunk)
                if chunk.type == "done":
                    return held
                if chunk.has_content:
                    trial.ttft_ms = trial.age_ms()
                    return held
        raise BadProviderResponse(provider=trial.candidate.key.provider)

    async def _piece(self, upstream: AsyncGenerator[P, None]) -> P | None:
        with self.call:
            return await anext(upstream, None)

    def _ended(self, reason: Reason) -> None:
        """Close a stream whose reader may not ask for its next piece soon, or ever."""
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
        trial.transcript.add(chunk)
        if chunk.type != "done" or chunk.response is None:
            return chunk
        await self.account.settle(trial, None, OK, chunk.response)
        return replace(chunk, response=routed(chunk.response, self.account.receipt(trial.candidate)))

    async def _broken(self, trial: Trial, error: LLMError) -> StreamInterrupted:
        """The error for a stream that broke after first content, with the partial answer."""
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
        await self.account.settle(trial, interrupted, kind.__name__, interrupted.partial)
        self.account.failed(interrupted, trial.candidate)
        return interrupted

    # Attempts

    async def _next(self) -> Trial | None:
        """The next attempt, already reserved; None if no candidate or no time is left.

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
        trial = Trial(
            candidate=candidate,
            row=row,
            entry=self.account.entry(candidate),
            number=number,
            limit_s=remaining_s * FIRST_SHARE if self.queue else remaining_s,
        )
        await self.account.reserve(trial)
        return trial

    async def _row(self, candidate: Candidate) -> Row | None:
        """The candidate's key, which the call depends on from now on; None if it was disabled meanwhile."""
        key = candidate.key
        row = self.renewed.get(key.ref) or self.loaded.rows[key.ref]
        right = self.call.right = self.loaded.right(key, self.call.right.token_id)
        gone = self.call.reason
        late = self.loop.time() - self.looked_at >= LOOK_AGAIN_S
        if gone is None and late and not snapshot_cache.is_current(self.loaded):
            lost = await sync_to_async(access.lost)([right])
            if (gone := lost.get(right)) in (None, "key"):
                now = None if gone else await sync_to_async(snapshot_cache.row_now)(row)
                self.looked_at = self.loop.time()
                return now
        if gone is not None:
            raise self.account.failed(AccessWithdrawn(WORDS[gone], what=gone, provider=key.provider), None)
        return row

    async def _open(self, trial: Trial) -> LLMClient:
        client = await self.opener(trial.row, trial.candidate.model)
        trial.opened = True
        return client

    async def _lost(self, trial: Trial, error: LLMError) -> None:
        """Record a failure and prepare the next attempt. Raises if the failover table allows none."""
        await self.account.settle(trial, error, type(error).__name__, None)
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
            raise self.account.failed(error, candidate)

    async def _was_replaced(self, trial: Trial) -> bool:
        """Whether the rejected key was replaced since the snapshot was read."""
        now = await sync_to_async(snapshot_cache.row_now)(trial.row)
        if now is None or now.version == trial.row.version or now.fingerprint == trial.row.fingerprint:
            return False
        self.renewed[trial.candidate.key.ref] = now
        return True

    def _nobody(self) -> LLMError:
        """The error of a call that no candidate answered."""
        candidate, error = self.first or (None, no_candidate(self.route))
        return self.account.failed(error, candidate)

    def _remaining(self) -> float:
        return self.deadline - self.loop.time()


async def _close(upstream: AsyncGenerator[Any, None] | None) -> None:
    if upstream is not None:
        await upstream.aclose()
