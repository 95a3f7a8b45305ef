from __future__ import annotations

import re
from dataclasses import replace
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_credentials.providers import ModelFacts, ProviderSpec
from llm_credentials.providers.spec import CHAT, EMBEDS, SEES
from llm_credentials.routing.policy import Policy, combined
from llm_credentials.routing.resolve import resolve
from llm_credentials.routing.values import Key, Override, Preferences, Request, Route, Snapshot, SystemChoice


def _spec(slug: str, **changes: Any) -> ProviderSpec:
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
        _spec("apple"),
        _spec("birch"),
        _spec("cedar"),
        _spec("home", base_url=None, models=(), default_model="", default_embedding_model="", key_required=False),
    )
}


def _key(provider: str, name: str = "default", **changes: Any) -> Key:
    values: dict[str, Any] = {"id": uuid4(), "owner": "user", "provider": provider, "name": name}
    values |= {"ref": f"user:{provider}:{name}", "base_url": "http://home:1/v1" if provider == "home" else ""}
    return Key(**values | changes)


def _system(provider: str, **changes: Any) -> Key:
    return _key(provider, owner="system", ref=f"system:{provider}", **changes)


def _snapshot(*keys: Key, system: tuple[Key, ...] = (), **changes: Any) -> Snapshot:
    values: dict[str, Any] = {"specs": SPECS, "default_provider": "apple", "keys": keys, "system_keys": system}
    return Snapshot(**values | changes)


def _order(route: Route) -> list[str]:
    return [candidate.key.ref.removeprefix("user:").removesuffix(":default") for candidate in route.candidates]


def _why(route: Route) -> dict[str, str]:
    return {dropped.key.ref.removeprefix("user:").removesuffix(":default"): dropped.why for dropped in route.dropped}


# The order


def test_order_of_own_keys_is_priority_then_age() -> None:
    keys = (
        _key("apple", priority=5),
        _key("birch", priority=1, created_at=20.0),
        _key("cedar", priority=1, created_at=10.0),
    )
    assert _order(resolve(_snapshot(*keys), Request())) == ["cedar", "birch", "apple"]


def test_order_begins_with_the_default_provider() -> None:
    keys = (_key("apple", priority=1), _key("birch", priority=2), _key("birch", "spare", priority=3), _key("cedar"))
    snapshot = _snapshot(*keys, preferences=Preferences(default_provider="birch"))
    assert _order(resolve(snapshot, Request())) == ["birch", "birch:spare", "apple", "cedar"]


def test_order_puts_the_override_of_the_task_before_the_default() -> None:
    keys = (_key("apple", priority=1), _key("birch"), _key("cedar"))
    preferences = Preferences(default_provider="birch")
    snapshot = _snapshot(*keys, preferences=preferences, overrides={"mail": Override(provider="cedar")})
    assert _order(resolve(snapshot, Request(task="mail"))) == ["cedar", "birch", "apple"]
    assert _order(resolve(snapshot, Request(task="chat"))) == ["birch", "apple", "cedar"]


def test_order_puts_what_the_call_names_before_everything() -> None:
    keys = (_key("apple"), _key("birch"), _key("cedar"))
    preferences = Preferences(default_provider="birch")
    snapshot = _snapshot(*keys, preferences=preferences, overrides={"mail": Override(provider="cedar")})
    assert _order(resolve(snapshot, Request(task="mail", provider="apple"))) == ["apple", "cedar", "birch"]


def test_order_names_one_key_of_several() -> None:
    keys = (_key("apple", priority=1), _key("apple", "work", priority=2))
    assert _order(resolve(_snapshot(*keys), Request(credential=keys[1].id))) == ["apple:work", "apple"]


def test_order_of_system_keys_same_provider_choice_others_last_resort() -> None:
    system = tuple(_system(slug) for slug in ("apple", "birch", "cedar"))
    own = _key("cedar", is_active=False)
    snapshot = _snapshot(
        own,
        system=system,
        preferences=Preferences(default_provider="cedar"),
        completions=SystemChoice(provider="birch"),
    )
    route = resolve(snapshot, Request())
    assert _order(route) == ["system:cedar", "system:birch", "system:apple"]
    assert [candidate.step for candidate in route.candidates] == ["system_same", "system_choice", "system_default"]


