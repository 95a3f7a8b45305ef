from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from llm_credentials import services
from llm_credentials.models import AuditEvent, GroupPolicy, LLMSettings, TaskOverride, UserCredential
from llm_credentials.routing import kinds
from llm_credentials.tests.factories import SystemCredentialFactory, UserCredentialFactory

pytestmark = pytest.mark.django_db

URL = "/settings/llm/routing/"
CODE = URL + "tasks/code/"
HTMX = {"HX-Request": "true"}


@pytest.fixture
def keys(alice: User) -> list[UserCredential]:
    return [
        UserCredentialFactory(user=alice, provider="openai", priority=1),
        UserCredentialFactory(user=alice, provider="mistral", priority=2),
        UserCredentialFactory(user=alice, provider="mistral", name="work", priority=3),
    ]


@pytest.fixture
def visitor(alice: User) -> Client:
    client = Client()
    client.force_login(alice)
    return client


def _typed(**changes: Any) -> dict[str, Any]:
    return {"choice": "", "model": "", "temperature": "", "max_tokens": "", "consent": ""} | changes


# The page


def test_page_lists_every_task_with_its_chain(visitor: Client, keys: Any) -> None:
    page = visitor.get(URL).content.decode()
    for kind in kinds.all():
        assert f'id="task-{kind.slug}"' in page
        assert kind.label in page
    assert {kind.slug for kind in kinds.all()} >= {
        *("conversation", "code", "research", "blog_writing", "email_drafting", "search_engine", "analysis"),
        *("email_design", "expense", "supervisor", "gateway"),
    }
    assert "OpenAI (gpt" in page and ", then Mistral" in page


@pytest.mark.parametrize("keys_too", [True, False])
def test_page_asks_few_queries(
    visitor: Client, alice: User, django_assert_max_num_queries: Any, keys_too: bool
) -> None:
    for number in range(6 if keys_too else 0):
        UserCredentialFactory(user=alice, name=f"k{number}")
    with django_assert_max_num_queries(10):
        assert visitor.get(URL).status_code == 200


def test_page_without_keys_says_what_to_do(visitor: Client) -> None:
    page = visitor.get(URL).content.decode()
    assert "Nobody can answer" in page and "No key yet" in page


def test_page_is_a_users_own(visitor: Client, bob: User, keys: Any) -> None:
    services.task_override_set(user=bob, task="code", model="bobs-model")
    assert "bobs-model" not in visitor.get(URL).content.decode()
    assert Client().get(URL).status_code == 302


def test_page_shows_what_the_policy_leaves_out(visitor: Client, keys: Any) -> None:
    GroupPolicy.objects.create(allowed_providers=["mistral"])
    page = visitor.get(URL).content.decode()
    assert "OpenAI is not allowed by your organisation&#x27;s policy" in page
    assert '<option value="provider:openai"' not in page.split('id="task-code"')[1].split("</select>")[0]


def test_page_shows_who_answers_if_a_key_failed(visitor: Client, keys: list[UserCredential]) -> None:
    SystemCredentialFactory(provider="anthropic")
    page = visitor.get(URL, {"failed": f"user:{keys[0].pk}"}).content.decode()
    assert "OpenAI (gpt" not in page and "Mistral (mistral" in page and "supposed to fail" in page
    answer = visitor.get(URL, {"failed": "system"}, headers=HTMX).content.decode()
    assert "<html" not in answer and 'id="chain-code"' in answer and "supposed to fail" in answer
    assert visitor.get(URL, {"failed": "user:nobody"}).status_code == 200


# A task


def test_override_is_saved_and_shown(visitor: Client, alice: User, keys: list[UserCredential]) -> None:
    typed = _typed(choice=f"key:{keys[2].pk}", model="m-1", temperature="0.2", max_tokens="500", consent="off")
    assert visitor.post(CODE, typed).status_code == 302
    row = TaskOverride.objects.for_user(alice).get()
    assert (row.task, row.credential_id, row.provider, row.model) == ("code", keys[2].pk, "", "m-1")
    assert (row.temperature, row.max_tokens, row.fallback_to_system) == (0.2, 500, False)
    page = visitor.get(URL).content.decode().split('id="task-code"')[1].split("</tbody>")[0]
    for shown in ('value="m-1"', 'value="0.2"', 'value="500"', "Mistral · work (m-1) answers"):
        assert shown in page
    assert AuditEvent.objects.filter(action="settings.change", target="override:code").count() == 1


