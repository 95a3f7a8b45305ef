from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from llm_credentials.routing.policy import Policy
from llm_credentials.routing.resolve import resolve
from llm_credentials.routing.values import Key, Override, Preferences, Request, Route, SystemChoice
from llm_credentials.tests.snapshots import (
    a_key,
    a_snapshot,
    order_of,
)


def a_system_key(provider: str, **changes: Any) -> Key:
    return a_key(provider, owner="system", ref=f"system:{provider}", **changes)


def _why(route: Route) -> dict[str, str]:
    return {dropped.key.ref.removeprefix("user:").removesuffix(":default"): dropped.why for dropped in route.dropped}


# The order


def test_order_of_own_keys_is_priority_then_age() -> None:
    keys = (
        a_key("apple", priority=5),
        a_key("birch", priority=1, created_at=20.0),
        a_key("cedar", priority=1, created_at=10.0),
    )
    assert order_of(resolve(a_snapshot(*keys), Request())) == ["cedar", "birch", "apple"]


def test_order_begins_with_the_default_provider() -> None:
    keys = (a_key("apple", priority=1), a_key("birch", priority=2), a_key("birch", "spare", priority=3), a_key("cedar"))
    snapshot = a_snapshot(*keys, preferences=Preferences(default_provider="birch"))
    assert order_of(resolve(snapshot, Request())) == ["birch", "birch:spare", "apple", "cedar"]


def test_order_puts_the_override_of_the_task_before_the_default() -> None:
    keys = (a_key("apple", priority=1), a_key("birch"), a_key("cedar"))
    preferences = Preferences(default_provider="birch")
    snapshot = a_snapshot(*keys, preferences=preferences, overrides={"mail": Override(provider="cedar")})
    assert order_of(resolve(snapshot, Request(task="mail"))) == ["cedar", "birch", "apple"]
    assert order_of(resolve(snapshot, Request(task="chat"))) == ["birch", "apple", "cedar"]


def test_order_puts_what_the_call_names_before_everything() -> None:
    keys = (a_key("apple"), a_key("birch"), a_key("cedar"))
    preferences = Preferences(default_provider="birch")
    snapshot = a_snapshot(*keys, preferences=preferences, overrides={"mail": Override(provider="cedar")})
    assert order_of(resolve(snapshot, Request(task="mail", provider="apple"))) == ["apple", "cedar", "birch"]


def test_order_names_one_key_of_several() -> None:
    keys = (a_key("apple", priority=1), a_key("apple", "work", priority=2))
    assert order_of(resolve(a_snapshot(*keys), Request(credential=keys[1].id))) == ["apple:work", "apple"]


def test_order_of_system_keys_same_provider_choice_others_last_resort() -> None:
    system = tuple(a_system_key(slug) for slug in ("apple", "birch", "cedar"))
    own = a_key("cedar", is_active=False)
    snapshot = a_snapshot(
        own,
        system=system,
        preferences=Preferences(default_provider="cedar"),
        completions=SystemChoice(provider="birch"),
    )
    route = resolve(snapshot, Request())
    assert order_of(route) == ["system:cedar", "system:birch", "system:apple"]
    assert [candidate.step for candidate in route.candidates] == ["system_same", "system_choice", "system_default"]


def test_order_begins_with_the_sites_default_provider_when_nobody_chose() -> None:
    system = (a_system_key("apple", priority=9), a_system_key("birch", priority=1))
    assert order_of(resolve(a_snapshot(system=system), Request())) == ["system:apple", "system:birch"]


def test_order_begins_with_the_sites_choice_when_the_user_made_none() -> None:
    system = (a_system_key("apple", priority=1), a_system_key("birch", priority=9), a_system_key("cedar"))
    snapshot = a_snapshot(system=system, completions=SystemChoice(provider="birch"))
    assert order_of(resolve(snapshot, Request())) == ["system:birch", "system:cedar", "system:apple"]


