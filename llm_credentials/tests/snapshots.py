"""Snapshots to resolve a route from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

from hypothesis import strategies as st

from llm_credentials.providers import ModelFacts, ProviderSpec
from llm_credentials.providers.spec import CHAT, EMBEDS, SEES
from llm_credentials.routing.policy import Policy
from llm_credentials.routing.values import Key, Override, Preferences, Request, Route, Snapshot, SystemChoice


def a_spec(slug: str, **changes: Any) -> ProviderSpec:
    values: dict[str, Any] = {
        "slug": slug,
        "label": slug.title(),
        "client": "",
        "base_url": f"https://{slug}.example",
        "default_model": f"{slug}-chat",
        "default_embedding_model": f"{slug}-embed",
        "models": (
            ModelFacts(id=f"{slug}-chat", label="", capabilities=CHAT),
            ModelFacts(id=f"{slug}-eyes", label="", capabilities=SEES),
            ModelFacts(id=f"{slug}-embed", label="", capabilities=EMBEDS),
        ),
    }
    return ProviderSpec(**values | changes)


SPECS = {
    spec.slug: spec
    for spec in (
        a_spec("apple"),
        a_spec("birch"),
        a_spec("cedar"),
        a_spec("home", base_url=None, models=(), default_model="", default_embedding_model="", key_required=False),
    )
}


def a_key(provider: str, name: str = "default", **changes: Any) -> Key:
    values: dict[str, Any] = {"id": uuid4(), "owner": "user", "provider": provider, "name": name}
    values |= {"ref": f"user:{provider}:{name}", "base_url": "http://home:1/v1" if provider == "home" else ""}
    return Key(**values | changes)


def a_snapshot(*keys: Key, system: tuple[Key, ...] = (), **changes: Any) -> Snapshot:
    values: dict[str, Any] = {"specs": SPECS, "default_provider": "apple", "keys": keys, "system_keys": system}
    return Snapshot(**values | changes)


def order_of(route: Route) -> list[str]:
    return [candidate.key.ref.removeprefix("user:").removesuffix(":default") for candidate in route.candidates]


slugs = st.sampled_from(["apple", "birch", "cedar", "home", "gone"])
models_drawn = st.sampled_from(["", "apple-chat", "birch-eyes", "cedar-embed", "tuned"])


@st.composite
def some_keys(draw: st.DrawFn, owner: str) -> tuple[Key, ...]:
    keys = draw(
        st.lists(
            st.builds(
                Key,
                ref=st.just(""),
                id=st.uuids(),
                owner=st.just(owner),
                provider=slugs,
                model=models_drawn,
                base_url=st.sampled_from(["", "http://home:1/v1"]),
                is_active=st.booleans(),
                readable=st.booleans(),
                has_key=st.booleans(),
                priority=st.integers(0, 3),
                created_at=st.floats(0, 3),
            ),
            max_size=6,
        )
    )
    return tuple(replace(key, ref=f"{owner}:{number}") for number, key in enumerate(keys))


patterns_drawn = st.sampled_from(["*/*", "apple/*", "*/birch-*", "cedar/cedar-chat", "*/tuned", "a*/*-eyes"])
some_policies = st.builds(
    Policy,
    providers=st.just(()) | st.tuples(st.frozensets(slugs, min_size=1)),
    models=st.just(()) | st.tuples(st.lists(patterns_drawn, min_size=1, max_size=3).map(tuple)),
    own_keys=st.booleans(),
    custom_addresses=st.booleans(),
    system_keys=st.booleans(),
)


@st.composite
def situations(draw: st.DrawFn) -> tuple[Snapshot, Request, dict[str, float]]:
    keys, system = draw(some_keys("user")), draw(some_keys("system"))
    ids: list[UUID | None] = [key.id for key in keys]
    some_id = st.sampled_from([None, *ids])
    choices = st.builds(SystemChoice, provider=slugs | st.just(""), model=models_drawn)
    snapshot = Snapshot(
        specs=SPECS,
        keys=keys,
        system_keys=system,
        preferences=draw(
            st.builds(
                Preferences,
                default_provider=slugs | st.just(""),
                fallback_to_system=st.booleans(),
                strategy=st.sampled_from(["priority", "cheapest", "fastest", "balanced"]),
            )
        ),
        overrides={
            "mail": draw(
                st.builds(
                    Override,
                    credential=some_id,
                    model=models_drawn,
                    provider=slugs | st.just(""),
                    fallback_to_system=st.none() | st.booleans(),
                )
            )
        },
        completions=draw(choices),
        embeddings=draw(choices),
        default_provider="apple",
        policy=draw(some_policies),
    )
    request = draw(
        st.builds(
            Request,
            task=st.sampled_from([None, "mail"]),
            provider=st.none() | slugs,
            model=st.none() | models_drawn.filter(bool),
            credential=some_id,
            needs=st.frozensets(st.sampled_from(["tools", "vision", "json", "embeddings"])),
            fallback=st.booleans(),
            weight=st.sampled_from(["light", "normal", "heavy"]),
            turn=st.integers(0, 9),
        )
    )
    every = [*keys, *system]
    cooling = {key.ref: draw(st.floats(0, 60)) for key in every if draw(st.booleans())}
    return snapshot, request, cooling
