"""Chooses which keys and models a call may use, and in which order. Pure: a snapshot and a request in, a route out.

The order is: what the call names, the user's override for the task, their default provider, their other keys. Then, if
both user and staff allow it, the site's keys: first those of the same provider, then the one that staff chose, the
others, and last those of the default provider. A candidate is a key with a model; a model name is passed on to another
key only if it means the same model there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeVar, get_args
from uuid import UUID

from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from llm_credentials.providers.spec import Cost, ModelFacts, ProviderSpec, Speed
from llm_credentials.routing.faults import Faults, facts_of, lacking
from llm_credentials.routing.values import (
    Candidate,
    Dropped,
    Key,
    Override,
    Preferences,
    Request,
    Route,
    Snapshot,
    Step,
    SystemChoice,
)

TEMPERATURE = 0.3
MAX_TOKENS = 2000

T = TypeVar("T")

STRATEGIES: Mapping[str, str] = {
    "cheapest": gettext_noop("the cheapest key left"),
    "fastest": gettext_noop("the fastest key left"),
}
_UNMEASURED_MS: Mapping[Speed, float] = {"very_fast": 500.0, "fast": 1500.0, "medium": 4000.0}
"""The latency assumed for a provider that this user has not called yet, by its speed class."""
_REASONS: Mapping[Step, str] = {
    "named": gettext_noop("named by the call"),
    "override": gettext_noop("chosen for this task"),
    "default": gettext_noop("the default provider"),
    "own": gettext_noop("the next key in order"),
    "system_same": gettext_noop("the site's key for the same provider"),
    "system_choice": gettext_noop("the site's chosen provider"),
    "system": gettext_noop("the site's key for another provider"),
    "system_default": gettext_noop("the site's last resort"),
}


def resolve(snapshot: Snapshot, request: Request, cooling: Mapping[str, float] | None = None) -> Route:
    """The route for this request. ``cooling``: ``Key.ref`` or ``Key.destination`` → seconds until it may be tried."""
    cooling = cooling or {}
    plan = _Plan(snapshot, request)
    problem = _("This account is deactivated.") if not snapshot.user_active else plan.problem()
    if problem:
        return Route(problem=problem)
    candidates: list[Candidate] = []
    dropped: list[Dropped] = []
    faults = plan.faults()
    for position, (key, step) in enumerate(plan.ordered()):
        model = plan.model(key)
        fault = faults.of(key, model, step, cooling)
        if fault is None:
            candidates.append(plan.candidate(key, model, step, position))
        else:
            why, words, wait_s = fault
            dropped.append(
                Dropped(key=key, model=model, step=step, why=why, words=words, retry_after_s=wait_s, position=position)
            )
    return Route(candidates=tuple(candidates), dropped=tuple(dropped))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Wish:
    """A requested model, and the keys for which its name is valid."""

    model: str
    provider: str
    base_url: str | None
    """``None``: any address of the provider."""

    def fits(self, key: Key) -> bool:
        return key.provider == self.provider and self.base_url in (None, key.base_url)


class _Plan:
    def __init__(self, snapshot: Snapshot, request: Request) -> None:
        self.snapshot = snapshot
        self.request = request
        self.embeds = "embeddings" in request.needs
        self.strategy = snapshot.preferences.strategy
        self.own = self._by_strategy(sorted(snapshot.keys, key=lambda key: key.order))
        self.choice = snapshot.embeddings if self.embeds else snapshot.completions
        self.override = snapshot.overrides.get(request.task or "", Override())
        self.named = self._named()
        self.overridden = self._targets(self.override.credential, self.override.provider)
        self.default = self._targets(None, snapshot.preferences.default_provider)
        self.wishes = tuple(self._wishes())

    # The order

    def _by_strategy(self, keys: list[Key]) -> list[Key]:
        """The user's keys in the order of their strategy; ties keep their order."""
        match self.strategy:
            case "cheapest":
                return sorted(keys, key=self._price)
            case "fastest":
                return sorted(keys, key=self._latency_ms)
            case "balanced":
                return self._in_turns(keys)
            case _:
                return keys

    def _price(self, key: Key) -> Decimal:
        spec = self.snapshot.specs.get(key.provider)
        price = self.snapshot.price(spec, self._usual_model(key)) if spec else None
        return Decimal("Infinity") if price is None else price

    def _latency_ms(self, key: Key) -> float:
        spec = self.snapshot.specs.get(key.provider)
        return self.snapshot.latency_ms.get(key.ref, _UNMEASURED_MS[spec.speed if spec else "medium"])

    def _in_turns(self, keys: list[Key]) -> list[Key]:
        """Keeps the order of providers, and rotates the keys of each provider that has several."""
        turning: dict[str, list[Key]] = {}
        for key in keys:
            if key.is_active and key.readable:
                turning.setdefault(key.provider, []).append(key)
        for several in turning.values():
            first = self.request.turn % len(several)
            several[:] = several[first:] + several[:first]
        return [turning[key.provider].pop(0) if key.is_active and key.readable else key for key in keys]

    def ordered(self) -> Iterator[tuple[Key, Step]]:
        """Every key once, at the first step that reaches it."""
        seen: set[str] = set()
        for key, step in self._steps():
            if key.ref not in seen:
                seen.add(key.ref)
                yield key, step

    def _steps(self) -> Iterator[tuple[Key, Step]]:
        steps: tuple[tuple[Step, list[Key]], ...] = (
            ("named", self.named),
            ("override", self.overridden),
            ("default", self.default),
            ("own", self.own),
        )
        for step, keys in steps:
            for key in keys:
                yield key, step
        yield from self._system_steps()

    def _system_steps(self) -> Iterator[tuple[Key, Step]]:
        keys = sorted(self.snapshot.system_keys, key=lambda key: key.order)
        chosen = any(self.choice.names(key) for key in keys)
        # Without a provider at the head, the site's choice comes first, or without one the site's default provider.
        same = self.head_provider or ("" if chosen else self.snapshot.default_provider)
        for key in keys:
            if key.provider == same:
                yield key, "system_same"
        for key in keys:
            if self.choice.names(key):
                yield key, "system_choice"
        for key in keys:
            if key.provider != self.snapshot.default_provider:
                yield key, "system"
        for key in keys:
            yield key, "system_default"

    @property
    def head_step(self) -> Step:
        """The first step of the chain; without fallback, the only one."""
        if self.request.credential or self.request.provider or self.named:
            return "named"
        if self.override.credential or self.override.provider:
            return "override"
        return "default" if self.snapshot.preferences.default_provider else "own"

    @property
    def head_provider(self) -> str:
        """The first provider of the chain; empty if nobody chose one."""
        if self.request.provider:
            return self.request.provider
        for keys in (self.named, self.overridden):
            if keys:
                return keys[0].provider
        return (
            self.override.provider
            or self.snapshot.preferences.default_provider
            or next((key.provider for key in self.own if key.is_active), "")
        )

    # What the request asks for

    def problem(self) -> str:
        """What is wrong with the request itself."""
        credential, provider = self.request.credential, self.request.provider
        if provider and provider not in self.snapshot.specs:
            return _("There is no provider called %(value)s.") % {"value": repr(provider[:40])}
        if credential is None:
            return ""
        found = next((key for key in self.own if key.id == credential), None)
        if found is None:
            return _("The key that was asked for does not exist.")
        if provider and found.provider != provider:
            return _("The key that was asked for belongs to another provider.")
        return ""

    def _targets(self, credential: UUID | None, provider: str | None) -> list[Key]:
        if credential is not None:
            return [key for key in self.own if key.id == credential]
        return [key for key in self.own if key.provider == provider] if provider else []

    def _named(self) -> list[Key]:
        request = self.request
        if request.credential or request.provider:
            return self._targets(request.credential, request.provider)
        return self._knowing(request.model) if request.model else []

    def _knowing(self, model: str) -> list[Key]:
        """The keys whose provider is known to offer the model. If there are none, the head of the chain gets it."""
        chain = [
            *self._targets(self.override.credential, self.override.provider),
            *self._targets(None, self.snapshot.preferences.default_provider),
            *self.own,
        ]
        return [key for key in dict.fromkeys(chain) if self._facts(key.provider, model)]

    # Models

    def _wishes(self) -> Iterator[_Wish]:
        request, override = self.request, self.override
        if request.model:
            yield from self._wish(request.model, self.named, request.provider or self._unsaid_provider(request.model))
        if override.model and (override.credential or override.provider):
            yield from self._wish(override.model, self.overridden, override.provider)
        elif override.model:
            yield from self._wish(override.model, self.default or self.own[:1], self.head_provider)

    def _unsaid_provider(self, model: str) -> str:
        """The provider of a model given only by name: the head's, unless only another provider's catalogue lists it."""
        head = self.head_provider
        if head and self._facts(head, model):
            return head
        system = (key.provider for key in sorted(self.snapshot.system_keys, key=lambda key: key.order))
        return next((slug for slug in system if self._facts(slug, model)), head or self.snapshot.default_provider)

    def _wish(self, model: str, keys: list[Key], provider: str) -> Iterator[_Wish]:
        """The name is valid for all keys of the provider, or for one address if its keys have their own addresses."""
        places: dict[tuple[str, str | None], None] = {}
        for key in keys[:1] if self.request.provider or self.request.credential else keys:
            places[key.provider, key.base_url if self._addresses_differ(key.provider) else None] = None
        if not places and provider:
            places[provider, None] = None
        for slug, base_url in places:
            yield _Wish(model=model, provider=slug, base_url=base_url)

    def _addresses_differ(self, provider: str) -> bool:
        spec = self.snapshot.specs.get(provider)
        return spec is None or spec.needs_base_url or spec.self_hosted

    def model(self, key: Key) -> str:
        """The model for this key; empty if there is none."""
        for wish in self.wishes:
            if wish.fits(key) and self._plausible(key, wish.model):
                return wish.model
        if key.owner == "system" and self.choice.model and self.choice.names(key):
            return self.choice.model
        return self._usual_model(key)

    def _usual_model(self, key: Key) -> str:
        """The key's model when none is requested; under the cheapest strategy, one that fits the weight of the task."""
        spec = self.snapshot.specs.get(key.provider)
        if spec is None:
            return key.model
        if self.embeds:
            return spec.default_embedding_model
        usual = key.model or spec.default_model
        if self.strategy == "cheapest" and key.owner == "user":
            fitting = self._fitting(spec, usual)
            if (
                fitting
                and not lacking(self.snapshot, self.request, key, fitting)
                and self.snapshot.policy.allows_model(key.provider, fitting)
            ):
                return fitting
        return usual

    def _fitting(self, spec: ProviderSpec, usual: str) -> str:
        """The provider's cheapest model for a light task; for a heavy one its capable model, if the usual is weaker."""
        match self.request.weight:
            case "light":
                return spec.cheapest_model
            case "heavy":
                capable, known = spec.model_facts(spec.default_model), spec.model_facts(usual)
                return spec.default_model if capable and known and _class(known) < _class(capable) else ""
            case _:
                return ""

    def _plausible(self, key: Key, model: str) -> bool:
        """An override's chat model does not apply to an embeddings request."""
        if not self.embeds or model == self.request.model:
            return True
        facts = self._facts(key.provider, model)
        return facts is not None and "embeddings" in facts.capabilities

    def _facts(self, provider: str, model: str) -> ModelFacts | None:
        return facts_of(self.snapshot, provider, model)

    # Exclusions

    def faults(self) -> Faults:
        consent = self.override.fallback_to_system
        return Faults(
            snapshot=self.snapshot,
            request=self.request,
            consent=self.snapshot.preferences.fallback_to_system if consent is None else consent,
            head_step=self.head_step,
            head_provider=self.head_provider,
        )

    # Candidates

    def candidate(self, key: Key, model: str, step: Step, position: int) -> Candidate:
        preferences, choice = self.snapshot.preferences, self.choice
        settled: tuple[Override | Preferences | SystemChoice, ...] = (self.override, preferences)
        if key.owner == "system" and choice.names(key):
            settled = (*settled, choice)
        return Candidate(
            key=key,
            model=model,
            step=step,
            reason=STRATEGIES.get(self.strategy, _REASONS[step]) if step == "own" else _REASONS[step],
            temperature=first(source.temperature for source in settled),
            max_tokens=first(source.max_tokens for source in settled),
            facts=self._facts(key.provider, model),
            position=position,
        )


def _class(facts: ModelFacts) -> int:
    """A model's price class in the catalogue."""
    return get_args(Cost).index(facts.cost)


def first(values: Iterable[T | None]) -> T | None:
    return next((value for value in values if value is not None), None)


def targets(snapshot: Snapshot) -> frozenset[str]:
    """Everything in the snapshot that may be cooling down."""
    keys = (*snapshot.keys, *snapshot.system_keys)
    return frozenset(place for key in keys for place in (key.ref, key.destination))
