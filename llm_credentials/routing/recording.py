"""Records the outcome of an attempt: ledger, key status, destination health.

A recording that has started is completed even if the caller is cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any

import structlog

from llm_credentials.ledger import writer
from llm_credentials.ledger.entries import Outcome, Settlement
from llm_credentials.providers import DeadlineExceeded, LLMError
from llm_credentials.routing import health
from llm_credentials.routing.receipt import OK
from llm_credentials.routing.rules import BLAMED_FROM_S, rule
from llm_credentials.routing.trials import Trial
from llm_credentials.wall import acting_for

log = structlog.get_logger(__name__)

_writing: set[asyncio.Task[None]] = set()


async def to_the_end(work: Awaitable[None]) -> None:
    """Await it; it completes even if this task is cancelled."""

    async def whole() -> None:
        await work

    task = asyncio.get_running_loop().create_task(whole())
    _writing.add(task)
    task.add_done_callback(_writing.discard)
    await asyncio.shield(task)


async def settled(settlement: Settlement) -> None:
    if settlement.reservation is None and settlement.key is None:
        return
    if writer.inline:
        await to_the_end(writer.settle(settlement))
    else:
        await writer.settle(settlement)


def take(steps: Sequence[tuple[str, Callable[[], Any]]], trial: Trial) -> None:
    """Run every step, even if another one fails."""
    for name, step in steps:
        try:
            with acting_for(trial.entry.user_id):
                step()
        except Exception as problem:
            log.error("llm_attempt_not_recorded", part=name, attempt=str(trial.entry.id), error=type(problem).__name__)


def tell(trial: Trial, error: LLMError, ended: Outcome) -> None:
    """Log a failed attempt, with the request id wherever the request began."""
    log.info(
        "llm_attempt_failed",
        attempt=str(trial.entry.id),
        provider=trial.candidate.key.provider,
        task=trial.entry.task,
        outcome=ended.outcome,
        status_code=error.status_code,
        provider_request_id=error.request_id,
        latency_ms=ended.latency_ms,
    )


def health_news(trial: Trial, error: LLMError | None, ended: Outcome) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The steps that update the destination's breaker and the key's cooldown."""
    key = trial.candidate.key
    lives = ended.outcome == OK or (error is not None and error.status_code is not None and error.status_code < 500)
    if lives and health.has_failed(key.destination):
        yield "health", partial(health.succeeded, key.destination)
    if error is None:
        return
    match rule(error).health:
        case "cooldown":
            yield "health", partial(health.rest, key.ref, error.retry_after_s)
        case "breaker" if not isinstance(error, DeadlineExceeded) or ended.latency_ms >= BLAMED_FROM_S * 1000:
            yield "health", partial(health.failed, key.destination)
        case _:
            pass