def test_order_begins_with_the_sites_default_provider_when_nobody_chose() -> None:
    system = (_system("apple", priority=9), _system("birch", priority=1))
    assert _order(resolve(_snapshot(system=system), Request())) == ["system:apple", "system:birch"]


def test_order_begins_with_the_sites_choice_when_the_user_made_none() -> None:
    system = (_system("apple", priority=1), _system("birch", priority=9), _system("cedar"))
    snapshot = _snapshot(system=system, completions=SystemChoice(provider="birch"))
    assert _order(resolve(snapshot, Request())) == ["system:birch", "system:cedar", "system:apple"]


def test_order_prefers_a_stored_system_key_to_the_environments() -> None:
    stored = _system("birch", priority=500)
    environment = replace(_system("birch", priority=1, id=None, from_environment=True), ref="environment:birch")
    route = resolve(_snapshot(system=(environment, stored)), Request())
    assert _order(route) == ["system:birch", "environment:birch"]


def test_order_follows_a_model_to_the_provider_that_knows_it() -> None:
    snapshot = _snapshot(_key("apple"), _key("birch"), preferences=Preferences(default_provider="apple"))
    route = resolve(snapshot, Request(model="birch-eyes"))
    assert _order(route) == ["birch", "apple"]
    assert [candidate.model for candidate in route.candidates] == ["birch-eyes", "apple-chat"]


# Models


def test_model_of_the_call_stays_with_its_provider() -> None:
    snapshot = _snapshot(
        _key("apple", model="apple-eyes"), _key("birch", model="birch-eyes"), system=(_system("apple"),)
    )
    route = resolve(snapshot, Request(provider="apple", model="tuned"))
    assert [(each.key.provider, each.key.owner, each.model) for each in route.candidates] == [
        ("apple", "user", "tuned"),
        ("birch", "user", "birch-eyes"),
        ("apple", "system", "tuned"),
    ]


def test_model_unknown_to_every_catalogue_goes_to_the_head_of_the_chain() -> None:
    snapshot = _snapshot(_key("apple"), _key("birch"), preferences=Preferences(default_provider="birch"))
    route = resolve(snapshot, Request(model="tuned"))
    assert [(each.key.provider, each.model) for each in route.candidates] == [
        ("birch", "tuned"),
        ("apple", "apple-chat"),
    ]


def test_model_order_call_override_credential_provider() -> None:
    snapshot = _snapshot(
        _key("apple", model="of-the-key"), overrides={"mail": Override(provider="apple", model="of-the-task")}
    )
    plain = replace(snapshot, keys=(_key("apple"),))
    assert resolve(snapshot, Request(task="mail", model="of-the-call")).candidates[0].model == "of-the-call"
    assert resolve(snapshot, Request(task="mail")).candidates[0].model == "of-the-task"
    assert resolve(snapshot, Request()).candidates[0].model == "of-the-key"
    assert resolve(plain, Request()).candidates[0].model == "apple-chat"


def test_model_of_an_override_without_a_provider_is_for_the_default_provider() -> None:
    snapshot = _snapshot(
        _key("apple"),
        _key("birch"),
        preferences=Preferences(default_provider="birch"),
        overrides={"mail": Override(model="birch-eyes")},
    )
    route = resolve(snapshot, Request(task="mail"))
    assert [each.model for each in route.candidates] == ["birch-eyes", "apple-chat"]


def test_model_does_not_follow_to_another_address_of_a_self_hosted_provider() -> None:
    here, there = _key("home", model="mine"), _key("home", "other", base_url="http://other:1/v1", model="theirs")
    route = resolve(_snapshot(here, there), Request(credential=here.id, model="tuned"))
    assert [each.model for each in route.candidates] == ["tuned", "theirs"]