def test_order_prefers_a_stored_system_key_to_the_environments() -> None:
    stored = a_system_key("birch", priority=500)
    environment = replace(a_system_key("birch", priority=1, id=None, from_environment=True), ref="environment:birch")
    route = resolve(a_snapshot(system=(environment, stored)), Request())
    assert order_of(route) == ["system:birch", "environment:birch"]


def test_order_follows_a_model_to_the_provider_that_knows_it() -> None:
    snapshot = a_snapshot(a_key("apple"), a_key("birch"), preferences=Preferences(default_provider="apple"))
    route = resolve(snapshot, Request(model="birch-eyes"))
    assert order_of(route) == ["birch", "apple"]
    assert [candidate.model for candidate in route.candidates] == ["birch-eyes", "apple-chat"]


# Models


def test_model_of_the_call_stays_with_its_provider() -> None:
    snapshot = a_snapshot(
        a_key("apple", model="apple-eyes"), a_key("birch", model="birch-eyes"), system=(a_system_key("apple"),)
    )
    route = resolve(snapshot, Request(provider="apple", model="tuned"))
    assert [(each.key.provider, each.key.owner, each.model) for each in route.candidates] == [
        ("apple", "user", "tuned"),
        ("birch", "user", "birch-eyes"),
        ("apple", "system", "tuned"),
    ]


def test_model_unknown_to_every_catalogue_goes_to_the_head_of_the_chain() -> None:
    snapshot = a_snapshot(a_key("apple"), a_key("birch"), preferences=Preferences(default_provider="birch"))
    route = resolve(snapshot, Request(model="tuned"))
    assert [(each.key.provider, each.model) for each in route.candidates] == [
        ("birch", "tuned"),
        ("apple", "apple-chat"),
    ]


def test_model_order_call_override_credential_provider() -> None:
    snapshot = a_snapshot(
        a_key("apple", model="of-the-key"), overrides={"mail": Override(provider="apple", model="of-the-task")}
    )
    plain = replace(snapshot, keys=(a_key("apple"),))
    assert resolve(snapshot, Request(task="mail", model="of-the-call")).candidates[0].model == "of-the-call"
    assert resolve(snapshot, Request(task="mail")).candidates[0].model == "of-the-task"
    assert resolve(snapshot, Request()).candidates[0].model == "of-the-key"
    assert resolve(plain, Request()).candidates[0].model == "apple-chat"


def test_model_of_an_override_without_a_provider_is_for_the_default_provider() -> None:
    snapshot = a_snapshot(
        a_key("apple"),
        a_key("birch"),
        preferences=Preferences(default_provider="birch"),
        overrides={"mail": Override(model="birch-eyes")},
    )
    route = resolve(snapshot, Request(task="mail"))
    assert [each.model for each in route.candidates] == ["birch-eyes", "apple-chat"]


def test_model_does_not_follow_to_another_address_of_a_self_hosted_provider() -> None:
    here, there = a_key("home", model="mine"), a_key("home", "other", base_url="http://other:1/v1", model="theirs")
    route = resolve(a_snapshot(here, there), Request(credential=here.id, model="tuned"))
    assert [each.model for each in route.candidates] == ["tuned", "theirs"]


def test_model_without_any_default_is_asked_for() -> None:
    assert _why(resolve(a_snapshot(a_key("home")), Request())) == {"home": "no_model"}


def test_model_of_the_sites_choice_is_for_the_key_it_names() -> None:
    system = (a_system_key("birch"), a_system_key("cedar"))
    choice = SystemChoice(credential=system[0].id, model="birch-eyes", temperature=0.7, max_tokens=4096)
    first, second = resolve(a_snapshot(system=system, completions=choice), Request()).candidates
    assert (first.model, first.temperature, first.max_tokens) == ("birch-eyes", 0.7, 4096)
    assert (second.model, second.temperature, second.max_tokens) == ("cedar-chat", None, None)


