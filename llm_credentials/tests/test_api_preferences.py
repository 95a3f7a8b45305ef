from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.test import Client

from llm_credentials import services
from llm_credentials.models import GroupPolicy, LLMSettings, TaskOverride
from llm_credentials.routing import kinds
from llm_credentials.tests.factories import SystemCredentialFactory, UserCredentialFactory

pytestmark = pytest.mark.django_db

SETTINGS = "/api/user/llm-settings"
OVERRIDES = "/api/user/task-overrides"
ROUTES = "/api/user/llm-routes"
KEY = "sk-preferences-0123456789abcdef"


@pytest.fixture
def program(alice: User) -> Client:
    return Client(headers={"Authorization": f"Bearer {services.token_create(user=alice)[1]}"})


def _send(program: Client, method: str, path: str, body: Any) -> tuple[int, Any]:
    send = getattr(program, method)
    response = send(path, body if isinstance(body, str) else json.dumps(body), content_type="application/json")
    return response.status_code, json.loads(response.content) if response.content else None


# Settings


def test_settings_are_the_defaults_until_they_are_changed(program: Client) -> None:
    assert program.get(SETTINGS).json() == {
        "default_provider": "",
        "fallback_to_system": True,
        "temperature": None,
        "max_tokens": None,
        "strategy": "priority",
        "monthly_budget_usd": None,
        "run_budget_usd": None,
        "budget_stops": True,
        "alerts": True,
    }


def test_settings_change_only_what_is_named(program: Client, alice: User, bob: User) -> None:
    services.settings_update(user=alice, temperature=0.5, max_tokens=100)
    status, body = _send(program, "patch", SETTINGS, {"strategy": "fastest", "monthly_budget_usd": "12.50"})
    assert (status, body["strategy"], body["monthly_budget_usd"]) == (200, "fastest", "12.50")
    assert (body["temperature"], body["max_tokens"]) == (0.5, 100)
    assert _send(program, "patch", SETTINGS, {"temperature": None})[1]["temperature"] is None
    assert _send(program, "patch", SETTINGS, {}) == (200, program.get(SETTINGS).json())
    assert LLMSettings.of(alice).monthly_budget_usd == Decimal("12.50")
    assert LLMSettings.of(bob).strategy == "priority"


@pytest.mark.parametrize(
    "body",
    [
        {"temperature": 3},
        {"temperature": True},
        {"temperature": "0.5"},
        {"max_tokens": 0},
        {"max_tokens": "10"},
        {"max_tokens": 2**63},
        {"strategy": "luck"},
        {"strategy": None},
        {"fallback_to_system": None},
        {"fallback_to_system": "yes"},
        {"default_provider": "nobody"},
        {"monthly_budget_usd": -1},
        {"monthly_budget_usd": 1e30},
        {"monthly_budget_usd": "NaN"},
        {"monthly_budget_usd": "1.234"},
        {"user_id": 1},
        {"temperature": 1, "unknown": 1},
    ],
)
def test_settings_refuse_what_makes_no_sense(program: Client, alice: User, body: dict[str, Any]) -> None:
    status, answer = _send(program, "patch", SETTINGS, body)
    assert (status, set(answer["error"])) == (422, {"code", "message", "where"})
    assert not LLMSettings.objects.exists()


def test_settings_refuse_what_is_no_json(program: Client) -> None:
    for text in ("[]", "{", '{"temperature": NaN}'):
        assert _send(program, "patch", SETTINGS, text)[0] == 400


# Overrides


