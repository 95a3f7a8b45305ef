from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from typing import Any
from uuid import uuid4

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth.models import AnonymousUser, User
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils.functional import SimpleLazyObject

from llm_credentials import factory
from llm_credentials.factory import RoutedClient, client_for, explain_route
from llm_credentials.models import (
    EnvironmentCredential,
    LLMSettings,
    SystemConfig,
    TaskOverride,
    UsageRecord,
    UserCredential,
)
from llm_credentials.providers import CredentialUnreadable, LLMClient, LLMMessage, NotConfigured
from llm_credentials.routing import kinds
from llm_credentials.routing.kinds import TaskKind
from llm_credentials.tests.factories import (
    SystemCredentialFactory,
    UsageRecordFactory,
    UserCredentialFactory,
)

pytestmark = pytest.mark.django_db

ASK = [LLMMessage.user("What is 17 * 23?")]
KEY = "sbx-good-0123456789"


@pytest.fixture
def credential(alice: User, sandbox_url: str) -> UserCredential:
    made: UserCredential = UserCredentialFactory(user=alice, provider="sandbox", key=KEY)
    return made


def _answer(client: RoutedClient, **extra: Any) -> factory.RoutedResponse:
    return async_to_sync(client.complete)(ASK, **extra)


def _refusal(client: RoutedClient) -> NotConfigured:
    with pytest.raises(NotConfigured) as caught:
        _answer(client)
    return caught.value


# Whose key


def test_client_for_uses_the_users_own_key(alice: User, credential: UserCredential) -> None:
    response = _answer(client_for(alice, task="chat"))
    assert "391" in response.text
    (attempt,) = response.receipt.attempts
    assert (attempt.provider, attempt.model, attempt.credential_id) == ("sandbox", "sandbox-chat", credential.pk)
    assert (attempt.key_owner, attempt.outcome) == ("user", "ok")
    row = UsageRecord.objects.get()
    assert (row.user_id, row.task, row.credential_id, row.key_owner) == (alice.pk, "chat", credential.pk, "user")
    assert (row.state, row.outcome) == ("settled", "ok")
    assert row.input_tokens and row.output_tokens


