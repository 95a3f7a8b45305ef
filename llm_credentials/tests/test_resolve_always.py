"""What holds of every route, whatever the situation."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from hypothesis import given, settings

from llm_credentials.routing.policy import Policy, combined
from llm_credentials.routing.resolve import resolve
from llm_credentials.routing.values import Override, Request, Snapshot
from llm_credentials.tests.snapshots import (
    SPECS,
    situations,
    some_policies,
)


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


@given(situations(), some_policies)
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
@given(situations())
def test_resolve_holds_in_every_situation(situation: tuple[Any, Any, Any]) -> None:
    for holds in ALWAYS:
        holds(*situation)
