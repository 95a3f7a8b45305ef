"""Data of the routing page, from one snapshot of everything a route depends on: no query per task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from llm_credentials.factory import explain_routes
from llm_credentials.forms import RoutingForm
from llm_credentials.models import LLMSettings, UserCredential
from llm_credentials.providers import ProviderSpec, registry
from llm_credentials.routing import kinds
from llm_credentials.routing.policy import Policy
from llm_credentials.routing.snapshot import Loaded
from llm_credentials.routing.values import SITE, Candidate, Dropped, Key, Override, Route, Snapshot

User = AbstractBaseUser | AnonymousUser

SUPPOSED = "supposed"
"""Reason code of a key that is excluded because it is assumed to fail."""
SHOWN = 4
"""Tiles of a chain shown before it is summarised."""
WEIGHTS: Mapping[str, str] = {
    "light": gettext_noop("Light"),
    "normal": gettext_noop("Normal"),
    "heavy": gettext_noop("Heavy"),
}
NEEDS: Mapping[str, str] = {
    "tools": gettext_noop("tools"),
    "vision": gettext_noop("images"),
    "json": gettext_noop("JSON"),
    "embeddings": gettext_noop("embeddings"),
}
STRATEGIES: Mapping[str, str] = {
    LLMSettings.Strategy.PRIORITY: gettext_noop("The keys answer in the order below."),
    LLMSettings.Strategy.CHEAPEST: (
        gettext_noop(
            "The lowest price first. Light tasks go to each provider's cheapest model; heavy ones keep the capable one."
        )
    ),
    LLMSettings.Strategy.FASTEST: (
        gettext_noop(
            "Whoever answered you fastest in the last three days; those not measured yet by their usual speed."
        )
    ),
    LLMSettings.Strategy.BALANCED: gettext_noop("In the order below, and several keys of one provider take turns."),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """One key in a chain."""

    title: str
    spec: ProviderSpec | None
    model: str
    is_site: bool
    is_first: bool = False
    fails: bool = False
    """Only by assumption."""
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A task with its settings and its route. Without a task: the defaults for all."""

    slug: str
    label: str
    weight: str = ""
    needs: str = ""
    override: Override
    tiles: tuple[Tile, ...]
    dropped: tuple[Dropped, ...]
    problem: str
    placeholder: str = ""
    """The model that would answer now."""
    form: RoutingForm | None = None
    """Input that could not be saved."""

    @property
    def id(self) -> str:
        return f"task-{self.slug}"

    @property
    def url(self) -> str:
        if not self.slug:
            return reverse("llm_credentials:routing-defaults-set")
        return reverse("llm_credentials:task-override-set", args=[self.slug])

    @property
    def shown(self) -> tuple[Tile, ...]:
        return self.tiles[:SHOWN]

    @property
    def more(self) -> int:
        return max(0, len(self.tiles) - SHOWN)

    @property
    def answering(self) -> list[Tile]:
        return [tile for tile in self.tiles if not tile.fails]

    @property
    def sentence(self) -> str:
        """Describes the chain's picture in words."""
        names = [f"{tile.title} ({tile.model})" for tile in self.answering]
        if not names:
            return self.problem or _("Nobody can answer.")
        if len(names) == 1:
            return _("%(first)s answers; nobody stands behind.") % {"first": names[0]}
        return _("%(first)s answers, then %(rest)s.") % {"first": names[0], "rest": ", ".join(names[1:])}

    @property
    def is_overridden(self) -> bool:
        return bool(self.slug) and self.override != Override()

    @property
    def values(self) -> dict[str, Any]:
        """Values of the fields: the input, else what is stored."""
        if self.form is not None:
            return {name: self.form.data.get(name, "") for name in RoutingForm.FIELDS}
        settled = self.override
        choice = f"provider:{settled.provider}" if settled.provider else ""
        return {
            "choice": f"key:{settled.credential}" if settled.credential else choice,
            "model": settled.model,
            "temperature": "" if settled.temperature is None else f"{settled.temperature:g}",
            "max_tokens": "" if settled.max_tokens is None else str(settled.max_tokens),
            "consent": {None: "", True: "on", False: "off"}[settled.fallback_to_system],
        }

    @property
    def errors(self) -> dict[str, list[str]]:
        return dict(self.slots)

    @property
    def slots(self) -> list[tuple[str, list[str]]]:
        """Each field with its errors."""
        errors = self.form.errors if self.form is not None else {}
        return [(name, [str(text) for text in errors.get(name, [])]) for name in RoutingForm.FIELDS]


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    value: str
    label: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A key at its position in the user's order."""

    key: Key
    spec: ProviderSpec | None
    model: str
    is_first: bool
    is_last: bool