def test_client_for_does_no_io_before_its_first_await(alice: User, django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(0):
        client_for(alice, task="chat", provider="sandbox", needs={"tools"})


def test_client_for_a_lazy_user_works_from_async_code(alice: User, credential: UserCredential) -> None:
    lazy = SimpleLazyObject(lambda: User.objects.get(pk=alice.pk))
    assert "391" in _answer(client_for(lazy)).text  # type: ignore[arg-type]


def test_client_for_never_uses_another_users_key(alice: User, bob: User, credential: UserCredential) -> None:
    error = _refusal(client_for(bob))
    assert "/settings/llm/" in str(error)
    assert error.receipt.attempts == []


def test_client_for_another_users_credential_is_as_if_it_did_not_exist(
    alice: User, bob: User, credential: UserCredential
) -> None:
    UserCredentialFactory(user=bob, provider="sandbox", key="sbx-good-of-bob-00001")
    foreign = str(_refusal(client_for(bob, credential=credential.pk)))
    nobodys = str(_refusal(client_for(bob, credential=uuid4())))
    assert foreign == nobodys
    assert "does not exist" in foreign


def test_client_for_a_stranger_who_is_not_logged_in_refuses(credential: UserCredential) -> None:
    assert "deactivated" in str(_refusal(client_for(AnonymousUser())))


def test_client_for_a_deactivated_user_refuses(alice: User, credential: UserCredential) -> None:
    client = client_for(alice)
    User.objects.filter(pk=alice.pk).update(is_active=False)
    assert "deactivated" in str(_refusal(client))


def test_client_for_a_key_that_is_turned_off_says_so(alice: User, credential: UserCredential) -> None:
    UserCredential.objects.update(is_active=False)
    assert "Sandbox: Turned off." in str(_refusal(client_for(alice)))


def test_client_for_an_unknown_provider_says_so(alice: User, credential: UserCredential) -> None:
    assert "no provider called 'nowhere'" in str(_refusal(client_for(alice, provider="nowhere")))


def test_client_for_a_provider_that_the_site_no_longer_has(
    alice: User, credential: UserCredential, settings: Any
) -> None:
    settings.SANDBOX_URL = ""
    assert "does not offer" in str(_refusal(client_for(alice)))


def test_client_for_refuses_an_unknown_need(alice: User) -> None:
    with pytest.raises(ValueError, match="A task may need"):
        client_for(alice, needs={"telepathy"})


def test_client_for_takes_the_needs_of_its_task(
    alice: User, credential: UserCredential, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinds, "_kinds", {})
    kinds.register(TaskKind("look", "Look", "normal", {"vision"}))
    assert "sandbox-chat cannot do this: vision." in str(_refusal(client_for(alice, task="look")))


# The site's keys


@pytest.fixture
def environment_key(sandbox_url: str, settings: Any) -> None:
    settings.LLM_SYSTEM_KEYS = {
        "sandbox": {"api_key": "sbx-good-of-the-site-1", "model": "sandbox-fast", "base_url": None}
    }


def test_system_key_of_the_environment_is_the_last_resort(alice: User, environment_key: None) -> None:
    response = _answer(client_for(alice))
    (attempt,) = response.receipt.attempts
    assert (attempt.key_owner, attempt.credential_id, attempt.model) == ("system", None, "sandbox-fast")
    assert UsageRecord.objects.get().key_owner == "system"


def test_system_key_in_the_database_comes_before_the_environments(alice: User, environment_key: None) -> None:
    stored = SystemCredentialFactory(provider="sandbox", key="sbx-good-of-staff-0001")
    response = _answer(client_for(alice))
    assert response.receipt.attempts[0].credential_id == stored.pk
    stored.refresh_from_db()
    assert (stored.request_count, stored.status) == (1, "valid")


def test_system_key_needs_the_users_consent(alice: User, environment_key: None) -> None:
    LLMSettings.objects.create(user=alice, fallback_to_system=False)
    assert "Sandbox (site): Falling back to the site's keys is turned off." in str(_refusal(client_for(alice)))


def test_system_key_may_be_allowed_for_one_task_alone(alice: User, environment_key: None) -> None:
    LLMSettings.objects.create(user=alice, fallback_to_system=False)
    TaskOverride.objects.create(user=alice, task="mail", fallback_to_system=True)
    assert _answer(client_for(alice, task="mail")).receipt.attempts[0].key_owner == "system"
    _refusal(client_for(alice, task="chat"))


def test_system_key_is_not_used_without_fallback(alice: User, environment_key: None) -> None:
    assert "asks for no fallback" in str(_refusal(client_for(alice, fallback=False)))


def test_system_key_follows_an_own_key_that_fails_and_the_receipt_says_so(alice: User, environment_key: None) -> None:
    UserCredentialFactory(user=alice, provider="sandbox", key="sbx-bad-0123456789")
    receipt = _answer(client_for(alice)).receipt
    assert [(each.key_owner, each.outcome) for each in receipt.attempts] == [
        ("user", "AuthenticationFailed"),
        ("system", "ok"),
    ]


# Keys that do not open


def test_unreadable_key_moves_on_and_its_owner_is_told(alice: User, credential: UserCredential) -> None:
    other = UserCredentialFactory(user=alice, provider="sandbox", name="other", key="sbx-good-other-0001", priority=200)
    # Another row's ciphertext: it was not sealed for this one.
    UserCredential.objects.filter(pk=credential.pk).update(api_key=other.api_key)
    receipt = _answer(client_for(alice)).receipt
    assert [each.outcome for each in receipt.attempts] == ["CredentialUnreadable", "ok"]
    credential.refresh_from_db()
    assert credential.status == "needs_reentry"
    assert credential.request_count == 0
    again = _answer(client_for(alice)).receipt
    assert [each.outcome for each in again.attempts] == ["CredentialUnreadable", "ok"]
    assert "can no longer be opened" in again.reason


def test_unreadable_key_alone_asks_to_be_entered_again(alice: User, credential: UserCredential) -> None:
    other = UserCredentialFactory(user=alice, provider="openai")
    UserCredential.objects.filter(pk=credential.pk).update(api_key=other.api_key)
    other.delete()
    with pytest.raises(CredentialUnreadable):
        _answer(client_for(alice))
    error = _refusal(client_for(alice))
    assert "Enter it again" in str(error)
    assert [each.outcome for each in error.receipt.attempts] == ["CredentialUnreadable"]


# Parameters


@pytest.mark.parametrize("source", ["call", "override", "user", "system", "agent", "default"])
def test_parameters_come_from_the_first_who_says(alice: User, environment_key: None, source: str) -> None:
    """Each source stands alone with all weaker ones behind it."""
    order = ["call", "override", "user", "system", "agent", "default"]
    present = order[order.index(source) :]
    values = {"call": 1.5, "override": 1.4, "user": 1.3, "system": 1.2, "agent": 1.1, "default": 0.3}
    tokens = {"call": 15, "override": 14, "user": 13, "system": 12, "agent": 11, "default": 2000}
    if "override" in present:
        TaskOverride.objects.create(user=alice, task="mail", temperature=1.4, max_tokens=14)
    if "user" in present:
        LLMSettings.objects.create(user=alice, temperature=1.3, max_tokens=13)
    if "system" in present:
        value = {"provider": "sandbox", "temperature": 1.2, "max_tokens": 12}
        SystemConfig.objects.create(category="llm", key="completions_config", value=value)
    client = client_for(alice, task="mail")
    if "agent" in present:
        client = client.with_defaults(temperature=1.1, max_tokens=11)
    call = {"temperature": 1.5, "max_tokens": 15} if "call" in present else {}
    sent = _sent(client, **call)
    assert (sent["temperature"], sent["max_tokens"]) == (values[source], tokens[source])


def _sent(client: RoutedClient, **call: Any) -> dict[str, Any]:
    """The arguments with which the provider's client is called."""
    seen: list[dict[str, Any]] = []
    original = LLMClient.complete

    async def noting(self: LLMClient, *args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs)
        return await original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LLMClient, "complete", noting)
        _answer(client, **call)
    return seen[0]