def test_override_is_set_read_listed_and_removed(program: Client, alice: User, bob: User) -> None:
    UserCredentialFactory(user=alice, provider="openai", name="work")
    services.task_override_set(user=bob, task="code", model="bobs-model")
    path = f"{OVERRIDES}/code"
    assert program.get(path).status_code == 404
    wanted = {"provider": "openai", "name": "work", "model": "gpt-5", "temperature": 0.2, "fallback_to_system": False}
    expected = {"task": "code", "max_tokens": None, **wanted}
    assert _send(program, "put", path, wanted) == (200, expected)
    assert program.get(path).json() == expected
    assert program.get(OVERRIDES).json() == {"items": [expected], "count": 1}
    assert _send(program, "put", path, {"provider": "mistral"})[1]["model"] == ""
    assert program.delete(path).status_code == 204
    assert program.delete(path).status_code == 404
    assert [row.user_id for row in TaskOverride.objects.all()] == [bob.pk]


def test_override_that_says_nothing_is_none(program: Client, alice: User) -> None:
    services.task_override_set(user=alice, task="code", model="m")
    status, body = _send(program, "put", f"{OVERRIDES}/code", {})
    assert (status, body["model"]) == (200, "")
    assert not TaskOverride.objects.exists()


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"provider": "nobody"}, "body.provider"),
        ({"provider": "openai", "name": "theirs"}, "body.name"),
        ({"name": "work"}, "body.name"),
        ({"model": "../x"}, "body.model"),
        ({"temperature": -1}, "body.temperature"),
        ({"max_tokens": True}, "body.max_tokens"),
        ({"fallback_to_system": 1}, "body.fallback_to_system"),
        ({"credential": "x"}, "body.credential"),
    ],
)
def test_override_refuses_what_makes_no_sense(program: Client, bob: User, body: dict[str, Any], where: str) -> None:
    UserCredentialFactory(user=bob, provider="openai", name="theirs")
    status, answer = _send(program, "put", f"{OVERRIDES}/code", body)
    assert (status, answer["error"]["where"]) == (404 if where == "body.name" else 422, where)
    assert not TaskOverride.objects.exists()


@pytest.mark.parametrize("task", ["nothing", "x" * 200, "..%2f"])
def test_override_of_no_task_is_not_found(program: Client, task: str) -> None:
    assert program.get(f"{OVERRIDES}/{task}").status_code == 404
    assert _send(program, "put", f"{OVERRIDES}/{task}", {"model": "m"})[0] == 404
    assert program.delete(f"{OVERRIDES}/{task}").status_code == 404


# Routes


def test_routes_say_for_each_task_who_answers_and_who_does_not(program: Client, alice: User) -> None:
    UserCredentialFactory(user=alice, key=KEY)
    UserCredentialFactory(user=alice, provider="mistral", is_active=False)
    SystemCredentialFactory(provider="anthropic")
    services.task_override_set(user=alice, task="code", model="gpt-5", fallback_to_system=False)
    response = program.get(ROUTES)
    assert KEY not in response.content.decode()
    body = response.json()
    assert [item["task"] for item in body["items"]] == [None, *(kind.slug for kind in kinds.all())]
    code = program.get(ROUTES, {"task": "code"}).json()["items"][0]
    assert (code["label"], code["weight"], code["needs"], code["problem"]) == ("Code", "heavy", ["tools"], "")
    assert [(each["provider"], each["model"], each["key_owner"]) for each in code["candidates"]] == [
        ("openai", "gpt-5", "user")
    ]
    assert {(each["provider"], each["why"]) for each in code["dropped"]} == {
        ("mistral", "inactive"),
        ("anthropic", "no_consent"),
    }


def test_routes_of_no_task_are_refused(program: Client) -> None:
    for task in ("nothing", ""):
        assert program.get(ROUTES, {"task": task}).status_code == 422, task


def test_routes_say_what_if_a_key_failed(program: Client, alice: User, bob: User) -> None:
    UserCredentialFactory(user=alice)
    UserCredentialFactory(user=alice, provider="mistral", name="work")
    UserCredentialFactory(user=bob, provider="groq")
    item = program.get(ROUTES, {"task": "code", "without": "openai:default"}).json()["items"][0]
    assert [each["provider"] for each in item["candidates"]] == ["mistral"]
    assert [each["why"] for each in item["dropped"]] == ["supposed"]
    for unknown in ("groq", "mistral:default", "system", "", "x" * 101):
        assert program.get(ROUTES, {"without": unknown}).status_code in (404, 422), unknown


