"""The account of one call: reserves the worst-case cost before each attempt, settles it after, builds the receipt."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal
from functools import partial

from asgiref.sync import sync_to_async

from llm_credentials import metrics
from llm_credentials.ids import new_id
from llm_credentials.ledger import prices, writer
from llm_credentials.ledger.budgets import Limits
from llm_credentials.ledger.entries import Entry, Outcome, Settlement, State, reservation
from llm_credentials.ledger.prices import Price
from llm_credentials.providers import (
    BudgetExceeded,
    LLMError,
    LLMResponse,
    ProviderSpec,
    RequestRejected,
    SiteUnavailable,
    Usage,
)
from llm_credentials.providers.messages import widened
from llm_credentials.routing import key_status
from llm_credentials.routing.receipt import CANCELLED, OK, Attempt, Receipt, RoutedResponse, left_behind
from llm_credentials.routing.recording import health_news, settled, take, tell, to_the_end
from llm_credentials.routing.rules import stayed_here
from llm_credentials.routing.run_budget import RunBudget
from llm_credentials.routing.snapshot import Loaded
from llm_credentials.routing.trials import Size, Trial, counted_of, partial_of, reason_of, unopened
from llm_credentials.routing.values import Candidate, Route


class CallAccount:
    """The account of one call. A call without a ``size`` is free and not in the ledger."""

    def __init__(
        self,
        *,
        loaded: Loaded,
        route: Route,
        task: str,
        size: Size | None,
        limits: Limits,
        run_budget: RunBudget | None,
    ) -> None:
        self.loaded = loaded
        self.route = route
        self.task = task
        self.size = size
        self.limits = limits
        self.run_budget = run_budget
        self.call_id = new_id()
        self.attempts = unopened(route) if route.dropped else []
        self.prices: list[Price] = []
        """Of the attempts that may have been charged."""
        self.estimated = False
        """Whether any usage is our own estimate."""
        metrics.call_began(task)

    def entry(self, candidate: Candidate) -> Entry:
        key = candidate.key
        return Entry(
            call_id=self.call_id,
            user_id=self.loaded.user_id,
            task=self.task,
            provider=key.provider,
            model=candidate.model,
            credential_id=key.id,
            key_owner=key.owner,
            token_id=self.limits.token_id,
        )

    def receipt(self, candidate: Candidate | None) -> Receipt:
        known = [price.usd for price in self.prices if price.usd is not None]
        return Receipt(
            attempts=list(self.attempts),
            cost_usd=sum(known, Decimal(0)) if known and len(known) == len(self.prices) else None,
            price_source=self.prices[-1].source or None if self.prices else None,
            reason=reason_of(candidate, self.route.dropped),
            estimated=self.estimated,
        )

    def failed(self, error: LLMError, candidate: Candidate | None) -> LLMError:
        """Returns the call's own error, with its receipt."""
        error.receipt = self.receipt(candidate)
        metrics.call_failed(self.task, error)
        return error

    async def reserve(self, trial: Trial) -> None:
        """Reserve the worst-case cost in the ledger before the request is sent.

        Raises BudgetExceeded, RequestRejected, SiteUnavailable.
        """
        if self.size is None:
            return
        prompt_tokens, answer_tokens = self.size.prompt_tokens(), self.size.answer_tokens(trial.candidate)
        worst = prices.worst(self._spec(trial), trial.candidate.model, prompt_tokens, answer_tokens, trial.entry.at)
        trial.reservation = reservation(trial.entry, self.limits, worst, prompt_tokens)
        try:
            if self.run_budget is not None:
                self.run_budget.hold(trial.entry.id, worst.usd)
            await writer.reserve(trial.reservation)
        except (BudgetExceeded, RequestRejected, SiteUnavailable) as error:
            if self.run_budget is not None:
                self.run_budget.settle(trial.entry.id, None)
            error.provider = trial.candidate.key.provider
            self.failed(error, trial.candidate)
            raise

    async def settle(self, trial: Trial, error: LLMError | None, outcome: str, answer: object) -> Usage | None:
        """Record the attempt exactly once, even while the caller is being cancelled. Never fails the call.

        Returns the usage that was recorded; None if nothing was used or the attempt was already recorded.
        """
        if trial.closed:
            return None
        trial.closed = True
        state, counted = counted_of(trial, error, answer, self.size)
        price = prices.cost(self._spec(trial), trial.candidate.model, counted, trial.entry.at)
        ended = Outcome(
            state=state,
            outcome=outcome,
            latency_ms=trial.age_ms(),
            ttft_ms=trial.ttft_ms,
            usage=counted,
            price=price,
        )
        self._add(trial, ended)
        metrics.attempt_ended(trial.entry, ended)
        if error is not None:
            tell(trial, error, ended)
        sent = trial.opened and not stayed_here(error)
        await settled(
            Settlement(outcome=ended, reservation=trial.reservation, key=key_status.key_of(trial.row) if sent else None)
        )
        await self._report(trial, error, ended)
        return None if state == State.VOID else counted

    def _add(self, trial: Trial, ended: Outcome) -> None:
        key = trial.candidate.key
        self.attempts.append(
            Attempt(
                provider=key.provider,
                model=trial.candidate.model,
                credential_id=key.id,
                key_owner=key.owner,
                outcome=ended.outcome,
                latency_ms=ended.latency_ms,
            )
        )
        charged = ended.state != State.VOID
        if charged:
            self.prices.append(ended.price)
        if self.run_budget is not None:
            self.run_budget.settle(trial.entry.id, ended.price.usd if charged else None)
        self.estimated = self.estimated or ended.state == State.ESTIMATED

    async def _report(self, trial: Trial, error: LLMError | None, ended: Outcome) -> None:
        """Update the health of the destination and the status of the key."""
        verdict = key_status.verdict(trial.row, error, answered=ended.outcome == OK or trial.ttft_ms is not None)
        steps = list(health_news(trial, error, ended))
        if verdict is not None:
            steps.append(("marks", partial(key_status.note, trial.row, verdict)))
        if steps:
            await to_the_end(sync_to_async(take)(steps, trial))

    async def abandon(self, trial: Trial, error: BaseException) -> None:
        """Record an attempt whose caller left, or that failed because of a bug of ours."""
        leaving = isinstance(error, asyncio.CancelledError | GeneratorExit)
        counted = await self.settle(trial, None, CANCELLED if leaving else type(error).__name__, None)
        if counted is not None and (answers := left_behind.get()) is not None:
            answers.append(routed(replace(partial_of(trial), usage=counted), self.receipt(trial.candidate)))

    def _spec(self, trial: Trial) -> ProviderSpec:
        return self.loaded.snapshot.specs[trial.candidate.key.provider]


def routed(response: LLMResponse, receipt: Receipt) -> RoutedResponse:
    return widened(response, RoutedResponse, receipt=receipt)
