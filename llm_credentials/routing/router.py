"""Tries a route: one candidate after the other, by one table, within one deadline.

Before the first content of an answer a failure is invisible; after it there is never another candidate: the answer is
marked incomplete and its beginning handed over.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, TypeVar
from uuid import UUID

import structlog
from asgiref.sync import sync_to_async
from django.urls import NoReverseMatch, reverse
from django.utils.translation import gettext as _

from llm_credentials import metrics
from llm_credentials.audit.context import token_id
from llm_credentials.ids import new_id
from llm_credentials.ledger import estimate, prices, writer
from llm_credentials.ledger.budgets import Limits
from llm_credentials.ledger.entries import Entry, Outcome, Reservation, Settlement, State, reservation
from llm_credentials.ledger.prices import Price
from llm_credentials.live import access
from llm_credentials.live.access import WORDS, Reason, Right
from llm_credentials.live.calls import Call, Ended, under_way
from llm_credentials.models import UsageRecord
from llm_credentials.providers import (
    AccessWithdrawn,
    AuthenticationFailed,
    BadProviderResponse,
    BudgetExceeded,
    ConnectionFailed,
    ContextLengthExceeded,
    CredentialUnreadable,
    DeadlineExceeded,
    EgressBlocked,
    Embeddings,
    LLMClient,
    LLMError,
    LLMMessage,
    LLMResponse,
    ModelNotFound,
    NotConfigured,
    PermissionDenied,
    ProviderSpec,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
    SiteUnavailable,
    StreamInterrupted,
    TextPart,
    UnsupportedContent,
    Usage,
)
from llm_credentials.providers.messages import widened
from llm_credentials.routing import health, kept, marks
from llm_credentials.routing.heard import Heard
from llm_credentials.routing.purse import Purse
from llm_credentials.routing.receipt import CANCELLED, OK, Attempt, Receipt, RoutedResponse, left_behind
from llm_credentials.routing.snapshot import Loaded, Row
from llm_credentials.routing.values import Candidate, Dropped, Route
from llm_credentials.wall import acting_for

log = structlog.get_logger(__name__)

T = TypeVar("T")
P = TypeVar("P", bound="Piece")

Opener: TypeAlias = Callable[[Row, str], Awaitable[LLMClient]]
Again: TypeAlias = Literal["never", "once", "if soon"]

RETRY_AFTER_S = (0.05, 0.15)
"""The pause before the same candidate is asked again, drawn between the two."""
SOON_S = 2.0
FIRST_SHARE = 0.5
"""The part of the remaining time that a candidate gets before the next one is asked instead."""
FIRST_CONTENT_S = 30.0
"""At most so long a stream may stay without content while others could be asked."""
LOOK_AGAIN_S = 0.25
"""Before an attempt that comes later than this, a snapshot is used only if it is known to hold still."""
BLAMED_FROM_S = 10.0
"""A destination is blamed for a missed deadline only if it had at least this long."""


@dataclass(frozen=True, slots=True)
class Rule:
    again: Again
    next: bool
    health: Literal["breaker", "cooldown"] | None = None


STOP = Rule("never", next=False)
RULES: Mapping[type[LLMError], Rule] = {
    LLMError: STOP,
    ProviderUnavailable: Rule("once", next=True, health="breaker"),
    ConnectionFailed: Rule("once", next=True, health="breaker"),
    DeadlineExceeded: Rule("never", next=True, health="breaker"),
    BadProviderResponse: Rule("once", next=True, health="breaker"),
    RateLimited: Rule("if soon", next=True, health="cooldown"),
    QuotaExhausted: Rule("never", next=True),
    AuthenticationFailed: Rule("never", next=True),
    CredentialUnreadable: Rule("never", next=True),
    PermissionDenied: Rule("never", next=True),
    ModelNotFound: Rule("never", next=True),
    UnsupportedContent: Rule("never", next=True),
    ContextLengthExceeded: Rule("never", next=True),
}
NEVER_SENT = (CredentialUnreadable, EgressBlocked)
PERHAPS_CHARGED = (DeadlineExceeded, BadProviderResponse, StreamInterrupted)
"""The provider may have worked, and may bill it, though no proper answer came."""


def rule(error: LLMError) -> Rule:
    return next(RULES[cls] for cls in type(error).__mro__ if cls in RULES)


class Piece(Protocol):
    """A piece of a streamed answer; a dataclass, such as LLMStreamChunk."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def type(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def has_content(self) -> bool: ...
    @property
    def is_only_counted(self) -> bool: ...
    @property
    def response(self) -> LLMResponse | None:
        """The whole answer, in the piece that is ``done``."""