def test_parameters_of_staff_are_for_the_sites_keys_alone(alice: User, credential: UserCredential) -> None:
    SystemConfig.objects.create(
        category="llm", key="completions_config", value={"provider": "sandbox", "temperature": 1.2, "max_tokens": 12}
    )
    sent = _sent(client_for(alice))
    assert (sent["temperature"], sent["max_tokens"]) == (0.3, 2000)


def test_parameters_stay_within_what_the_model_can_write(alice: User, credential: UserCredential) -> None:
    LLMSettings.objects.create(user=alice, max_tokens=100_000)
    assert _sent(client_for(alice, model="sandbox-chat"))["max_tokens"] == 8192
    assert _sent(client_for(alice, model="sandbox-reasoner"))["max_tokens"] == 32_768


@pytest.mark.parametrize("value", [0, [], "x", {"temperature": "hot", "max_tokens": -1, "credential": "no uuid"}])
def test_parameters_of_staff_that_make_no_sense_count_as_not_set(
    alice: User, environment_key: None, value: object
) -> None:
    SystemConfig.objects.create(category="llm", key="completions_config", value=value)
    sent = _sent(client_for(alice))
    assert (sent["temperature"], sent["max_tokens"]) == (0.3, 2000)


# The surface


@pytest.mark.parametrize("method", ["complete", "stream", "embed", "list_models", "aclose"])
def test_routed_client_has_the_surface_of_a_client(method: str) -> None:
    ours = inspect.signature(getattr(RoutedClient, method)).parameters
    theirs = inspect.signature(getattr(LLMClient, method)).parameters
    assert [(each.name, each.kind, each.default) for each in ours.values()] == [
        (each.name, each.kind, each.default) for each in theirs.values()
    ]


def test_routed_client_embeds(alice: User, credential: UserCredential) -> None:
    found = async_to_sync(client_for(alice).embed)(["one", "two"])
    assert len(found.vectors) == 2
    assert found.receipt.attempts[0].model == "sandbox-embed"
    row = UsageRecord.objects.get()
    assert (row.model, row.state, row.output_tokens) == ("sandbox-embed", "settled", 0)


