"""One attempt of a call: its running state, its token usage, and the errors it can end with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

from django.urls import NoReverseMatch, reverse
from django.utils.translation import gettext as _

from llm_credentials.ledger import estimate
from llm_credentials.ledger.entries import Entry, Reservation, State
from llm_credentials.live.access import WORDS
from llm_credentials.live.calls import Ended
from llm_credentials.models import UsageRecord
from llm_credentials.providers import (
    AccessWithdrawn,
    CredentialUnreadable,
    DeadlineExceeded,
    Embeddings,
    LLMError,
    LLMMessage,
    LLMResponse,
    NotConfigured,
    ProviderUnavailable,
    RateLimited,
    TextPart,
    Usage,
)
from llm_credentials.providers.passing import PassedAnswer
from llm_credentials.routing.receipt import Attempt
from llm_credentials.routing.rules import perhaps_charged
from llm_credentials.routing.snapshot import Row
from llm_credentials.routing.transcript import Transcript
from llm_credentials.routing.values import Candidate, Dropped, Route


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
class Trial:
    """One running attempt, on the event loop of its call."""

    candidate: Candidate
    row: Row
    entry: Entry
    number: int
    limit_s: float
    started: float = field(default_factory=lambda: asyncio.get_running_loop().time())
    """Loop time."""
    reservation: Reservation | None = None
    ttft_ms: int | None = None
    transcript: Transcript = field(default_factory=Transcript)
    opened: bool = False
    closed: bool = False

    def age_ms(self) -> int:
        return round((asyncio.get_running_loop().time() - self.started) * 1000)


@dataclass(frozen=True, slots=True)
class Size:
    """The expected size of a call in tokens; computed only when needed."""

    prompt_tokens: Callable[[], int]
    answer_tokens: Callable[[Candidate], int]
    """The most that this candidate may produce."""


def counted_of(
    trial: Trial, error: LLMError | None, answer: object, size: Size | None
) -> tuple[UsageRecord.State, Usage]:
    """The usage, estimated where the provider reported none, and how reliable it is."""
    match answer:
        case LLMResponse():
            usage = answer.usage
        case Embeddings():
            usage = replace(answer.usage, output_tokens=answer.usage.output_tokens or 0)
        case _:
            usage = Usage()
    if not trial.opened or (error is not None and not perhaps_charged(error)):
        return State.VOID, usage
    if usage.input_tokens is not None and usage.output_tokens is not None:
        return State.SETTLED, usage
    if usage.input_tokens is None:
        usage = replace(usage, input_tokens=size.prompt_tokens() if size else 0)
    if usage.output_tokens is None:
        said = estimate.answer_tokens(answer) if isinstance(answer, LLMResponse) else 0
        if isinstance(answer, PassedAnswer):
            said = max(said, estimate.text_tokens(answer.said))
        usage = replace(usage, output_tokens=max(said, trial.transcript.tokens))
    return State.ESTIMATED, usage


def ours(error: LLMError | TimeoutError | Ended, trial: Trial) -> LLMError:
    if isinstance(error, Ended):
        return AccessWithdrawn(
            WORDS[error.reason],
            what=error.reason,
            provider=trial.candidate.key.provider,
            partial=partial_of(trial),
        )
    return error if isinstance(error, LLMError) else DeadlineExceeded(provider=trial.candidate.key.provider)


def partial_of(trial: Trial) -> LLMResponse:
    return LLMResponse(
        message=LLMMessage(role="assistant", parts=(TextPart(text=trial.transcript.text),)),
        finish_reason="other",
        usage=Usage(),
        provider=trial.candidate.key.provider,
        model=trial.candidate.model,
    )


def unopened(route: Route) -> list[Attempt]:
    """The user's keys that would have been tried first if they could be decrypted."""
    first = route.chosen.position if route.chosen else len(route.dropped)
    return [
        Attempt(
            provider=dropped.key.provider,
            model=dropped.model,
            credential_id=dropped.key.id,
            key_owner=dropped.key.owner,
            outcome=CredentialUnreadable.__name__,
            latency_ms=0,
        )
        for dropped in route.dropped
        if dropped.why == "unreadable" and dropped.key.owner == "user" and dropped.position < first
    ]


def no_candidate(route: Route) -> LLMError:
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
    """The page on which users fix their keys."""
    try:
        return reverse("llm_credentials:provider-list")
    except NoReverseMatch:
        return "/settings/llm/"


def reason_of(candidate: Candidate | None, dropped: tuple[Dropped, ...]) -> str:
    if candidate is None:
        return ""
    passed_over = [f"{each.key.title}: {each.words}" for each in dropped if each.position < candidate.position]
    return " ".join([f"{candidate.key.title}: {candidate.reason}.", *passed_over[:6]])
