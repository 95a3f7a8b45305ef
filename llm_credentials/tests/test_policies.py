from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.core.exceptions import ValidationError
from django.test import Client

from llm_credentials import connection_tests, services
from llm_credentials.factory import explain_route
from llm_credentials.models import AuditEvent, GroupPolicy, SystemConfig, UserAllowance, UserCredential
from llm_credentials.policies import clean_patterns, policy_of
from llm_credentials.providers import get_spec
from llm_credentials.routing import snapshot_cache
from llm_credentials.routing.policy import Policy, combined
from llm_credentials.services import Draft
from llm_credentials.tests.factories import SystemCredentialFactory, UsageRecordFactory, UserCredentialFactory

KEY = "sk-policy-0123456789abcdef"


@pytest.fixture
def interns(alice: User) -> Group:
    group = Group.objects.create(name="Interns")
    alice.groups.add(group)
    return group


# How several combine


def test_policies_combine_to_what_each_of_them_allows() -> None:
    both = combined(
        [
            Policy(providers=(frozenset({"openai", "groq"}),), system_daily_usd=Decimal(3), rates={"chat": ("9/m",)}),
            Policy(providers=(frozenset({"groq", "mistral"}),), own_keys=False, rates={"chat": ("90/h",)}),
            Policy(system_daily_usd=Decimal(2), custom_addresses=False),
        ]
    )
    assert [slug for slug in ("openai", "groq", "mistral") if both.allows_provider(slug)] == ["groq"]
    assert (both.own_keys, both.custom_addresses, both.system_keys) == (False, False, True)
    assert both.system_daily_usd == 2
    assert both.rates == {"chat": ("9/m", "90/h")}


def test_policies_combine_to_everything_where_there_is_none() -> None:
    nothing = combined([])
    assert nothing == Policy()
    assert nothing.allows_provider("openai") and nothing.allows_model("openai", "anything")


@pytest.mark.parametrize(
    ("pattern", "provider", "model", "allowed"),
    [
        ("openai/gpt-5*", "openai", "gpt-5-mini", True),
        ("openai/gpt-5*", "openai", "gpt-4o", False),
        ("*/llama-*", "groq", "llama-3", True),
        ("together/meta-llama/*", "together", "meta-llama/Llama-4", True),
        ("openai/*", "openai_compatible", "openai/gpt-5", False),
        ("*/gpt-5", "openai_compatible", "x/gpt-5", False),
        ("openai/GPT-5", "openai", "gpt-5", False),
        ("openai/gpt-?", "openai", "gpt-5", True),
    ],
)
def test_pattern_fits_provider_and_model_each_as_a_whole(
    pattern: str, provider: str, model: str, allowed: bool
) -> None:
    assert Policy(models=((pattern,),)).allows_model(provider, model) is allowed


def test_patterns_without_a_provider_are_for_all_of_them() -> None:
    assert clean_patterns(["gpt-5*", "", " openai/o3 ", "gpt-5*"]) == ["*/gpt-5*", "openai/o3"]


@pytest.mark.parametrize("line", ["meta-llama/*", "open ai/x", "openai/", "/x", "openai/" + "x" * 300, "openai/\x00"])
def test_patterns_that_can_fit_nothing_are_refused(line: str) -> None:
    with pytest.raises(ValidationError):
        clean_patterns([line])


def test_patterns_are_not_endlessly_many() -> None:
    with pytest.raises(ValidationError):
        clean_patterns([f"openai/m{number}" for number in range(101)])


# Whom they hold for


@pytest.mark.django_db
def test_policy_holds_for_its_group_and_without_one_for_everybody(alice: User, bob: User, interns: Group) -> None:
    GroupPolicy.objects.create(group=interns, own_keys=False)
    GroupPolicy.objects.create(custom_addresses=False)
    assert (policy_of(alice).own_keys, policy_of(alice).custom_addresses) == (False, False)
    assert (policy_of(bob).own_keys, policy_of(bob).custom_addresses) == (True, False)