@dataclass(frozen=True, kw_only=True)
class RoutingPage:
    defaults: Row
    rows: tuple[Row, ...]
    order: tuple[Place, ...]
    strategy: str
    default_provider: str
    default_label: str
    failed: str
    policy: Policy
    choices: tuple[Choice, ...]
    """Candidates for a task's first place."""
    providers: tuple[Choice, ...]
    """Providers for which the user has a key."""
    failing: tuple[Choice, ...]
    models: tuple[str, ...]

    @property
    def every(self) -> tuple[Row, ...]:
        return (self.defaults, *self.rows)

    @property
    def strategies(self) -> list[tuple[str, str, str]]:
        return [(value, str(label), _(STRATEGIES[value])) for value, label in LLMSettings.Strategy.choices]

    def row(self, slug: str) -> Row:
        return next(row for row in self.every if row.slug == slug)

    def with_form(self, slug: str, form: RoutingForm) -> RoutingPage:
        """The page with this row's input and errors."""
        defaults, *rows = (replace(row, form=form) if row.slug == slug else row for row in self.every)
        return replace(self, defaults=defaults, rows=tuple(rows))


def routing_page(user: User, failed: str = "") -> RoutingPage:
    """``failed``: the ``ref`` of one of the user's keys, or ``SITE``, that is assumed to fail."""
    tasks = kinds.all()
    loaded, routes = explain_routes(user, [None, *(kind.slug for kind in tasks)], without=[failed] if failed else [])
    snapshot = loaded.snapshot
    order = sorted((key for key in snapshot.keys), key=lambda key: key.order)
    failing = (*_providers_fail(snapshot, order), *_keys_fail(order), *_site_fails(snapshot))
    failed = failed if any(choice.value == failed for choice in failing) else ""
    rows = tuple(_row(snapshot, routes[kind.slug], kind) for kind in tasks)
    default = snapshot.specs.get(snapshot.preferences.default_provider)
    own = {key.provider for key in order if key.provider in snapshot.specs}
    return RoutingPage(
        defaults=_row(snapshot, routes[None], None),
        rows=rows,
        order=tuple(_places(snapshot, order)),
        strategy=snapshot.preferences.strategy,
        default_provider=snapshot.preferences.default_provider,
        default_label=default.label if default else "",
        failed=failed,
        policy=snapshot.policy,
        choices=tuple(_choices(loaded, order)),
        providers=tuple(
            Choice(value=slug, label=spec.label)
            for slug, spec in snapshot.specs.items()
            if slug in own or slug == snapshot.preferences.default_provider
        ),
        failing=failing,
        models=_known_models(snapshot, own | {key.provider for key in snapshot.system_keys}),
    )


def _keys_fail(order: Iterable[Key]) -> Iterator[Choice]:
    return (Choice(value=key.ref, label=key.title) for key in order)


def _providers_fail(snapshot: Snapshot, order: Iterable[Key]) -> Iterator[Choice]:
    """Providers with several of the user's keys, all of which fail when the provider does."""
    for slug, count in Counter(key.provider for key in order).items():
        if count > 1 and slug in snapshot.specs:
            yield Choice(value=slug, label=_("%(provider)s, all keys") % {"provider": snapshot.specs[slug].label})


def _site_fails(snapshot: Snapshot) -> tuple[Choice, ...]:
    return (Choice(value=SITE, label=_("The organisation's keys")),) if snapshot.system_keys else ()