def test_model_without_any_default_is_asked_for() -> None:
    assert _why(resolve(_snapshot(_key("home")), Request())) == {"home": "no_model"}


def test_model_of_the_sites_choice_is_for_the_key_it_names() -> None:
    system = (_system("birch"), _system("cedar"))
    choice = SystemChoice(credential=system[0].id, model="birch-eyes", temperature=0.7, max_tokens=4096)
    first, second = resolve(_snapshot(system=system, completions=choice), Request()).candidates
    assert (first.model, first.temperature, first.max_tokens) == ("birch-eyes", 0.7, 4096)
    assert (second.model, second.temperature, second.max_tokens) == ("cedar-chat", None, None)


def test_model_for_embeddings_is_no_chat_model() -> None:
    snapshot = _snapshot(
        _key("apple", model="apple-chat"),
        _key("home", model="chatty"),
        system=(_system("birch"),),
        overrides={"search": Override(provider="apple", model="apple-chat")},
        embeddings=SystemChoice(provider="birch", model="birch-embed"),
        completions=SystemChoice(provider="birch", model="birch-eyes"),
    )
    route = resolve(snapshot, Request(task="search", needs=frozenset({"embeddings"})))
    assert [each.model for each in route.candidates] == ["apple-embed", "birch-embed"]
    assert _why(route) == {"home": "no_model"}


# Who is left out


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"is_active": False}, "inactive"),
        ({"readable": False}, "unreadable"),
        ({"has_key": False}, "no_key"),
        ({"provider": "gone"}, "unknown_provider"),
    ],
)
def test_dropped_with_its_reason(changes: dict[str, Any], why: str) -> None:
    route = resolve(_snapshot(replace(_key("apple"), **changes), _key("birch")), Request())
    assert _order(route) == ["birch"]
    assert [(dropped.why, bool(dropped.words)) for dropped in route.dropped] == [(why, True)]


def test_dropped_when_the_model_is_known_to_be_unable() -> None:
    snapshot = _snapshot(_key("apple"), _key("birch", model="birch-eyes"), _key("cedar", model="tuned"))
    route = resolve(snapshot, Request(needs=frozenset({"vision"})))
    assert _order(route) == ["birch", "cedar"]
    assert _why(route) == {"apple": "unable"}


def test_dropped_while_key_or_destination_cools_down() -> None:
    apple, birch, cedar = _key("apple"), _key("birch"), _key("cedar")
    route = resolve(_snapshot(apple, birch, cedar), Request(), {apple.ref: 9.0, birch.destination: 4.0})
    assert _order(route) == ["cedar"]
    assert _why(route) == {"apple": "cooling_down", "birch": "destination_down"}
    assert [dropped.retry_after_s for dropped in route.dropped] == [9.0, 4.0]


def test_cooldown_of_one_key_leaves_its_sibling_alone() -> None:
    first, second = _key("apple"), _key("apple", "spare")
    assert _order(resolve(_snapshot(first, second), Request(), {first.ref: 9.0})) == ["apple:spare"]


@pytest.mark.parametrize(
    ("user_says", "task_says", "staff_says", "used"),
    [
        (True, None, True, True),
        (True, None, False, False),
        (False, None, True, False),
        (False, True, True, True),
        (True, False, True, False),
        (False, True, False, False),
    ],
)
def test_system_keys_need_consent_of_user_or_task_and_staff(
    user_says: bool, task_says: bool | None, staff_says: bool, used: bool
) -> None:
    snapshot = _snapshot(
        system=(_system("apple"), _system("birch")),
        preferences=Preferences(fallback_to_system=user_says),
        overrides={"mail": Override(fallback_to_system=task_says)},
        policy=Policy(system_keys=staff_says),
        completions=SystemChoice(provider="birch"),
    )
    assert bool(resolve(snapshot, Request(task="mail")).candidates) is used