@pytest.mark.django_db
def test_snapshot_of_calls_knows_the_same_policy(alice: User, interns: Group) -> None:
    further = Group.objects.create(name="Further")
    alice.groups.add(further)
    GroupPolicy.objects.create(group=interns, allowed_models=["openai/*"], rates={"chat": "5/m"})
    GroupPolicy.objects.create(group=further, system_daily_usd=2)
    GroupPolicy.objects.create(group=Group.objects.create(name="Others"), own_keys=False)
    GroupPolicy.objects.create(system_keys=False)
    of_calls, of_pages = snapshot_cache.load(alice).snapshot.policy, policy_of(alice)
    assert set(of_calls.models) == set(of_pages.models)
    assert (of_calls.own_keys, of_calls.system_keys, of_calls.system_daily_usd, of_calls.rates) == (
        of_pages.own_keys,
        of_pages.system_keys,
        of_pages.system_daily_usd,
        of_pages.rates,
    )
    assert (of_calls.own_keys, of_calls.system_keys) == (True, False)


# Calls


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"allowed_providers": ["groq"]}, "OpenAI is not allowed"),
        ({"allowed_models": ["openai/o*"]}, "It allows: o*."),
        ({"allowed_models": ["groq/*"]}, "It allows no model of this provider."),
        ({"own_keys": False}, "no keys of your own"),
    ],
)
def test_route_leaves_out_what_the_policy_forbids_and_says_so(alice: User, rules: dict[str, Any], words: str) -> None:
    UserCredentialFactory(user=alice, model="gpt-4o")
    assert explain_route(alice).chosen is not None
    GroupPolicy.objects.create(**rules)
    route = explain_route(alice)
    assert route.chosen is None
    assert route.dropped[0].why == "not_allowed"
    assert words in route.dropped[0].words and "organisation's policy" in route.dropped[0].words


@pytest.mark.django_db
def test_route_leaves_out_own_addresses_that_the_policy_forbids(alice: User) -> None:
    elsewhere = UserCredentialFactory(user=alice, name="elsewhere", base_url="https://proxy.example/v1")
    UserCredentialFactory(user=alice)
    GroupPolicy.objects.create(custom_addresses=False)
    route = explain_route(alice)
    assert [each.key.id for each in route.dropped] == [elsewhere.pk]
    assert "own address only" in route.dropped[0].words


@pytest.mark.django_db
def test_route_keeps_the_sites_keys_from_whom_the_policy_names(alice: User, bob: User, interns: Group) -> None:
    SystemCredentialFactory()
    GroupPolicy.objects.create(group=interns, system_keys=False)
    assert explain_route(bob).chosen is not None
    assert "keeps its keys" in explain_route(alice).dropped[0].words


def _members(group: Group, user: User) -> dict[str, Any]:
    return {
        "user joins": lambda: user.groups.add(group),
        "group takes in": lambda: group.user_set.add(user),
    }


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("live_as_in_production")
@pytest.mark.parametrize("how", ["user joins", "group takes in"])
def test_policy_holds_at_once_where_it_was_changed(alice: User, how: str) -> None:
    UserCredentialFactory(user=alice)
    group = Group.objects.create(name="Interns")
    policy = GroupPolicy.objects.create(group=group, own_keys=False)
    assert explain_route(alice).chosen is not None
    _members(group, alice)[how]()
    assert explain_route(alice).chosen is None
    policy.own_keys = True
    policy.save()
    assert explain_route(alice).chosen is not None
    policy.own_keys = False
    policy.save()
    assert explain_route(alice).chosen is None
    policy.delete()
    assert explain_route(alice).chosen is not None


# Allowances


@pytest.mark.django_db
def test_allowance_is_the_smaller_of_site_and_policy_unless_an_exception_is_made(
    alice: User, bob: User, interns: Group
) -> None:
    SystemConfig.objects.create(category="llm", key="system_allowance", value={"daily_usd_per_user": 5})
    assert snapshot_cache.load(alice).limits.system_daily_usd == 5
    GroupPolicy.objects.create(group=interns, system_daily_usd=Decimal("1.50"))
    assert snapshot_cache.load(alice).limits.system_daily_usd == Decimal("1.50")
    assert snapshot_cache.load(bob).limits.system_daily_usd == 5
    UserAllowance.objects.create(user=alice, daily_usd=40)
    assert snapshot_cache.load(alice).limits.system_daily_usd == 40
    assert snapshot_cache.load(bob).limits.system_daily_usd == 5


# Saving, testing, listing