def test_override_is_saved_inline_without_touching_the_fields(visitor: Client, alice: User, keys: Any) -> None:
    answer = visitor.post(CODE, _typed(choice="provider:mistral"), headers=HTMX)
    text = answer.content.decode()
    assert answer.status_code == 200
    assert "<input" not in text and "<select" not in text
    assert 'id="chain-code"' in text and "Mistral (mistral" in text and "Saved" in text
    assert TaskOverride.objects.for_user(alice).get().provider == "mistral"


def test_override_that_says_nothing_is_none(visitor: Client, alice: User, keys: Any) -> None:
    services.task_override_set(user=alice, task="code", model="m")
    visitor.post(CODE, _typed())
    assert not TaskOverride.objects.exists()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("temperature", "9", "between 0 and 2"),
        ("temperature", "-1", "between 0 and 2"),
        ("temperature", "NaN", "number"),
        ("temperature", "warm", "number"),
        ("max_tokens", "0", "whole number from 1"),
        ("max_tokens", "9" * 30, "whole number from 1"),
        ("max_tokens", "1.5", "whole number"),
        ("model", "../../admin", "path"),
        ("model", "sk-" + "a" * 40, "looks like a key"),
        ("model", "m" * 300, "characters"),
        ("choice", "provider:nobody", "no such provider"),
        ("choice", "key:11111111-1111-1111-1111-111111111111", "no such key"),
        ("choice", "key:x", "no such key"),
        ("consent", "perhaps", "valid choice"),
    ],
)
@pytest.mark.parametrize("headers", [{}, HTMX], ids=["page", "htmx"])
def test_override_refuses_bad_input_beside_its_field(
    visitor: Client, keys: Any, headers: dict[str, str], name: str, value: str, words: str
) -> None:
    response = visitor.post(CODE, _typed(**{name: value}), headers=headers)
    text = response.content.decode()
    assert response.status_code == 422
    assert words in text.split(f'id="task-code-{name}-errors"')[1].split("</div>")[0]
    assert not TaskOverride.objects.exists()
    assert ("<html" in text) is not bool(headers)


def test_override_refused_keeps_what_was_typed(visitor: Client, keys: Any) -> None:
    text = visitor.post(CODE, _typed(temperature="9", model="my-model", consent="off")).content.decode()
    row = text.split('id="task-code"')[1].split("</tbody>")[0]
    assert 'value="9"' in row and 'value="my-model"' in row and '<option value="off" selected>' in row


def test_override_is_never_anothers_key(visitor: Client, bob: User) -> None:
    theirs = UserCredentialFactory(user=bob)
    assert visitor.post(CODE, _typed(choice=f"key:{theirs.pk}")).status_code == 422
    assert not TaskOverride.objects.exists()


def test_override_refuses_what_the_policy_forbids(visitor: Client, keys: Any) -> None:
    GroupPolicy.objects.create(allowed_models=["mistral/*"])
    refused = visitor.post(CODE, _typed(choice="provider:openai", model="gpt-5"), headers=HTMX)
    assert refused.status_code == 422
    assert "organisation&#x27;s policy" in refused.content.decode()


def test_override_of_no_task_is_not_found(visitor: Client) -> None:
    assert visitor.post(URL + "tasks/nothing/", _typed()).status_code == 404
    assert visitor.post(URL + "tasks/nothing/reset/").status_code == 404


def test_override_is_reset(visitor: Client, alice: User, bob: User, keys: Any) -> None:
    for user in (alice, bob):
        services.task_override_set(user=user, task="code", model="m-1")
    answer = visitor.post(CODE + "reset/", headers=HTMX).content.decode()
    assert answer.strip().startswith("<tbody") and "m-1" not in answer
    assert visitor.post(CODE + "reset/").status_code == 302
    assert [row.user_id for row in TaskOverride.objects.all()] == [bob.pk]


# What holds for all tasks