def test_routed_client_lists_models(alice: User, credential: UserCredential) -> None:
    assert "sandbox-chat" in {model.id for model in async_to_sync(client_for(alice).list_models)()}


def test_routed_client_takes_a_model_by_call(alice: User, credential: UserCredential) -> None:
    assert _answer(client_for(alice), model="sandbox-fast").model == "sandbox-fast"


def test_routed_client_shows_nothing_of_the_user_or_key(alice: User, credential: UserCredential) -> None:
    assert repr(client_for(alice, task="chat")) == "<RoutedClient task='chat'>"


def test_routed_client_serves_many_at_once_each_with_their_own_key(alice: User, bob: User, sandbox_url: str) -> None:
    mine = UserCredentialFactory(user=alice, provider="sandbox", key="sbx-good-of-alice-001")
    his = UserCredentialFactory(user=bob, provider="sandbox", key="sbx-good-of-bob-00001")

    async def go() -> list[tuple[str, Any]]:
        async def one(number: int) -> tuple[str, Any]:
            user = (alice, bob)[number % 2]
            response = await client_for(user).complete([LLMMessage.user(f"What is {number} + 1?")])
            assert str(number + 1) in response.text
            return user.username, response.receipt.attempts[0].credential_id

        return await asyncio.gather(*(one(number) for number in range(40)))

    assert Counter(async_to_sync(go)()) == {("alice", mine.pk): 20, ("bob", his.pk): 20}
    mine.refresh_from_db()
    assert mine.request_count == 20
    assert UsageRecord.objects.filter(user=alice, state="settled").count() == 20


# Strategies


def test_strategy_fastest_goes_by_what_this_user_measured(alice: User, bob: User, credential: UserCredential) -> None:
    slow = credential
    quick = UserCredentialFactory(user=alice, provider="sandbox", name="quick", key=KEY, priority=200)
    LLMSettings.objects.create(user=alice, strategy="fastest")
    for user, row, latency_ms in ((alice, slow, 4000), (alice, quick, 40), (bob, slow, 1)):
        UsageRecordFactory(user=user, credential_id=row.pk, latency_ms=latency_ms, outcome="ok", key_owner="user")
    assert [each.key.id for each in explain_route(alice).candidates] == [quick.pk, slow.pk]


def test_strategy_balanced_takes_turns_between_calls(alice: User, credential: UserCredential) -> None:
    other = UserCredentialFactory(user=alice, provider="sandbox", name="other", key=KEY, priority=200)
    LLMSettings.objects.create(user=alice, strategy="balanced")
    used = Counter(_answer(client_for(alice)).receipt.attempts[0].credential_id for _ in range(6))
    assert used == {credential.pk: 3, other.pk: 3}


# Explaining


def test_explain_route_names_the_chain_and_what_is_left_out(alice: User, credential: UserCredential) -> None:
    UserCredentialFactory(user=alice, provider="openai", is_active=False)
    route = explain_route(alice, task="chat")
    assert route.chosen is not None
    assert (route.chosen.key.id, route.chosen.model) == (credential.pk, "sandbox-chat")
    assert [(each.key.provider, each.why) for each in route.dropped] == [("openai", "inactive")]


def test_explain_route_opens_nothing_and_asks_little(
    alice: User, credential: UserCredential, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*args: Any) -> None:
        raise AssertionError("a key was opened")

    monkeypatch.setattr(UserCredential, "reveal", opened)
    monkeypatch.setattr(EnvironmentCredential, "reveal", opened)
    with CaptureQueriesContext(
        connection,
    ) as queries:
        explain_route(alice)
    assert len(queries) <= 7


def test_explain_route_works_inside_a_transaction(alice: User, credential: UserCredential) -> None:
    with transaction.atomic():
        assert explain_route(alice).chosen is not None


@pytest.mark.django_db(transaction=True)
def test_deleted_key_is_not_used_again(alice: User, credential: UserCredential) -> None:
    """Its client may still be kept, but nothing leads to it."""

    async def go() -> None:
        await client_for(alice).complete(ASK)
        await sync_to_async(credential.delete)()
        with pytest.raises(NotConfigured):
            await client_for(alice).complete(ASK)

    async_to_sync(go)()