def _save(user: User, **changes: Any) -> UserCredential:
    return services.credential_save(user=user, **{"provider": "openai", "api_key": KEY, **changes}).credential


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("rules", "changes", "field"),
    [
        ({"allowed_providers": ["groq"]}, {}, "api_key"),
        ({"own_keys": False}, {}, "api_key"),
        ({"custom_addresses": False}, {"base_url": "https://proxy.example/v1"}, "base_url"),
        ({"allowed_models": ["openai/o*"]}, {"model": "gpt-4o"}, "model"),
        ({"allowed_models": ["openai/o*"]}, {}, "model"),
    ],
)
def test_save_refuses_what_the_policy_forbids(
    alice: User, rules: dict[str, Any], changes: dict[str, Any], field: str
) -> None:
    GroupPolicy.objects.create(**rules)
    with pytest.raises(ValidationError) as refused:
        _save(alice, **changes)
    assert list(refused.value.message_dict) == [field]
    assert KEY not in str(refused.value)
    assert not UserCredential.objects.exists()


@pytest.mark.django_db
def test_save_still_turns_off_and_removes_what_was_allowed_once(alice: User) -> None:
    _save(alice)
    GroupPolicy.objects.create(own_keys=False)
    services.credential_save(user=alice, provider="openai", is_active=False)
    assert not UserCredential.objects.get().is_active
    with pytest.raises(ValidationError):
        _save(alice, model="gpt-4o")
    services.credential_delete(user=alice, provider="openai")
    assert not UserCredential.objects.exists()


@pytest.mark.django_db
def test_default_provider_is_one_that_the_policy_allows(alice: User) -> None:
    GroupPolicy.objects.create(allowed_providers=["groq"])
    with pytest.raises(ValidationError) as refused:
        services.settings_update(user=alice, default_provider="openai")
    assert "OpenAI is not allowed" in refused.value.message_dict["default_provider"][0]
    assert services.settings_update(user=alice, default_provider="groq").default_provider == "groq"


@pytest.mark.django_db
def test_test_of_a_stored_key_that_the_policy_forbids_is_not_started(alice: User) -> None:
    UserCredentialFactory(user=alice)
    GroupPolicy.objects.create(own_keys=False)
    with pytest.raises(ValidationError):
        connection_tests.test_start(user=alice, provider="openai")
    with pytest.raises(ValidationError):
        connection_tests.models_available(user=alice, provider="openai", unsaved=Draft(api_key=KEY))


@pytest.mark.django_db(transaction=True)
def test_test_that_waited_while_the_policy_changed_opens_no_key(alice: User, sandbox_url: str) -> None:
    UserCredentialFactory(user=alice, provider="sandbox", key="sbx-good-0123456789")
    test = connection_tests.test_start(user=alice, provider="sandbox")
    GroupPolicy.objects.create(own_keys=False)
    connection_tests.test_run(test.pk)
    test.refresh_from_db()
    assert (test.state, "organisation's policy" in test.detail) == ("error", True)
    assert not AuditEvent.objects.filter(action="key.open").exists()


@pytest.mark.django_db(transaction=True)
def test_model_list_holds_only_what_the_policy_allows(alice: User, sandbox_url: str) -> None:
    UserCredentialFactory(user=alice, provider="sandbox", key="sbx-good-0123456789")
    every = connection_tests.models_available(user=alice, provider="sandbox").models
    GroupPolicy.objects.create(allowed_models=[f"sandbox/{every[0].id}"])
    found = connection_tests.models_available(user=alice, provider="sandbox")
    assert [info.id for info in found.models] == [every[0].id]
    GroupPolicy.objects.create(own_keys=False)
    assert connection_tests.models_available(user=alice, provider="sandbox").source == "catalogue"


# Staff


@pytest.fixture
def clerk(staff: User) -> Client:
    client = Client()
    client.force_login(staff)
    return client


POLICY = "/admin/llm_credentials/grouppolicy/"
ALLOWANCE = "/admin/llm_credentials/userallowance/"