def test_model_for_embeddings_is_no_chat_model() -> None:
    snapshot = a_snapshot(
        a_key("apple", model="apple-chat"),
        a_key("home", model="chatty"),
        system=(a_system_key("birch"),),
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
    route = resolve(a_snapshot(replace(a_key("apple"), **changes), a_key("birch")), Request())
    assert order_of(route) == ["birch"]
    assert [(dropped.why, bool(dropped.words)) for dropped in route.dropped] == [(why, True)]


def test_dropped_when_the_model_is_known_to_be_unable() -> None:
    snapshot = a_snapshot(a_key("apple"), a_key("birch", model="birch-eyes"), a_key("cedar", model="tuned"))
    route = resolve(snapshot, Request(needs=frozenset({"vision"})))
    assert order_of(route) == ["birch", "cedar"]
    assert _why(route) == {"apple": "unable"}


def test_dropped_while_key_or_destination_cools_down() -> None:
    apple, birch, cedar = a_key("apple"), a_key("birch"), a_key("cedar")
    route = resolve(a_snapshot(apple, birch, cedar), Request(), {apple.ref: 9.0, birch.destination: 4.0})
    assert order_of(route) == ["cedar"]
    assert _why(route) == {"apple": "cooling_down", "birch": "destination_down"}
    assert [dropped.retry_after_s for dropped in route.dropped] == [9.0, 4.0]


def test_cooldown_of_one_key_leaves_its_sibling_alone() -> None:
    first, second = a_key("apple"), a_key("apple", "spare")
    assert order_of(resolve(a_snapshot(first, second), Request(), {first.ref: 9.0})) == ["apple:spare"]


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
    snapshot = a_snapshot(
        system=(a_system_key("apple"), a_system_key("birch")),
        preferences=Preferences(fallback_to_system=user_says),
        overrides={"mail": Override(fallback_to_system=task_says)},
        policy=Policy(system_keys=staff_says),
        completions=SystemChoice(provider="birch"),
    )
    assert bool(resolve(snapshot, Request(task="mail")).candidates) is used


def test_no_fallback_keeps_to_what_was_named() -> None:
    keys = (a_key("apple"), a_key("birch"))
    snapshot = a_snapshot(*keys, system=(a_system_key("apple"),), preferences=Preferences(default_provider="apple"))
    assert order_of(resolve(snapshot, Request(provider="birch", fallback=False))) == ["birch"]
    assert order_of(resolve(snapshot, Request(fallback=False))) == ["apple"]
    assert order_of(resolve(snapshot, Request(provider="cedar", fallback=False))) == []
    assert set(_why(resolve(snapshot, Request(provider="birch", fallback=False))).values()) == {"no_fallback"}


def test_no_fallback_without_any_choice_keeps_to_the_first_provider() -> None:
    snapshot = a_snapshot(a_key("apple", priority=2), a_key("birch", priority=1), system=(a_system_key("birch"),))
    assert order_of(resolve(snapshot, Request(fallback=False))) == ["birch"]


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request(credential=uuid4()), "does not exist"),
        (Request(provider="nowhere"), "no provider called 'nowhere'"),
    ],
)
def test_problem_of_a_request_that_names_nothing_real(request_: Request, words: str) -> None:
    route = resolve(a_snapshot(a_key("apple"), system=(a_system_key("birch"),)), request_)
    assert route.candidates == ()
    assert words in route.problem


def test_problem_of_a_key_with_another_providers_name() -> None:
    key = a_key("apple")
    assert "another provider" in resolve(a_snapshot(key), Request(credential=key.id, provider="birch")).problem


def test_problem_of_a_deactivated_account() -> None:
    route = resolve(a_snapshot(a_key("apple"), system=(a_system_key("birch"),), user_active=False), Request())
    assert (route.candidates, route.problem) == ((), "This account is deactivated.")


def test_system_key_is_not_reached_by_its_id() -> None:
    """Only one's own keys are named by id; the site's are staff's affair."""
    system = a_system_key("apple")
    assert "does not exist" in resolve(a_snapshot(system=(system,)), Request(credential=system.id)).problem
