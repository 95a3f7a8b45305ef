"""The order in which a strategy asks keys."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from llm_credentials.providers import ModelFacts
from llm_credentials.routing.policy import Policy
from llm_credentials.routing.resolve import resolve
from llm_credentials.routing.values import Key, Preferences, Request, Snapshot
from llm_credentials.tests.snapshots import (
    SPECS,
    a_key,
    a_snapshot,
    order_of,
    situations,
)

# Strategies


def _strategy(name: str, *keys: Key, **changes: Any) -> Snapshot:
    return a_snapshot(*keys, preferences=Preferences(strategy=name), **changes)


def _prices(**usd: int) -> Any:
    return lambda spec, model: Decimal(usd[model.replace("-", "_")]) if model.replace("-", "_") in usd else None


def test_strategy_cheapest_puts_the_cheapest_model_first_and_unknown_prices_last() -> None:
    snapshot = _strategy(
        "cheapest",
        a_key("apple", priority=1),
        a_key("birch", priority=2),
        a_key("cedar", priority=3),
        price=_prices(birch_chat=3, cedar_chat=2),
    )
    route = resolve(snapshot, Request())
    assert order_of(route) == ["cedar", "birch", "apple"]
    assert "cheapest" in route.candidates[0].reason


def test_strategy_cheapest_gives_light_tasks_the_cheap_model_and_heavy_ones_the_capable() -> None:
    specs_ = SPECS | {"apple": replace(SPECS["apple"], cheapest_model="apple-mini")}
    snapshot = replace(_strategy("cheapest", a_key("apple", model="apple-chat")), specs=specs_)
    models = [resolve(snapshot, Request(weight=weight)).candidates[0].model for weight in ("light", "normal", "heavy")]
    assert models == ["apple-mini", "apple-chat", "apple-chat"]
    assert resolve(snapshot, Request(weight="light", model="apple-eyes")).candidates[0].model == "apple-eyes"


def test_strategy_cheapest_lifts_a_heavy_task_to_the_capable_model() -> None:
    small = ModelFacts(id="apple-mini", label="", cost="very_low")
    apple = replace(SPECS["apple"], cheapest_model="apple-mini", models=(*SPECS["apple"].models, small))
    snapshot = replace(_strategy("cheapest", a_key("apple", model="apple-mini")), specs=SPECS | {"apple": apple})
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
    snapshot = replace(_strategy("cheapest", a_key("apple"), policy=policy), specs=specs_)
    assert resolve(snapshot, Request(weight="light")).candidates[0].model == "apple-chat"


def test_strategy_cheapest_takes_no_cheap_model_that_cannot_do_it() -> None:
    specs_ = SPECS | {"apple": replace(SPECS["apple"], cheapest_model="apple-embed")}
    snapshot = replace(_strategy("cheapest", a_key("apple")), specs=specs_)
    route = resolve(snapshot, Request(weight="light", needs=frozenset({"tools"})))
    assert route.candidates[0].model == "apple-chat"


def test_strategy_fastest_goes_by_measured_latency_else_by_the_providers_class() -> None:
    slow, quick, unmeasured = a_key("apple", priority=1), a_key("birch", priority=2), a_key("cedar", priority=3)
    snapshot = _strategy("fastest", slow, quick, unmeasured, latency_ms={slow.ref: 9000.0, quick.ref: 300.0})
    assert order_of(resolve(snapshot, Request())) == ["birch", "cedar", "apple"]


def test_strategy_balanced_gives_each_key_of_a_provider_its_turn() -> None:
    keys = (a_key("apple", "a", priority=1), a_key("birch", priority=2), a_key("apple", "b", priority=3))
    snapshot = _strategy("balanced", *keys, a_key("apple", "off", is_active=False, priority=0))
    orders = [order_of(resolve(snapshot, Request(turn=turn))) for turn in range(4)]
    assert orders == [["apple:a", "birch", "apple:b"], ["apple:b", "birch", "apple:a"]] * 2


@given(st.integers(1, 5), st.integers(0, 40))
def test_strategy_balanced_is_fair_over_every_round(count: int, begin: int) -> None:
    keys = tuple(a_key("apple", f"k{number}", priority=number) for number in range(count))
    snapshot = _strategy("balanced", *keys, a_key("birch", priority=99))
    snapshot = replace(snapshot, preferences=replace(snapshot.preferences, default_provider="apple"))
    firsts = [order_of(resolve(snapshot, Request(turn=begin + turn)))[0] for turn in range(2 * count)]
    assert sorted(firsts) == sorted([f"apple:k{number}" for number in range(count)] * 2)


@given(situations(), st.sampled_from(["fastest", "balanced"]))
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
    snapshot = a_snapshot(
        a_key("apple"),
        a_key("birch"),
        preferences=Preferences(strategy="cheapest", default_provider="birch"),
        price=_prices(apple_chat=1, birch_chat=9),
    )
    assert order_of(resolve(snapshot, Request())) == ["birch", "apple"]