@pytest.mark.django_db
def test_admin_saves_a_policy_and_shows_it_again(clerk: Client, interns: Group) -> None:
    typed = {
        "group": interns.pk,
        "allowed_providers": ["openai", "groq"],
        "allowed_models": "gpt-5*\r\nopenai/o3\r\n",
        "custom_addresses": "on",
        "system_daily_usd": "1.50",
        "rate_chat": "10/m",
    }
    assert clerk.post(POLICY + "add/", typed).status_code == 302
    policy = GroupPolicy.objects.get()
    assert (policy.allowed_providers, policy.allowed_models) == (["openai", "groq"], ["*/gpt-5*", "openai/o3"])
    assert (policy.own_keys, policy.custom_addresses, policy.system_keys) == (False, True, False)
    assert (policy.system_daily_usd, policy.rates) == (Decimal("1.50"), {"chat": "10/m"})
    page = clerk.get(f"{POLICY}{policy.pk}/change/").content.decode()
    assert "*/gpt-5*\nopenai/o3" in page and 'value="10/m"' in page
    assert "Policy for Interns" in clerk.get(POLICY).content.decode()
    assert AuditEvent.objects.filter(action="config.change", target=f"policy:{policy.pk}").exists()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("allowed_models", "nobody/x"),
        ("allowed_providers", "nobody"),
        ("rate_chat", "often"),
        ("rate_chat", "1/0m"),
        ("system_daily_usd", "-1"),
        ("system_daily_usd", "NaN"),
    ],
)
def test_admin_refuses_a_policy_that_makes_no_sense(clerk: Client, name: str, value: str) -> None:
    response = clerk.post(POLICY + "add/", {"own_keys": "on", name: value})
    assert response.status_code == 200
    assert "errornote" in response.content.decode()
    assert not GroupPolicy.objects.exists()


@pytest.mark.django_db
def test_admin_removes_a_policy_with_a_trace(clerk: Client) -> None:
    policy = GroupPolicy.objects.create(own_keys=False)
    chosen = {"action": "delete_selected", "post": "yes", "_selected_action": [str(policy.pk)]}
    clerk.post(POLICY, chosen)
    assert not GroupPolicy.objects.exists()
    assert AuditEvent.objects.filter(target=f"policy:{policy.pk}", result="removed").exists()


@pytest.mark.django_db
def test_admin_sets_what_all_may_spend(clerk: Client, alice: User) -> None:
    typed = {"daily_usd_per_user": "1.50", "daily_usd_total": "", "unpriced_models": "on"}
    assert clerk.post(ALLOWANCE + "site/", typed).status_code == 302
    limits = snapshot_cache.load(alice).limits
    assert (limits.system_daily_usd, limits.system_daily_total_usd) == (Decimal("1.5"), None)
    assert limits.system_unpriced
    assert clerk.post(ALLOWANCE + "site/", {"daily_usd_total": "-1"}).status_code == 200
    assert snapshot_cache.load(alice).limits == limits
    assert 'value="1.5"' in clerk.get(ALLOWANCE + "site/").content.decode()


@pytest.mark.django_db
def test_admin_shows_allowances_with_what_was_used(clerk: Client, alice: User, bob: User) -> None:
    assert clerk.post(ALLOWANCE + "add/", {"user": alice.pk, "daily_usd": "7", "note": "thesis"}).status_code == 302
    for user, usd in ((alice, "0.25"), (alice, "0.50"), (bob, "2")):
        UsageRecordFactory(user=user, key_owner="system", cost_usd=Decimal(usd))
    UsageRecordFactory(user=alice, key_owner="user", cost_usd=Decimal(90))
    UsageRecordFactory(user=alice, key_owner="system", state="void", cost_usd=Decimal(90))
    page = clerk.get(ALLOWANCE).content.decode()
    for shown in ("$7.00", "$0.75", "thesis", "$2.00", "$2.75"):
        assert shown in page
    assert AuditEvent.objects.filter(action="config.change", subject=str(alice.pk), target="allowance").exists()


@pytest.mark.django_db
def test_admin_lets_only_those_change_the_site_who_may(alice: User) -> None:
    alice.is_staff = True
    alice.save()
    client = Client()
    client.force_login(alice)
    assert client.get(ALLOWANCE + "site/").status_code == 403
    assert client.post(ALLOWANCE + "site/", {"daily_usd_total": "9"}).status_code == 403


def test_refusal_of_an_address_names_what_needs_one() -> None:
    policy = Policy(custom_addresses=False)
    spec = get_spec("openai_compatible")
    assert f"which {spec.label} needs" in policy.refusal_of_address(spec, "https://models.example/v1")
    assert policy.refusal_of_address(get_spec("openai"), "") == ""