def _row(snapshot: Snapshot, route: Route, kind: kinds.TaskKind | None) -> Row:
    tiles = tuple(_tiles(snapshot, route))
    dropped = tuple(each for each in route.dropped if each.why != SUPPOSED)
    preferences = snapshot.preferences
    if kind is None:
        general = Override(
            provider=preferences.default_provider,
            temperature=preferences.temperature,
            max_tokens=preferences.max_tokens,
            fallback_to_system=preferences.fallback_to_system,
        )
        return Row(
            slug="",
            label=_("All tasks"),
            override=general,
            tiles=tiles,
            dropped=dropped,
            problem=route.problem,
        )
    return Row(
        slug=kind.slug,
        label=_(kind.label),
        weight=_(WEIGHTS[kind.weight]),
        needs=", ".join(_(NEEDS[need]) for need in sorted(kind.needs)),
        override=snapshot.overrides.get(kind.slug, Override()),
        tiles=tiles,
        dropped=dropped,
        problem=route.problem,
        placeholder=route.chosen.model if route.chosen else "",
    )


def _tiles(snapshot: Snapshot, route: Route) -> list[Tile]:
    """The chain in order; keys that are assumed to fail keep their position."""
    shown: list[Candidate | Dropped] = [*route.candidates, *(each for each in route.dropped if each.why == SUPPOSED)]
    return [
        Tile(
            title=each.key.title,
            spec=snapshot.specs.get(each.key.provider),
            model=each.model,
            is_site=each.key.owner == "system",
            is_first=each is route.chosen,
            fails=isinstance(each, Dropped),
            reason=each.words if isinstance(each, Dropped) else each.reason,
        )
        for each in sorted(shown, key=lambda each: each.position)
    ]


def _places(snapshot: Snapshot, order: list[Key]) -> list[Place]:
    places = []
    for number, key in enumerate(order):
        spec = snapshot.specs.get(key.provider)
        places.append(
            Place(
                key=key,
                spec=spec,
                model=key.model or (spec.default_model if spec else ""),
                is_first=number == 0,
                is_last=number == len(order) - 1,
            )
        )
    return places


def _choices(loaded: Loaded, order: list[Key]) -> list[Choice]:
    """Each of the user's providers and, for those with several keys, each key; as the policy allows."""
    snapshot = loaded.snapshot
    found: list[Choice] = []
    for slug in dict.fromkeys(key.provider for key in order):
        spec = snapshot.specs.get(slug)
        if spec is None or not snapshot.policy.allows_provider(slug):
            continue
        keys = [key for key in order if key.provider == slug]
        found.append(Choice(value=f"provider:{slug}", label=spec.label))
        if len(keys) > 1:
            found += [Choice(value=f"key:{key.id}", label=f"{spec.label} · {key.name}") for key in keys]
    # What is already stored must stay visible, even if it is no longer available.
    for override in snapshot.overrides.values():
        row = next((key for key in order if key.id == override.credential), None)
        if row is not None and not any(choice.value == f"key:{row.id}" for choice in found):
            found.append(Choice(value=f"key:{row.id}", label=f"{row.label or row.provider} · {row.name}"))
        slug = override.provider
        if slug and not any(choice.value == f"provider:{slug}" for choice in found):
            spec = snapshot.specs.get(slug)
            found.append(Choice(value=f"provider:{slug}", label=spec.label if spec else slug))
    return found


def _known_models(snapshot: Snapshot, slugs: set[str]) -> tuple[str, ...]:
    """The catalogue's models of these providers, as far as the policy allows."""
    return tuple(
        dict.fromkeys(
            facts.id
            for spec in registry.specs()
            if spec.slug in slugs
            for facts in spec.models
            if not facts.retired and "chat" in facts.capabilities and snapshot.policy.allows_model(spec.slug, facts.id)
        )
    )


def own_order(user: User) -> list[UserCredential]:
    return list(UserCredential.objects.for_user(user).in_order())