def test_no_fallback_keeps_to_what_was_named() -> None:
    keys = (_key("apple"), _key("birch"))
    snapshot = _snapshot(*keys, system=(_system("apple"),), preferences=Preferences(default_provider="apple"))
    assert _order(resolve(snapshot, Request(provider="birch", fallback=False))) == ["birch"]
    assert _order(resolve(snapshot, Request(fallback=False))) == ["apple"]
    assert _order(resolve(snapshot, Request(provider="cedar", fallback=False))) == []
    assert set(_why(resolve(snapshot, Request(provider="birch", fallback=False))).values()) == {"no_fallback"}


def test_no_fallback_without_any_choice_keeps_to_the_first_provider() -> None:
    snapshot = _snapshot(_key("apple", priority=2), _key("birch", priority=1), system=(_system("birch"),))
    assert _order(resolve(snapshot, Request(fallback=False))) == ["birch"]


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request(credential=uuid4()), "does not exist"),
        (Request(provider="nowhere"), "no provider called 'nowhere'"),
    ],
)
def test_problem_of_a_request_that_names_nothing_real(request_: Request, words: str) -> None:
    route = resolve(_snapshot(_key("apple"), system=(_system("birch"),)), request_)
    assert route.candidates == ()
    assert words in route.problem


def test_problem_of_a_key_with_another_providers_name() -> None:
    key = _key("apple")
    assert "another provider" in resolve(_snapshot(key), Request(credential=key.id, provider="birch")).problem


def test_problem_of_a_deactivated_account() -> None:
    route = resolve(_snapshot(_key("apple"), system=(_system("birch"),), user_active=False), Request())
    assert (route.candidates, route.problem) == ((), "This account is deactivated.")


def test_system_key_is_not_reached_by_its_id() -> None:
    """Only one's own keys are named by id; the site's are staff's affair."""
    system = _system("apple")
    assert "does not exist" in resolve(_snapshot(system=(system,)), Request(credential=system.id)).problem


# What always holds

_slugs = st.sampled_from(["apple", "birch", "cedar", "home", "gone"])
_models = st.sampled_from(["", "apple-chat", "birch-eyes", "cedar-embed", "tuned"])