@dataclass(slots=True)
class _Trial:
    """One attempt while it is under way. Times are loop time."""

    candidate: Candidate
    row: Row
    entry: Entry
    number: int
    started: float
    limit_s: float
    reservation: Reservation | None = None
    ttft_ms: int | None = None
    heard: Heard = field(default_factory=Heard)
    opened: bool = False
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Size:
    """What a call may come to, in tokens; asked only when needed."""

    prompt_tokens: Callable[[], int]
    answer_tokens: Callable[[Candidate], int]
    """At most, with this candidate."""


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
        self.attempts = self._unopened()
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
        self.flowing: tuple[_Trial, AsyncGenerator[Any, None]] | None = None
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
                    await self._lost(trial, _ours(error, trial))
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
                raise await self._broken(trial, _ours(error, trial)) from None
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
            reason=_reason(candidate, self.route.dropped),
            estimated=self.estimated,
        )

    # Streams

    async def _begun(
        self, call: Callable[[LLMClient, Candidate, float], AsyncGenerator[P, None]]
    ) -> tuple[_Trial, AsyncGenerator[P, None], list[P]]:
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
                await self._lost(trial, _ours(error, trial))
            except BaseException as error:
                await _close(upstream)
                await self._left(trial, error)
                raise
        raise self._nobody()

    async def _gate(self, upstream: AsyncGenerator[P, None], trial: _Trial) -> list[P]:
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

    async def _close_down(self, trial: _Trial, upstream: AsyncGenerator[Any, None], reason: Reason) -> None:
        await _close(upstream)
        await self._broken(trial, _ours(Ended(reason), trial))

    async def _shut(self, upstream: AsyncGenerator[P, None]) -> None:
        self.flowing = None
        if self.closing is not None:
            await asyncio.wait([self.closing])
        await _close(upstream)

    async def _passed(self, chunk: P, trial: _Trial) -> P:
        trial.heard.add(chunk)
        if chunk.type != "done" or chunk.response is None:
            return chunk
        await self._won(trial, chunk.response)
        return replace(chunk, response=routed(chunk.response, self.receipt(trial.candidate)))

    async def _broken(self, trial: _Trial, error: LLMError) -> StreamInterrupted:
        """The error of a stream that broke after its first content, with what had come."""
        partial = error.partial if isinstance(error, StreamInterrupted) else None
        kind, words = (type(error), str(error)) if isinstance(error, AccessWithdrawn) else (StreamInterrupted, "")
        interrupted = kind(
            words,
            partial=partial or _partial(trial),
            provider=trial.candidate.key.provider,
            status_code=error.status_code,
            request_id=error.request_id,
            code=error.code,
        )
        await self._book(trial, interrupted, kind.__name__, interrupted.partial)
        self._failed(interrupted, trial.candidate)
        return interrupted

    # Turns

    async def _next(self) -> _Trial | None:
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
        trial = _Trial(
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

    async def _reserve(self, trial: _Trial, size: Size) -> None:
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

    def _spec(self, trial: _Trial) -> ProviderSpec:
        return self.loaded.snapshot.specs[trial.candidate.key.provider]

    async def _open(self, trial: _Trial) -> LLMClient:
        client = await self.opener(trial.row, trial.candidate.model)
        trial.opened = True
        return client

    async def _lost(self, trial: _Trial, error: LLMError) -> None:
        """Book a failure and get ready for the next turn. Raises when the table says that there is none."""
        await self._book(trial, error, type(error).__name__, None)
        candidate = trial.candidate
        if self.first is None or self.first[0] is candidate:
            self.first = (candidate, error)
        if isinstance(error, AuthenticationFailed) and trial.number == 1 and await self._was_replaced(trial):
            self.again = candidate
            return
        verdict = rule(error)
        pause_s = _pause_s(verdict, error) if trial.number == 1 else None
        if pause_s is not None and pause_s < self._remaining():
            self.again = candidate
            await asyncio.sleep(pause_s)
        elif verdict.next:
            self.queue = [other for other in self.queue if _can(other, candidate, error)]
            if self.queue:
                metrics.failed_over(candidate.key.provider)
        else:
            raise self._failed(error, candidate)

    async def _was_replaced(self, trial: _Trial) -> bool:
        """Whether the refused key has a successor that this call has not heard of yet."""
        now = await sync_to_async(kept.row_now)(trial.row)
        if now is None or now.version == trial.row.version or now.fingerprint == trial.row.fingerprint:
            return False
        self.renewed[trial.candidate.key.ref] = now
        return True

    def _nobody(self) -> LLMError:
        """The error of a call that nobody answered."""
        candidate, error = self.first or (None, _no_candidate(self.route))
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

    async def _won(self, trial: _Trial, answer: object) -> None:
        await self._book(trial, None, OK, answer)

    async def _left(self, trial: _Trial, error: BaseException) -> None:
        """The caller went away, or something broke that is no failure of the provider."""
        leaving = isinstance(error, asyncio.CancelledError | GeneratorExit)
        counted = await self._book(trial, None, CANCELLED if leaving else type(error).__name__, None)
        if counted is not None and (answers := left_behind.get()) is not None:
            partial_answer = replace(_partial(trial), usage=counted)
            answers.append(routed(partial_answer, self.receipt(trial.candidate)))

    async def _book(self, trial: _Trial, error: LLMError | None, outcome: str, answer: object) -> Usage | None:
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
        state, counted = self._counted(trial, error, answer)
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
        sent = trial.opened and not _stayed_here(error)
        settlement = Settlement(
            outcome=ended, reservation=trial.reservation, key=marks.key_of(trial.row) if sent else None
        )
        await _settled(settlement)
        verdict = marks.verdict(trial.row, error, answered=outcome == OK or trial.ttft_ms is not None)
        steps = list(_health_news(trial, error, ended))
        if verdict is not None:
            steps.append(("marks", partial(marks.note, trial.row, verdict)))
        if steps:
            await _to_the_end(sync_to_async(_take)(steps, trial))
        return None if state == State.VOID else counted

    def _counted(self, trial: _Trial, error: LLMError | None, answer: object) -> tuple[UsageRecord.State, Usage]:
        """The usage, made up for where the provider did not say, and how far it can be trusted."""
        match answer:
            case LLMResponse():
                usage = answer.usage
            case Embeddings():
                usage = replace(answer.usage, output_tokens=answer.usage.output_tokens or 0)
            case _:
                usage = Usage()
        if not trial.opened or (error is not None and not isinstance(error, PERHAPS_CHARGED)):
            return State.VOID, usage
        if usage.input_tokens is not None and usage.output_tokens is not None:
            return State.SETTLED, usage
        if usage.input_tokens is None:
            usage = replace(usage, input_tokens=self._prompt_tokens())
        if usage.output_tokens is None:
            said = estimate.answer_tokens(answer) if isinstance(answer, LLMResponse) else 0
            usage = replace(usage, output_tokens=max(said, trial.heard.tokens))
        return State.ESTIMATED, usage

    def _prompt_tokens(self) -> int:
        return self.size.prompt_tokens() if self.size else 0

    def _unopened(self) -> list[Attempt]:
        """The user's keys that would have been tried first, had they been readable."""
        first = self.route.chosen.position if self.route.chosen else len(self.route.dropped)
        return [
            Attempt(
                provider=dropped.key.provider,
                model=dropped.model,
                credential_id=dropped.key.id,
                key_owner=dropped.key.owner,
                outcome=CredentialUnreadable.__name__,
                latency_ms=0,
            )
            for dropped in self.route.dropped
            if dropped.why == "unreadable" and dropped.key.owner == "user" and dropped.position < first
        ]


def routed(response: LLMResponse, receipt: Receipt) -> RoutedResponse:
    return widened(response, RoutedResponse, receipt=receipt)


def _ours(error: LLMError | TimeoutError | Ended, trial: _Trial) -> LLMError:
    if isinstance(error, Ended):
        return AccessWithdrawn(
            WORDS[error.reason],
            what=error.reason,
            provider=trial.candidate.key.provider,
            partial=_partial(trial),
        )
    return error if isinstance(error, LLMError) else DeadlineExceeded(provider=trial.candidate.key.provider)


def _pause_s(verdict: Rule, error: LLMError) -> float | None:
    """How long to wait before asking the same candidate again; None: do not."""
    match verdict.again:
        case "once":
            return random.uniform(*RETRY_AFTER_S)  # noqa: S311 (spreads retries; no secret)
        case "if soon" if error.retry_after_s is not None and error.retry_after_s <= SOON_S:
            return max(error.retry_after_s, 0.0)
        case _:
            return None


def _can(other: Candidate, failed: Candidate, error: LLMError) -> bool:
    """Whether another candidate may do better at what this one could not do at all."""
    if not isinstance(error, ModelNotFound | UnsupportedContent | ContextLengthExceeded):
        return True
    if (other.key.destination, other.model) == (failed.key.destination, failed.model):
        # Another key may be let to a model that this one does not see; no key makes a model read more.
        return isinstance(error, ModelNotFound) and other.key.ref != failed.key.ref
    if not isinstance(error, ContextLengthExceeded):
        return True
    window = other.facts.context_window if other.facts else None
    too_small = failed.facts.context_window if failed.facts else None
    return window is None or too_small is None or window > too_small


def _no_candidate(route: Route) -> LLMError:
    """Why there was nothing to try; says what to do and where."""
    resting = [dropped for dropped in route.dropped if dropped.retry_after_s is not None]
    if resting:
        first = min(resting, key=lambda dropped: dropped.retry_after_s or 0.0)
        kind = RateLimited if first.why == "cooling_down" else ProviderUnavailable
        return kind(first.words, provider=first.key.provider, retry_after_s=first.retry_after_s)
    left_out = " ".join(f"{dropped.key.title}: {dropped.words}" for dropped in route.dropped[:6])
    advice = _("No usable key. Add or mend one on the providers page of your settings: %(settings_url)s") % {
        "settings_url": settings_url()
    }
    return NotConfigured(" ".join(filter(None, (route.problem, left_out, advice))))


def settings_url() -> str:
    """The page on which users mend their keys."""
    try:
        return reverse("llm_credentials:provider-list")
    except NoReverseMatch:
        return "/settings/llm/"


def _reason(candidate: Candidate | None, dropped: tuple[Dropped, ...]) -> str:
    if candidate is None:
        return ""
    passed_over = [f"{each.key.title}: {each.words}" for each in dropped if each.position < candidate.position]
    return " ".join([f"{candidate.key.title}: {candidate.reason}.", *passed_over[:6]])


def _partial(trial: _Trial) -> LLMResponse:
    return LLMResponse(
        message=LLMMessage(role="assistant", parts=(TextPart(text=trial.heard.text),)),
        finish_reason="other",
        usage=Usage(),
        provider=trial.candidate.key.provider,
        model=trial.candidate.model,
    )


async def _close(upstream: AsyncGenerator[Any, None] | None) -> None:
    if upstream is not None:
        await upstream.aclose()


_writing: set[asyncio.Task[None]] = set()


async def _to_the_end(work: Awaitable[None]) -> None:
    """Await it; if this task is cancelled meanwhile, it goes on all the same."""

    async def whole() -> None:
        await work

    task = asyncio.get_running_loop().create_task(whole())
    _writing.add(task)
    task.add_done_callback(_writing.discard)
    await asyncio.shield(task)


async def _settled(settlement: Settlement) -> None:
    if settlement.reservation is None and settlement.key is None:
        return
    if writer.inline:
        await _to_the_end(writer.settle(settlement))
    else:
        await writer.settle(settlement)


def _take(steps: Sequence[tuple[str, Callable[[], Any]]], trial: _Trial) -> None:
    """Each of them, whatever becomes of the others."""
    for name, step in steps:
        try:
            with acting_for(trial.entry.user_id):
                step()
        except Exception as problem:
            log.error("llm_attempt_not_recorded", part=name, attempt=str(trial.entry.id), error=type(problem).__name__)


def _stayed_here(error: LLMError | None) -> bool:
    """Whether the request was refused before it left."""
    return isinstance(error, NEVER_SENT) or (isinstance(error, RequestRejected) and error.status_code is None)


def _health_news(trial: _Trial, error: LLMError | None, ended: Outcome) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What others should know of the destination and the key."""
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
