"""The site's models and keys as staff settle them through the API."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from llm_credentials import connection_tests, services, site_settings
from llm_credentials.factory import explain_route
from llm_credentials.models import AuditEvent, ConnectionTest, SystemConfig, SystemCredential, UserCredential
from llm_credentials.tests.factories import SystemCredentialFactory, UserCredentialFactory

ROOT = "/api/settings/ai"
GOOD = "sbx-good-CANARY-0123456789"
OTHER = "sbx-good-OTHERS-9876543210"

pytestmark = pytest.mark.django_db
committed = pytest.mark.django_db(transaction=True)
"""Where a provider is asked, which no transaction may wait for."""


@pytest.fixture
def clerk(db: Any) -> User:
    """Staff who may change the site's configuration, and nothing else."""
    user = User.objects.create_user("clerk", "clerk@example.com", "clerk-password", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="change_systemconfig"))
    return user


@pytest.fixture
def program(clerk: User, sandbox_url: str) -> Client:
    return Client(headers={"Authorization": f"Bearer {services.token_create(user=clerk)[1]}"})


def put(client: Client, use: str, **body: Any) -> Any:
    return client.put(f"{ROOT}/{use}", json.dumps(body), content_type="application/json")


def post(client: Client, what: str, **body: Any) -> Any:
    return client.post(f"{ROOT}/{what}", json.dumps(body), content_type="application/json")


def refusal_of(response: Any) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["where"]


def config(key: str) -> Any:
    return SystemConfig.objects.get(category="llm", key=key).value


def test_get_says_that_nothing_is_settled(program: Client) -> None:
    body = program.get(ROOT).json()
    nothing = {"provider": None, "api_key_set": False, "model": "", "endpoint": None}
    assert body == {
        "completions": {**nothing, "max_tokens": None, "temperature": None},
        "embeddings": {**nothing, "same_key_as_completions": False},
    }


def test_completions_are_stored_where_routes_read_them(program: Client, alice: User) -> None:
    response = put(program, "completions", provider="sandbox", api_key=GOOD, model="sandbox-fast")
    assert response.status_code == 200, response.content
    assert response.json()["completions"] == {
        **{"provider": "sandbox", "api_key_set": True, "model": "sandbox-fast", "endpoint": None},
        **{"max_tokens": 4096, "temperature": 0.7},
    }
    row = SystemCredential.objects.get()
    assert (row.provider, row.name, row.last4) == ("sandbox", "default", GOOD[-4:])
    assert config("completions_config") == {
        **{"credential": str(row.pk), "provider": "sandbox", "model": "sandbox-fast"},
        **{"max_tokens": 4096, "temperature": 0.7},
    }
    first = explain_route(alice).candidates[0]
    assert (first.key.id, first.model, first.temperature, first.max_tokens) == (row.pk, "sandbox-fast", 0.7, 4096)
    assert GOOD not in response.text + json.dumps(config("completions_config"))


def test_what_get_says_can_be_put_back(program: Client) -> None:
    put(program, "completions", provider="sandbox", api_key=GOOD, model="sandbox-fast", temperature=1, max_tokens=5)
    put(program, "embeddings", same_key_as_completions=True)
    before = program.get(ROOT).json()
    events = AuditEvent.objects.filter(action="config.change").count()
    for use in ("completions", "embeddings"):
        body = {name: value for name, value in before[use].items() if name != "api_key_set"}
        assert put(program, use, **body).json() == before
    assert AuditEvent.objects.filter(action="config.change").count() == events == 2


def test_key_stays_when_it_is_left_out_or_masked(program: Client) -> None:
    put(program, "completions", provider="sandbox", api_key=GOOD)
    for key in ("", None, "•••• 6789"):
        assert put(program, "completions", provider="sandbox", api_key=key, model="sandbox-fast").status_code == 200
    assert SystemCredential.objects.get().is_key(GOOD)
    put(program, "completions", provider="sandbox", api_key=OTHER)
    assert SystemCredential.objects.get().is_key(OTHER)
    assert config("completions_config")["model"] == "sandbox-fast"


def test_changing_the_provider_clears_the_model(program: Client) -> None:
    put(program, "completions", provider="sandbox", api_key=GOOD, model="my-own", max_tokens=9)
    body = put(program, "completions", provider="groq", api_key="gsk_0123456789abcdef").json()["completions"]
    assert (body["provider"], body["model"], body["max_tokens"]) == ("groq", "", 9)
    # A form that still held it clears it too; the key of the first provider is still there.
    body = put(program, "completions", provider="sandbox", model="").json()["completions"]
    assert (body["model"], body["api_key_set"]) == ("", True)