@st.composite
def _some_keys(draw: st.DrawFn, owner: str) -> tuple[Key, ...]:
    keys = draw(
        st.lists(
            st.builds(
                Key,
                ref=st.just(""),
                id=st.uuids(),
                owner=st.just(owner),
                provider=_slugs,
                model=_models,
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


_patterns = st.sampled_from(["*/*", "apple/*", "*/birch-*", "cedar/cedar-chat", "*/tuned", "a*/*-eyes"])
_policies = st.builds(
    Policy,
    providers=st.just(()) | st.tuples(st.frozensets(_slugs, min_size=1)),
    models=st.just(()) | st.tuples(st.lists(_patterns, min_size=1, max_size=3).map(tuple)),
    own_keys=st.booleans(),
    custom_addresses=st.booleans(),
    system_keys=st.booleans(),
)


@st.composite
def _situations(draw: st.DrawFn) -> tuple[Snapshot, Request, dict[str, float]]:
    keys, system = draw(_some_keys("user")), draw(_some_keys("system"))
    ids: list[UUID | None] = [key.id for key in keys]
    some_id = st.sampled_from([None, *ids])
    choices = st.builds(SystemChoice, provider=_slugs | st.just(""), model=_models)
    snapshot = Snapshot(
        specs=SPECS,
        keys=keys,
        system_keys=system,
        preferences=draw(
            st.builds(
                Preferences,
                default_provider=_slugs | st.just(""),
                fallback_to_system=st.booleans(),
                strategy=st.sampled_from(["priority", "cheapest", "fastest", "balanced"]),
            )
        ),
        overrides={
            "mail": draw(
                st.builds(
                    Override,
                    credential=some_id,
                    model=_models,
                    provider=_slugs | st.just(""),
                    fallback_to_system=st.none() | st.booleans(),
                )
            )
        },
        completions=draw(choices),
        embeddings=draw(choices),
        default_provider="apple",
        policy=draw(_policies),
    )
    request = draw(
        st.builds(
            Request,
            task=st.sampled_from([None, "mail"]),
            provider=st.none() | _slugs,
            model=st.none() | _models.filter(bool),
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


def always_gives_every_key_once_or_a_problem(snapshot: Snapshot, request: Request, cooling: Any) -> None:
    route = resolve(snapshot, request, cooling)
    seen = [each.key.ref for each in (*route.candidates, *route.dropped)]
    if route.problem:
        assert seen == []
    else:
        assert sorted(seen) == sorted(key.ref for key in (*snapshot.keys, *snapshot.system_keys))


def never_gives_an_unusable_candidate(snapshot: Snapshot, request: Request, cooling: Any) -> None:
    for candidate in resolve(snapshot, request, cooling).candidates:
        key, spec = candidate.key, SPECS[candidate.key.provider]
        assert key.is_active and key.readable and (key.has_key or not spec.key_required)
        assert key.base_url or spec.base_url
        assert cooling.get(key.ref, 0) <= 0
        facts = spec.model_facts(candidate.model)
        assert facts is None or request.needs <= facts.capabilities


def _of(provider: str, model: str) -> str:
    """The model if it is this provider's own, else none: nobody has asked a provider for another one's model."""
    return model if model.startswith(f"{provider}-") else ""


def never_sends_one_providers_model_to_another(snapshot: Snapshot, request: Request, cooling: Any) -> None:
    override = snapshot.overrides["mail"]
    sane = replace(
        snapshot,
        keys=tuple(replace(key, model=_of(key.provider, key.model)) for key in snapshot.keys),
        system_keys=tuple(replace(key, model=_of(key.provider, key.model)) for key in snapshot.system_keys),
        overrides={"mail": replace(override, credential=None, model=_of(override.provider, override.model))},
        completions=replace(snapshot.completions, model=_of(snapshot.completions.provider, snapshot.completions.model)),
        embeddings=replace(snapshot.embeddings, model=_of(snapshot.embeddings.provider, snapshot.embeddings.model)),
    )
    asked = {"provider": request.provider, "model": _of(request.provider or "", request.model or "") or None}
    route = resolve(sane, replace(request, credential=None, **asked), cooling)
    for candidate in route.candidates:
        assert candidate.model.startswith(f"{candidate.key.provider}-")


def never_uses_a_system_key_without_consent(snapshot: Snapshot, request: Request, cooling: Any) -> None:
    override = snapshot.overrides.get(request.task or "", Override())
    task_says, user_says = override.fallback_to_system, snapshot.preferences.fallback_to_system
    allowed = snapshot.policy.system_keys and (user_says if task_says is None else task_says)
    owners = [candidate.key.owner for candidate in resolve(snapshot, request, cooling).candidates]
    assert allowed or "system" not in owners
    assert owners == sorted(owners, reverse=True), "own keys come first"


def never_gives_what_the_policy_forbids(snapshot: Snapshot, request: Request, cooling: Any) -> None:
    policy = snapshot.policy
    for candidate in resolve(snapshot, request, cooling).candidates:
        key = candidate.key
        assert all(key.provider in allowed for allowed in policy.providers)
        for patterns in policy.models:
            assert any(_match(pattern, key.provider, candidate.model) for pattern in patterns)
        assert policy.system_keys if key.owner == "system" else policy.own_keys
        assert key.owner == "system" or policy.custom_addresses or not key.base_url


def _match(pattern: str, provider: str, model: str) -> bool:
    of_provider, of_model = (part.replace("*", ".*") for part in pattern.split("/"))
    return bool(re.fullmatch(of_provider, provider) and re.fullmatch(of_model, model))


@given(_situations(), _policies)
def test_resolve_opens_nothing_through_a_further_policy(situation: tuple[Any, Any, Any], further: Policy) -> None:
    snapshot, request, cooling = situation
    # The thrifty are given another model where the cheap one is forbidden; which keys may be used only shrinks.
    before = {each.key.ref for each in resolve(snapshot, request, cooling).candidates}
    both = replace(snapshot, policy=combined([snapshot.policy, further]))
    assert {each.key.ref for each in resolve(both, request, cooling).candidates} <= before


def says_of_each_disallowed_key_that_it_is_the_policy(snapshot: Snapshot, request: Request, cooling: Any) -> None:
    for dropped in resolve(snapshot, request, cooling).dropped:
        if dropped.why == "not_allowed":
            assert "policy" in dropped.words


def is_the_same_each_time(snapshot: Snapshot, request: Request, cooling: Any) -> None:
    assert resolve(snapshot, request, cooling) == resolve(snapshot, request, cooling)


def without_fallback_is_a_part_of_the_route(snapshot: Snapshot, request: Request, cooling: Any) -> None:
    whole = resolve(snapshot, replace(request, fallback=True), cooling).candidates
    kept = resolve(snapshot, replace(request, fallback=False), cooling).candidates
    assert {each.key.ref for each in kept} <= {each.key.ref for each in whole}
    assert len({each.key.provider for each in kept}) <= 1
    assert all(each.key.owner == "user" for each in kept)


# A situation takes longer to think of than to resolve: each is held against all that is always so.
ALWAYS = (
    always_gives_every_key_once_or_a_problem,
    never_gives_an_unusable_candidate,
    never_uses_a_system_key_without_consent,
    never_sends_one_providers_model_to_another,
    never_gives_what_the_policy_forbids,
    says_of_each_disallowed_key_that_it_is_the_policy,
    is_the_same_each_time,
    without_fallback_is_a_part_of_the_route,
)


@settings(max_examples=3 * settings().max_examples)
@given(_situations())
def test_resolve_holds_in_every_situation(situation: tuple[Any, Any, Any]) -> None:
    for holds in ALWAYS:
        holds(*situation)


# Strategies


def _strategy(name: str, *keys: Key, **changes: Any) -> Snapshot:
    return _snapshot(*keys, preferences=Preferences(strategy=name), **changes)


def _prices(**usd: int) -> Any:
    return lambda spec, model: Decimal(usd[model.replace("-", "_")]) if model.replace("-", "_") in usd else None


def test_strategy_cheapest_puts_the_cheapest_model_first_and_unknown_prices_last() -> None:
    snapshot = _strategy(
        "cheapest",
        _key("apple", priority=1),
        _key("birch", priority=2),
        _key("cedar", priority=3),
        price=_prices(birch_chat=3, cedar_chat=2),
    )
    route = resolve(snapshot, Request())
    assert _order(route) == ["cedar", "birch", "apple"]
    assert "cheapest" in route.candidates[0].reason


def test_strategy_cheapest_gives_light_tasks_the_cheap_model_and_heavy_ones_the_capable() -> None:
    specs_ = SPECS | {"apple": replace(SPECS["apple"], cheapest_model="apple-mini")}
    snapshot = replace(_strategy("cheapest", _key("apple", model="apple-chat")), specs=specs_)
    models = [resolve(snapshot, Request(weight=weight)).candidates[0].model for weight in ("light", "normal", "heavy")]
    assert models == ["apple-mini", "apple-chat", "apple-chat"]
    assert resolve(snapshot, Request(weight="light", model="apple-eyes")).candidates[0].model == "apple-eyes"


def test_strategy_cheapest_lifts_a_heavy_task_to_the_capable_model() -> None:
    small = ModelFacts(id="apple-mini", label="", cost="very_low")
    apple = replace(SPECS["apple"], cheapest_model="apple-mini", models=(*SPECS["apple"].models, small))
    snapshot = replace(_strategy("cheapest", _key("apple", model="apple-mini")), specs=SPECS | {"apple": apple})
    models = {
        weight: resolve(snapshot, Request(weight=weight)).candidates[0].model for weight in ("light", "normal", "heavy")
    }
    assert models == {"light": "apple-mini", "normal": "apple-mini", "heavy": "apple-chat"}
    as_chosen = replace(snapshot, preferences=Preferences(strategy="priority"))
    assert resolve(as_chosen, Request(weight="heavy")).candidates[0].model == "apple-mini"
    forbidden = replace(snapshot, policy=Policy(models=(("apple/apple-mini",),)))
    assert resolve(forbidden, Request(weight="heavy")).candidates[0].model == "apple-mini"


def test_strategy_cheapest_takes_no_cheap_model_that_the_policy_forbids() -> None:
    specs_ = SPECS | {"apple": replace(SPECS["apple"], cheapest_model="apple-eyes")}
    policy = Policy(models=(("apple/apple-chat",),))
    snapshot = replace(_strategy("cheapest", _key("apple"), policy=policy), specs=specs_)
    assert resolve(snapshot, Request(weight="light")).candidates[0].model == "apple-chat"


def test_strategy_cheapest_takes_no_cheap_model_that_cannot_do_it() -> None:
    specs_ = SPECS | {"apple": replace(SPECS["apple"], cheapest_model="apple-embed")}
    snapshot = replace(_strategy("cheapest", _key("apple")), specs=specs_)
    route = resolve(snapshot, Request(weight="light", needs=frozenset({"tools"})))
    assert route.candidates[0].model == "apple-chat"


def test_strategy_fastest_goes_by_measured_latency_else_by_the_providers_class() -> None:
    slow, quick, unmeasured = _key("apple", priority=1), _key("birch", priority=2), _key("cedar", priority=3)
    snapshot = _strategy("fastest", slow, quick, unmeasured, latency_ms={slow.ref: 9000.0, quick.ref: 300.0})
    assert _order(resolve(snapshot, Request())) == ["birch", "cedar", "apple"]


def test_strategy_balanced_gives_each_key_of_a_provider_its_turn() -> None:
    keys = (_key("apple", "a", priority=1), _key("birch", priority=2), _key("apple", "b", priority=3))
    snapshot = _strategy("balanced", *keys, _key("apple", "off", is_active=False, priority=0))
    orders = [_order(resolve(snapshot, Request(turn=turn))) for turn in range(4)]
    assert orders == [["apple:a", "birch", "apple:b"], ["apple:b", "birch", "apple:a"]] * 2


@given(st.integers(1, 5), st.integers(0, 40))
def test_strategy_balanced_is_fair_over_every_round(count: int, begin: int) -> None:
    keys = tuple(_key("apple", f"k{number}", priority=number) for number in range(count))
    snapshot = _strategy("balanced", *keys, _key("birch", priority=99))
    snapshot = replace(snapshot, preferences=replace(snapshot.preferences, default_provider="apple"))
    firsts = [_order(resolve(snapshot, Request(turn=begin + turn)))[0] for turn in range(2 * count)]
    assert sorted(firsts) == sorted([f"apple:k{number}" for number in range(count)] * 2)


@given(_situations(), st.sampled_from(["fastest", "balanced"]))
def test_strategy_changes_the_order_and_never_who_may(situation: tuple[Any, Any, Any], name: str) -> None:
    snapshot, request, cooling = situation
    # Whose model a bare name is, and where a call without fallback stays, hang on who comes first.
    request = replace(request, model=None, fallback=True)
    snapshot = replace(snapshot, overrides={"mail": replace(snapshot.overrides["mail"], model="")})

    def may(strategy: str) -> set[str]:
        preferences = replace(snapshot.preferences, strategy=strategy)
        found = resolve(replace(snapshot, preferences=preferences), request, cooling)
        return {each.key.ref for each in found.candidates}

    assert may(name) == may("priority")


def test_strategy_leaves_the_default_provider_in_front() -> None:
    snapshot = _snapshot(
        _key("apple"),
        _key("birch"),
        preferences=Preferences(strategy="cheapest", default_provider="birch"),
        price=_prices(apple_chat=1, birch_chat=9),
    )
    assert _order(resolve(snapshot, Request())) == ["birch", "apple"]
