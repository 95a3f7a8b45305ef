"""The values of routing: keys, preferences, requests, candidates and routes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, Literal, TypeAlias
from uuid import UUID

from llm_credentials.providers.spec import ModelFacts, ProviderSpec
from llm_credentials.routing.kinds import Weight
from llm_credentials.routing.policy import EVERYTHING, Policy
from llm_credentials.routing.receipt import KeyOwner

Step: TypeAlias = Literal[
    "named", "override", "default", "own", "system_same", "system_choice", "system", "system_default"
]
Why: TypeAlias = Literal[
    "inactive",
    "unknown_provider",
    "unreadable",
    "no_key",
    "no_address",
    "no_model",
    "unable",
    "cooling_down",
    "destination_down",
    "no_consent",
    "not_allowed",
    "unpriced",
    "no_fallback",
    "supposed",
]


SITE: Final = "system"
"""Names all of the site's keys at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """What routing knows about a credential; contains no secret, not even encrypted."""

    ref: str
    """Unique: ``user:<uuid>``, ``system:<uuid>`` or ``environment:<provider>``."""
    id: UUID | None
    owner: KeyOwner
    provider: str
    label: str = ""
    """The provider's display name."""
    name: str = "default"
    model: str = ""
    base_url: str = ""
    is_active: bool = True
    readable: bool = True
    has_key: bool = True
    priority: int = 100
    created_at: float = 0.0
    """Seconds since the epoch."""
    version: int = 1
    from_environment: bool = False

    @property
    def order(self) -> tuple[bool, int, float, str]:
        return (self.from_environment, self.priority, self.created_at, self.ref)

    @property
    def title(self) -> str:
        """Such as ``OpenAI``, ``OpenAI · work`` or ``OpenAI (site)``."""
        name = "" if self.name == "default" or self.from_environment else f" · {self.name}"
        return f"{self.label or self.provider}{name}{' (site)' if self.owner == 'system' else ''}"

    @property
    def destination(self) -> str:
        return f"to:{self.provider}|{self.base_url}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Preferences:
    default_provider: str = ""
    fallback_to_system: bool = True
    temperature: float | None = None
    max_tokens: int | None = None
    strategy: str = "priority"


@dataclass(frozen=True, kw_only=True, slots=True)
class Override:
    """A user's choice for one task; empty and ``None`` mean "not overridden"."""

    credential: UUID | None = None
    provider: str = ""
    model: str = ""
    temperature: float | None = None
    max_tokens: int | None = None
    fallback_to_system: bool | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SystemChoice:
    """What staff chose for completions or embeddings on the site's keys."""

    credential: UUID | None = None
    provider: str = ""
    model: str = ""
    temperature: float | None = None
    max_tokens: int | None = None

    def names(self, key: Key) -> bool:
        return key.id == self.credential if self.credential else bool(self.provider) and key.provider == self.provider


def _no_price(spec: ProviderSpec, model: str) -> Decimal | None:
    return None


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Everything that a route depends on, except cooldowns and breakers."""

    specs: Mapping[str, ProviderSpec]
    user_active: bool = True
    preferences: Preferences = Preferences()
    keys: tuple[Key, ...] = ()
    """The user's own, including inactive ones."""
    system_keys: tuple[Key, ...] = ()
    overrides: Mapping[str, Override] = field(default_factory=dict)
    completions: SystemChoice = SystemChoice()
    embeddings: SystemChoice = SystemChoice()
    default_provider: str = ""
    """The site's (``LLM_DEFAULT_PROVIDER``): its system key comes last."""
    policy: Policy = EVERYTHING
    """What staff allow this user."""
    system_unpriced: bool = True
    """Whether staff allow calls on the site's keys to models with an unknown price."""
    price: Callable[[ProviderSpec, str], Decimal | None] = _no_price
    """A model's price in USD per million tokens; ``None``: unknown."""
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    """``Key.ref`` → this user's recent latency."""

    def refs(self, named: str) -> frozenset[str]:
        """The refs that match a ``Key.ref``, ``system``, a provider, or ``provider:name`` of a user's key."""
        provider, _, name = named.partition(":")
        own = {key.ref for key in self.keys if key.provider == provider and name in ("", key.name)}
        site = {key.ref for key in self.system_keys if named == SITE}
        return frozenset({key.ref for key in (*self.keys, *self.system_keys) if key.ref == named} | own | site)


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    task: str | None = None
    provider: str | None = None
    model: str | None = None
    credential: UUID | None = None
    needs: frozenset[str] = frozenset()
    fallback: bool = True
    """Whether to try keys beyond those that the call names or, if it names none, the override or default provider."""
    weight: Weight = "normal"
    providers: frozenset[str] | None = None
    """Slugs that the caller's access token allows; ``None``: all."""
    turn: int = 0
    """A per-process counter of calls, for rotating among a provider's keys."""
    without: frozenset[str] = frozenset()
    """``Key.ref`` of keys to treat as failed, to explain what would happen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    key: Key
    model: str
    step: Step
    reason: str = ""
    """Why it is in the chain, in words."""
    temperature: float | None = None
    """From the override, the user or staff; ``None``: the caller's default."""
    max_tokens: int | None = None
    facts: ModelFacts | None = None
    """The catalogue's facts about the model."""
    position: int = 0
    """Its place in the order, counting what was dropped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dropped:
    key: Key
    model: str
    step: Step
    why: Why
    words: str
    retry_after_s: float | None = None
    """For a candidate that is only cooling down."""
    position: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """The candidates in order. If there are none, ``problem`` and ``dropped`` say why."""

    candidates: tuple[Candidate, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    problem: str = ""

    @property
    def chosen(self) -> Candidate | None:
        return self.candidates[0] if self.candidates else None