def test_limits_are_unset_by_null(program: Client) -> None:
    put(program, "completions", provider="sandbox", api_key=GOOD)
    body = put(program, "completions", provider="sandbox", max_tokens=None, temperature=None).json()["completions"]
    assert (body["max_tokens"], body["temperature"]) == (None, None)


@committed
def test_a_changed_endpoint_asks_for_the_key_again(program: Client) -> None:
    own = {"provider": "openai_compatible", "model": "m"}
    first = put(program, "completions", **own, endpoint="https://one.example/v1", api_key=GOOD)
    assert first.json()["completions"]["endpoint"] == "https://one.example/v1"
    moved = put(program, "completions", **own, endpoint="https://two.example/v1")
    assert refusal_of(moved) == (409, "body.api_key")
    assert SystemCredential.objects.get().base_url == "https://one.example/v1"
    for what in ("test", "models"):
        elsewhere = post(program, what, provider="openai_compatible", endpoint="https://two.example/v1")
        assert refusal_of(elsewhere) == (409, "body.api_key"), what
    assert put(program, "completions", **own, endpoint="https://two.example/v1", api_key=GOOD).status_code == 200


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({}, "body.provider"),
        ({"provider": "nobody"}, "body.provider"),
        ({"provider": "openai"}, "body.api_key"),
        ({"provider": "openai", "api_key": "short"}, "body.api_key"),
        ({"provider": "openai", "api_key": "•••• 6789"}, "body.api_key"),
        ({"provider": "openai", "api_key": "sk-x\nX-Evil: 1"}, "body.api_key"),
        ({"provider": "sandbox", "api_key": GOOD, "endpoint": "https://evil.example"}, "body.endpoint"),
        ({"provider": "openai_compatible", "api_key": GOOD, "model": "m"}, "body.endpoint"),
        ({"provider": "openai_compatible", "model": "m", "endpoint": "http://169.254.169.254/v1"}, "body.endpoint"),
        ({"provider": "openai_compatible", "endpoint": "https://one.example/v1"}, "body.model"),
        ({"provider": "sandbox", "api_key": GOOD, "model": "../x"}, "body.model"),
        ({"provider": "sandbox", "api_key": GOOD, "model": "sandbox-embed"}, "body.model"),
        ({"provider": "sandbox", "api_key": GOOD, "model": GOOD}, "body.model"),
        ({"provider": "sandbox", "api_key": GOOD, "temperature": 2.1}, "body.temperature"),
        ({"provider": "sandbox", "api_key": GOOD, "temperature": "1"}, "body.temperature"),
        ({"provider": "sandbox", "api_key": GOOD, "max_tokens": 0}, "body.max_tokens"),
        ({"provider": "sandbox", "api_key": GOOD, "max_tokens": True}, "body.max_tokens"),
        ({"provider": "sandbox", "api_key": GOOD, "base_url": "https://x.example"}, "body.base_url"),
    ],
)
def test_bad_completions_are_refused_and_change_nothing(program: Client, body: dict[str, Any], where: str) -> None:
    response = put(program, "completions", **body)
    status, named = refusal_of(response)
    # 409: right in itself, but not with this provider, or not without a key.
    assert (status in (409, 422), named) == (True, where)
    assert GOOD not in response.text
    assert not SystemConfig.objects.exists()
    assert not SystemCredential.objects.exists()


def test_embeddings_go_with_the_key_of_completions_and_keep_it(program: Client, alice: User) -> None:
    put(program, "completions", provider="sandbox", api_key=GOOD)
    body = put(program, "embeddings", same_key_as_completions=True).json()["embeddings"]
    assert body["api_key_set"]
    assert body["same_key_as_completions"]
    key = SystemCredential.objects.get()
    assert config("embeddings_config")["credential"] == str(key.pk)
    put(program, "completions", provider="groq", api_key="gsk_0123456789abcdef")
    body = put(program, "embeddings", model="sandbox-embed").json()["embeddings"]
    assert (body["provider"], body["same_key_as_completions"]) == ("sandbox", False)
    assert config("embeddings_config")["credential"] == str(key.pk)
    first = explain_route(alice, needs=["embeddings"]).candidates[0]
    assert (first.key.id, first.model) == (key.pk, "sandbox-embed")


def test_embeddings_have_a_key_of_their_own(program: Client) -> None:
    put(program, "completions", provider="sandbox", api_key=GOOD)
    put(program, "embeddings", provider="sandbox", api_key=OTHER, model="sandbox-embed")
    row = SystemCredential.objects.get(name="embeddings")
    assert row.is_key(OTHER)
    assert config("embeddings_config")["credential"] == str(row.pk)
    assert put(program, "embeddings", same_key_as_completions=True).json()["embeddings"]["same_key_as_completions"]
    # Back to their own, which is still there.
    assert put(program, "embeddings", same_key_as_completions=False).status_code == 200
    assert config("embeddings_config")["credential"] == str(row.pk)