def test_routes_say_that_the_policy_leaves_a_key_out(program: Client, alice: User) -> None:
    UserCredentialFactory(user=alice)
    group = Group.objects.create(name="Interns")
    alice.groups.add(group)
    GroupPolicy.objects.create(group=group, own_keys=False)
    item = program.get(ROUTES, {"task": "code"}).json()["items"][0]
    assert item["candidates"] == []
    assert (item["dropped"][0]["why"], "policy" in item["dropped"][0]["reason"]) == ("not_allowed", True)


# The catalogue


def test_providers_are_described_with_models_and_prices(program: Client) -> None:
    items = {item["slug"]: item for item in program.get("/api/providers").json()["items"]}
    openai = items["openai"]
    assert openai["key_hint"] and openai["docs_url"].startswith("https://") and openai["allowed"]
    default = next(model for model in openai["models"] if model["id"] == openai["default_model"])
    assert Decimal(default["output_usd_per_million"]) > Decimal(default["input_usd_per_million"]) > 0
    assert "chat" in default["capabilities"] and default["allowed"]
    assert [field["name"] for field in items["azure_openai"]["options"]] == ["api_version", "deployment"]
    assert items["openai_compatible"]["base_url"] is None


def test_providers_say_what_the_policy_forbids(program: Client, alice: User) -> None:
    GroupPolicy.objects.create(allowed_providers=["openai"], allowed_models=["openai/gpt-5*"])
    items = {item["slug"]: item for item in program.get("/api/providers").json()["items"]}
    assert (items["openai"]["allowed"], items["openai"]["refusal"]) == (True, "")
    assert not items["groq"]["allowed"] and "Groq is not allowed" in items["groq"]["refusal"]
    allowed = {model["id"]: model["allowed"] for model in items["openai"]["models"]}
    assert all(allowed[name] is name.startswith("gpt-5") for name in allowed)
    assert not any(model["allowed"] for model in items["groq"]["models"])


@pytest.mark.parametrize("path", [SETTINGS, OVERRIDES, ROUTES, "/api/providers"])
def test_reading_asks_few_queries(program: Client, alice: User, django_assert_max_num_queries: Any, path: str) -> None:
    UserCredentialFactory(user=alice)
    program.get(path)
    with django_assert_max_num_queries(10):
        assert program.get(path).status_code == 200


# Limits


def test_api_tells_how_far_its_limits_are_used(program: Client, alice: User, bob: User, set_rate: Any) -> None:
    set_rate("api", "user", "2/m")
    first = program.get(SETTINGS)
    assert (first.headers["RateLimit-Limit"], first.headers["RateLimit-Remaining"]) == ("2", "1")
    assert 1 <= int(first.headers["RateLimit-Reset"]) <= 60
    program.get(SETTINGS)
    refused = program.get(SETTINGS)
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "rate_limited"
    assert refused.headers["Retry-After"] == refused.headers["RateLimit-Reset"]
    assert refused.headers["RateLimit-Remaining"] == "0"
    other = Client(headers={"Authorization": f"Bearer {services.token_create(user=bob)[1]}"})
    assert other.get(SETTINGS).status_code == 200


def test_api_limits_each_token_by_itself(program: Client, alice: User, set_rate: Any) -> None:
    set_rate("api", "token", "1/m")
    second = Client(headers={"Authorization": f"Bearer {services.token_create(user=alice)[1]}"})
    assert [program.get(SETTINGS).status_code for _ in range(2)] == [200, 429]
    assert second.get(SETTINGS).status_code == 200


def test_api_holds_the_stricter_limit_of_a_policy(program: Client, alice: User) -> None:
    GroupPolicy.objects.create(rates={"api": "1/h"})
    assert [program.get(SETTINGS).status_code for _ in range(2)] == [200, 429]