def test_defaults_are_saved(visitor: Client, alice: User, keys: Any) -> None:
    typed = _typed(choice="provider:mistral", temperature="0.4", max_tokens="900", consent="off")
    answer = visitor.post(URL + "defaults/", typed, headers=HTMX).content.decode()
    row = LLMSettings.of(alice)
    assert (row.default_provider, row.temperature, row.max_tokens) == ("mistral", 0.4, 900)
    assert not row.fallback_to_system
    assert 'id="chain-code"' in answer and 'id="order"' in answer
    visitor.post(URL + "defaults/", _typed(consent="on"))
    row = LLMSettings.of(alice)
    assert (row.default_provider, row.temperature, row.fallback_to_system) == ("", None, True)


def test_defaults_refuse_bad_input(visitor: Client, alice: User) -> None:
    refused = visitor.post(URL + "defaults/", _typed(temperature="3"), headers=HTMX)
    assert refused.status_code == 422 and "between 0 and 2" in refused.content.decode()
    assert LLMSettings.of(alice).temperature is None


@pytest.mark.parametrize("strategy", LLMSettings.Strategy.values)
def test_strategy_is_saved(visitor: Client, alice: User, keys: Any, strategy: str) -> None:
    assert visitor.post(URL + "strategy/", {"strategy": strategy}, headers=HTMX).status_code == 200
    assert LLMSettings.of(alice).strategy == strategy
    assert f'value="{strategy}" checked' in visitor.get(URL).content.decode()


def test_strategy_that_is_none_is_refused(visitor: Client, alice: User) -> None:
    assert visitor.post(URL + "strategy/", {"strategy": "luck"}, headers=HTMX).status_code == 422
    assert visitor.post(URL + "strategy/", {"strategy": "luck"}).status_code == 302
    assert LLMSettings.of(alice).strategy == "priority"


# The order


def _order(user: User) -> list[str]:
    return [f"{row.provider}:{row.name}" for row in UserCredential.objects.for_user(user).in_order()]


def test_key_moves_up_and_down_and_not_past_the_ends(visitor: Client, alice: User, keys: list[UserCredential]) -> None:
    def move(key: UserCredential, where: str) -> list[str]:
        assert visitor.post(URL + "order/move/", {"credential": key.pk, "move": where}).status_code == 302
        return _order(alice)

    assert move(keys[2], "up") == ["openai:default", "mistral:work", "mistral:default"]
    assert move(keys[2], "up") == ["mistral:work", "openai:default", "mistral:default"]
    assert move(keys[2], "up") == ["mistral:work", "openai:default", "mistral:default"]
    assert move(keys[2], "down") == ["openai:default", "mistral:work", "mistral:default"]


def test_order_is_taken_as_it_was_dragged(visitor: Client, alice: User, keys: list[UserCredential]) -> None:
    dragged = {"credential": [keys[2].pk, keys[0].pk]}
    answer = visitor.post(URL + "order/", dragged, headers=HTMX).content.decode()
    assert _order(alice) == ["mistral:work", "openai:default", "mistral:default"]
    assert answer.index("Mistral · work") < answer.index("OpenAI")


@pytest.mark.parametrize("what", ["another user's", "twice", "nonsense"])
def test_order_of_other_keys_is_refused(
    visitor: Client, alice: User, bob: User, keys: list[UserCredential], what: str
) -> None:
    theirs = UserCredentialFactory(user=bob, priority=7)
    ids = {"another user's": [theirs.pk, keys[1].pk], "twice": [keys[1].pk, keys[1].pk], "nonsense": ["x"]}[what]
    before = _order(alice)
    assert visitor.post(URL + "order/", {"credential": ids}, headers=HTMX).status_code == 422
    moved = {"credential": ids[0] if what != "twice" else "", "move": "up"}
    assert visitor.post(URL + "order/move/", moved, headers=HTMX).status_code == 422
    theirs.refresh_from_db()
    assert (_order(alice), theirs.priority) == (before, 7)


def test_order_changes_nothing_but_the_order(alice: User, keys: list[UserCredential]) -> None:
    services.chain_order(user=alice, credentials=[keys[1].pk])
    before = list(UserCredential.objects.order_by("pk").values_list())
    services.chain_order(user=alice, credentials=[keys[1].pk])
    assert list(UserCredential.objects.order_by("pk").values_list()) == before