def test_embeddings_begin_with_the_default_provider(program: Client) -> None:
    assert refusal_of(put(program, "embeddings")) == (409, "body.api_key")
    body = put(program, "embeddings", api_key="sk-proj-0123456789abcdef").json()["embeddings"]
    assert (body["provider"], body["model"]) == ("openai", "")


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"provider": "anthropic", "api_key": "sk-ant-0123456789abcdef"}, "body.provider"),
        ({"provider": "nobody"}, "body.provider"),
        ({"provider": "sandbox", "api_key": GOOD, "model": "sandbox-chat"}, "body.model"),
        ({"provider": "sandbox", "same_key_as_completions": True, "api_key": OTHER}, "body.api_key"),
        ({"provider": "openai", "same_key_as_completions": True}, "body.same_key_as_completions"),
        ({"provider": "sandbox", "same_key_as_completions": "yes"}, "body.same_key_as_completions"),
        ({"provider": "openai_compatible", "api_key": GOOD, "endpoint": "https://one.example/v1"}, "body.model"),
        (
            {"provider": "sandbox", "same_key_as_completions": True, "endpoint": "https://x.example/v1"},
            "body.endpoint",
        ),
    ],
)
def test_bad_embeddings_are_refused_and_change_nothing(program: Client, body: dict[str, Any], where: str) -> None:
    put(program, "completions", provider="sandbox", api_key=GOOD)
    assert refusal_of(put(program, "embeddings", **body)) == (422, where)
    assert not SystemConfig.objects.filter(key="embeddings_config").exists()
    assert SystemCredential.objects.count() == 1


def test_a_key_that_was_turned_off_is_not_chosen_in_silence(program: Client) -> None:
    SystemCredentialFactory(provider="sandbox", key=GOOD, is_active=False)
    assert refusal_of(put(program, "completions", provider="sandbox")) == (422, "body.api_key")
    assert put(program, "completions", provider="sandbox", api_key=OTHER).status_code == 200
    assert SystemCredential.objects.get().is_active


def test_a_key_of_the_environment_is_meant_by_its_provider(program: Client, alice: User, settings: Any) -> None:
    settings.LLM_SYSTEM_KEYS = {"sandbox": {"api_key": GOOD}}
    body = put(program, "completions", provider="sandbox", model="sandbox-fast").json()["completions"]
    assert body["api_key_set"]
    assert config("completions_config")["credential"] is None
    assert not SystemCredential.objects.exists()
    first = explain_route(alice).candidates[0]
    assert (first.key.from_environment, first.model) == (True, "sandbox-fast")


def test_a_session_needs_a_recent_proof_for_changes(clerk: User, sandbox_url: str) -> None:
    client = Client()
    client.force_login(clerk)
    session = client.session
    session["logged_in_at"] = 0
    session.save()
    assert client.get(ROOT).status_code == 200
    for use in ("completions", "embeddings"):
        response = put(client, use, provider="sandbox", api_key=GOOD)
        assert response.status_code == 401
        assert response.json()["error"]["code"] == "reauthentication_required"
    assert not SystemCredential.objects.exists()


def test_changes_are_in_the_audit_trail(program: Client, clerk: User) -> None:
    put(program, "completions", provider="sandbox", api_key=GOOD)
    event = AuditEvent.objects.get(action="config.change")
    assert (event.actor, event.subject, event.target) == (str(clerk.pk), "system", "config:llm:completions_config")
    assert AuditEvent.objects.filter(action="credential.create", subject="system").count() == 1


@committed
def test_models_are_those_for_the_use(program: Client) -> None:
    listed = post(program, "models", provider="sandbox", api_key=GOOD)
    assert listed.status_code == 200
    ids = {each["id"] for each in listed.json()}
    assert "sandbox-chat" in ids
    assert "sandbox-embed" not in ids
    assert all(set(each) == {"id", "display_name"} for each in listed.json())
    embedding = post(program, "models", provider="sandbox", api_key=GOOD, embeddings=True).json()
    assert [each["id"] for each in embedding] == ["sandbox-embed"]
    assert not SystemCredential.objects.exists()


@committed
def test_models_of_a_provider_without_a_list_are_none(program: Client) -> None:
    assert post(program, "models", provider="openai_compatible").json() == []
    unreachable = {"provider": "openai_compatible", "api_key": GOOD, "endpoint": "https://nobody.invalid/v1"}
    assert post(program, "models", **unreachable).json() == []
    assert refusal_of(post(program, "models", provider="nobody")) == (422, "body.provider")


@committed
def test_models_and_tests_are_limited(program: Client, set_rate: Any) -> None:
    for kind, what in (("models", "models"), ("test", "test")):
        set_rate(kind, "user", "0/m")
        assert post(program, what, provider="sandbox", api_key=GOOD).status_code == 429


@committed
@pytest.mark.parametrize("embeddings", [False, True])
def test_test_of_the_stored_key_ends_in_its_status(program: Client, embeddings: bool) -> None:
    put(program, "completions", provider="sandbox", api_key=GOOD, model="sandbox-fast")
    put(program, "embeddings", same_key_as_completions=True)
    response = post(program, "test", embeddings=embeddings)
    assert response.status_code == 202, response.content
    assert response.json()["provider"] == "sandbox"
    test = ConnectionTest.objects.get()
    assert (test.system_credential_id, test.has_key) == (SystemCredential.objects.get().pk, False)
    connection_tests.test_run(test.pk)
    ended = program.get(response.json()["status_url"]).json()
    assert (ended["state"], ended["detail"][:12]) == ("valid", "Key accepted")
    assert ("sandbox-embed" if embeddings else "sandbox-fast") in ended["detail"]
    assert SystemCredential.objects.get().status == "valid"


@committed
def test_test_of_an_unsaved_key_saves_nothing(program: Client) -> None:
    response = post(program, "test", provider="sandbox", api_key="sbx-bad-key-0123456789", model="sandbox-chat")
    assert response.status_code == 202
    test = ConnectionTest.objects.get()
    connection_tests.test_run(test.pk)
    test.refresh_from_db()
    assert (test.state, test.has_key) == ("invalid", False)
    assert not SystemCredential.objects.exists()


@committed
def test_test_of_the_environments_key(program: Client, settings: Any) -> None:
    settings.LLM_SYSTEM_KEYS = {"sandbox": {"api_key": GOOD}}
    post(program, "test", provider="sandbox")
    test = ConnectionTest.objects.get()
    connection_tests.test_run(test.pk)
    test.refresh_from_db()
    assert (test.state, test.has_key, test.system_credential_id) == ("valid", False, None)


def test_test_goes_with_no_users_key(program: Client, clerk: User, alice: User) -> None:
    for user in (alice, clerk):
        UserCredentialFactory(user=user, provider="sandbox", key=GOOD)
    assert refusal_of(post(program, "test", provider="sandbox")) == (409, "body.api_key")
    assert UserCredential.objects.filter(last_used_at__isnull=False).count() == 0


@committed
def test_test_of_whoever_lost_the_right_is_not_run(program: Client, clerk: User) -> None:
    put(program, "completions", provider="sandbox", api_key=GOOD)
    post(program, "test")
    clerk.user_permissions.clear()
    test = ConnectionTest.objects.get()
    connection_tests.test_run(test.pk)
    test.refresh_from_db()
    assert test.state == "error"
    assert not AuditEvent.objects.filter(action="key.open").exists()


@committed
def test_test_of_a_key_that_is_gone_says_so(program: Client) -> None:
    put(program, "completions", provider="sandbox", api_key=GOOD)
    post(program, "test")
    services.system_credential_delete(provider="sandbox")
    test = ConnectionTest.objects.get()
    connection_tests.test_run(test.pk)
    test.refresh_from_db()
    assert (test.state, test.detail) == ("error", connection_tests.REMOVED)
    assert program.get(ROOT).json()["completions"]["api_key_set"] is False


@committed
def test_test_without_a_body_is_of_the_site_s_key_and_is_begun_once(program: Client) -> None:
    nothing = program.generic("POST", f"{ROOT}/test")
    assert (nothing.status_code, refusal_of(nothing)[1]) == (409, "body.provider")
    put(program, "completions", provider="sandbox", api_key=GOOD)
    first, second = (program.generic("POST", f"{ROOT}/test", headers={"Idempotency-Key": "one"}) for _ in range(2))
    assert (first.status_code, first.json().get("provider")) == (202, "sandbox"), first.json()
    assert (second.status_code, second.json(), second["Idempotent-Replayed"]) == (202, first.json(), "true")
    assert ConnectionTest.objects.count() == 1


@committed
def test_own_test_and_site_test_do_not_stand_in_each_others_way(program: Client, clerk: User) -> None:
    UserCredentialFactory(user=clerk, provider="sandbox", key=GOOD)
    connection_tests.test_start(user=clerk, provider="sandbox")
    assert post(program, "test", provider="sandbox", api_key=OTHER).status_code == 202
    again = post(program, "test", provider="sandbox", api_key=OTHER)
    assert (again.status_code, again.json()["error"]["code"]) == (409, "test_running")


def test_supervisor_is_settled_and_left_again(db: None) -> None:
    found = site_settings.supervisor_set(provider="openai", model="my-small-one").supervisor
    assert (found.provider, found.model) == ("openai", "my-small-one")
    assert not site_settings.supervisor_set(provider="").supervisor.provider
    assert not SystemConfig.objects.exists()
