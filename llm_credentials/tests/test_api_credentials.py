"""The credentials API as programs meet it."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from llm_credentials import connection_tests, services
from llm_credentials.models import ConnectionTest, PersonalAccessToken, UserCredential
from llm_credentials.providers import CredentialUnreadable
from llm_credentials.services import ALL_SCOPES

ROOT = "/api/user/llm-credentials"
GOOD = "sbx-good-CANARY-0123456789"

pytestmark = pytest.mark.django_db(transaction=True)


def token_of(user: User, *scopes: str) -> str:
    return services.token_create(user=user, scopes=scopes or ALL_SCOPES)[1]


class Program:
    """A caller with a token."""

    def __init__(self, token: str | None) -> None:
        self.client = Client(headers={"Authorization": f"Bearer {token}"} if token else {})

    def call(self, method: str, path: str = "", body: Any = b"", **extra: Any) -> Any:
        data = body if isinstance(body, bytes | str) else json.dumps(body)
        content = {} if method == "get" else {"data": data, "content_type": "application/json"}
        return getattr(self.client, method)(f"{ROOT}{path}", **content | extra)


@pytest.fixture
def program(alice: User, sandbox_url: str) -> Program:
    return Program(token_of(alice))


def error_of(response: Any) -> dict[str, Any]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message", "where"}
    return dict(body["error"])


def test_save_stores_a_key_and_starts_its_test(program: Program, alice: User) -> None:
    response = program.call(
        "post", body={"provider": "sandbox", "api_key": GOOD, "model": "sandbox-chat", "is_active": True}
    )
    assert response.status_code == 201, response.content
    body = response.json()
    assert body["last4"] == GOOD[-4:]
    assert body["status"] == "unverified"
    assert body["test"]["state"] == "queued"
    assert GOOD not in response.content.decode()
    assert UserCredential.objects.for_user(alice).get().model == "sandbox-chat"


def test_save_again_changes_what_is_named(program: Program) -> None:
    program.call("post", body={"provider": "sandbox", "api_key": GOOD})
    response = program.call("post", body={"provider": "sandbox", "model": "sandbox-fast", "is_active": False})
    assert response.status_code == 200
    assert response.json()["model"] == "sandbox-fast"
    assert response.json()["is_active"] is False
    assert response.json()["test"] is None
    assert response.json()["last4"] == GOOD[-4:]


def test_list_has_the_promised_shape(program: Program) -> None:
    program.call("post", body={"provider": "sandbox", "api_key": GOOD})
    body = program.call("get").json()
    assert body["count"] == 1
    assert set(body["items"][0]) == {
        *("provider", "name", "last4", "model", "base_url", "is_active", "is_default", "priority", "status"),
        *("status_detail", "tested_at", "last_used_at", "request_count", "version"),
    }


def test_list_marks_the_key_that_is_asked_first(program: Program, alice: User) -> None:
    for provider, priority in (("openai", 2), ("sandbox", 1), ("groq", 0)):
        services.credential_save(
            user=alice, provider=provider, api_key=GOOD, priority=priority, is_active=provider != "groq"
        )
    marked = {item["provider"]: item["is_default"] for item in program.call("get").json()["items"]}
    assert marked == {"openai": False, "sandbox": True, "groq": False}
    services.settings_update(user=alice, default_provider="openai")
    marked = {item["provider"]: item["is_default"] for item in program.call("get").json()["items"]}
    assert marked == {"openai": True, "sandbox": False, "groq": False}


def test_list_shows_nothing_of_others(program: Program, bob: User) -> None:
    services.credential_save(user=bob, provider="sandbox", api_key=GOOD)
    assert program.call("get").json() == {"items": [], "count": 0}
    assert program.call("get", "/sandbox").status_code == 404
    assert program.call("delete", "/sandbox").status_code == 404
    assert program.call("post", "/sandbox/test").status_code == 404
    assert UserCredential.objects.for_user(bob).count() == 1


def test_delete_removes_the_key(program: Program) -> None:
    program.call("post", body={"provider": "sandbox", "api_key": GOOD})
    assert program.call("delete", "/sandbox").status_code == 204
    assert not UserCredential.objects.exists()
    assert error_of(program.call("delete", "/sandbox"))["code"] == "not_found"


def test_names_keep_several_keys_apart(program: Program) -> None:
    for name in ("default", "work"):
        program.call("post", body={"provider": "sandbox", "api_key": GOOD, "name": name})
    assert program.call("get").json()["count"] == 2
    assert program.call("get", "/sandbox?name=work").json()["name"] == "work"
    program.call("delete", "/sandbox?name=work")
    assert [item["name"] for item in program.call("get").json()["items"]] == ["default"]


def test_test_of_the_stored_key_is_accepted_and_ends(program: Program, alice: User, celery_worker_thread: Any) -> None:
    from project.tests.servers import wait_until

    services.credential_save(user=alice, provider="sandbox", api_key=GOOD)
    response = program.call("post", "/sandbox/test")
    assert response.status_code == 202, response.content
    url = response.json()["status_url"].removeprefix(ROOT)
    wait_until(lambda: program.call("get", url).json()["state"] == "valid", "the test to end")
    assert program.call("get").json()["items"][0]["status"] == "valid"


def test_test_of_an_unsaved_key_saves_nothing(program: Program) -> None:
    response = program.call("post", "/sandbox/test", body={"api_key": GOOD})
    assert response.status_code == 202
    assert GOOD not in response.content.decode()
    assert not UserCredential.objects.exists()


def test_test_status_of_another_user_is_not_found(program: Program, bob: User) -> None:
    services.credential_save(user=bob, provider="sandbox", api_key=GOOD)
    test = connection_tests.test_start(user=bob, provider="sandbox")
    assert program.call("get", f"/tests/{test.pk}").status_code == 404


def test_second_test_at_once_conflicts(program: Program, alice: User) -> None:
    services.credential_save(user=alice, provider="sandbox", api_key=GOOD)
    program.call("post", "/sandbox/test")
    response = program.call("post", "/sandbox/test")
    assert response.status_code == 409
    assert error_of(response)["code"] == "test_running"


def test_too_many_tests_answer_429_with_retry_after(program: Program, alice: User, set_rate: Any) -> None:
    set_rate("test", "user", "1/m")
    services.credential_save(user=alice, provider="sandbox", api_key=GOOD)
    program.call("post", "/sandbox/test")
    response = program.call("post", "/sandbox/test")
    assert response.status_code == 429
    assert 1 <= int(response["Retry-After"]) <= 60
    assert error_of(response)["code"] == "rate_limited"


def test_abandoned_test_reads_as_expired(program: Program, alice: User) -> None:
    services.credential_save(user=alice, provider="sandbox", api_key=GOOD)
    test = connection_tests.test_start(user=alice, provider="sandbox")
    ConnectionTest.objects.update(created_at=timezone.now() - timedelta(minutes=2))
    assert program.call("get", f"/tests/{test.pk}").json()["state"] == "expired"


def test_models_are_listed_by_the_provider(program: Program, alice: User) -> None:
    services.credential_save(user=alice, provider="sandbox", api_key=GOOD)
    body = program.call("get", "/available-models/sandbox").json()
    assert body["source"] == "provider"
    assert "sandbox-chat" in [item["id"] for item in body["items"]]


def test_models_of_an_unknown_provider_are_refused(program: Program) -> None:
    assert error_of(program.call("get", "/available-models/nobody"))["where"] == "body.provider"


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"api_key": ""}, "body.api_key"),
        ({"api_key": "   "}, "body.api_key"),
        ({"api_key": "sbx-good\nX-Evil: 1"}, "body.api_key"),
        ({"api_key": "sbx-good\x00-0123456789"}, "body.api_key"),
        ({"api_key": "sbx-good-“curly”-0123"}, "body.api_key"),
        ({"api_key": "•••• 6789"}, "body.api_key"),
        ({"api_key": "****6789"}, "body.api_key"),
        ({"api_key": "x" * 100_000}, "body.api_key"),
        ({"provider": "nobody"}, "body.provider"),
        ({"provider": "../openai"}, "body.provider"),
        ({"model": "../../admin"}, "body.model"),
        ({"model": "a b\r\nX: 1"}, "body.model"),
        ({"name": "../x"}, "body.name"),
        ({"options": {"organization": "x"}}, "body.options"),
        ({"user_id": 1}, "body.user_id"),
        ({"is_default": True}, "body.is_default"),
        ({"status": "valid"}, "body.status"),
        ({"is_active": "perhaps"}, "body.is_active"),
        ({"priority": -1}, "body.priority"),
        ({"api_key": 5}, "body.api_key"),
    ],
)
def test_save_refuses_bad_fields_and_echoes_nothing(program: Program, fields: dict[str, Any], where: str) -> None:
    response = program.call("post", body={"provider": "sandbox", "api_key": GOOD} | fields)
    # 409: right in itself, but not of this provider.
    assert response.status_code == (409 if where == "body.options" else 422), response.content
    assert error_of(response)["where"] == where
    assert "CANARY" not in response.content.decode()
    assert "sbx-good" not in response.content.decode()
    assert not UserCredential.objects.exists()


@pytest.mark.parametrize(
    "address",
    [
        "http://169.254.169.254/latest",
        "http://127.0.0.1:1/v1",
        "http://[::1]/v1",
        "http://2130706433/",
        "https://user:pw@example.com/v1",
        "file:///etc/passwd",
        "https://metadata.google.internal/",
        "http://localhost./",
        "https://example.com/v1?api_key=1",
        "https://example.com:22/",
    ],
)
def test_save_refuses_forbidden_addresses(program: Program, address: str) -> None:
    response = program.call(
        "post", body={"provider": "openai_compatible", "api_key": GOOD, "base_url": address, "model": "m"}
    )
    assert response.status_code == 422
    assert error_of(response)["where"] == "body.base_url"


def test_save_with_a_new_address_asks_for_the_key_again(program: Program) -> None:
    fields = {"provider": "openai_compatible", "model": "m", "base_url": "https://one.example.com/v1"}
    assert program.call("post", body=fields | {"api_key": GOOD}).status_code == 201
    response = program.call("post", body=fields | {"base_url": "https://two.example.com/v1"})
    assert response.status_code == 409
    assert error_of(response)["where"] == "body.api_key"
    assert UserCredential.objects.get().base_url == "https://one.example.com/v1"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("{", 400),
        ("[]", 400),
        ("null", 400),
        ('{"provider": NaN}', 400),
        ("[" * 100_000, 400),
        ('{"priority": ' + "9" * 5000 + "}", 400),
        ('{"provider": "\\ud800"}', 400),
        (b"\xff\xfe", 400),
        ('{"provider": "' + "x" * 2_000_000 + '"}', 413),
    ],
)
def test_broken_json_is_a_clear_error(program: Program, body: bytes | str, status: int) -> None:
    response = program.call("post", body=body)
    assert response.status_code == status, response.content
    assert error_of(response)["message"]


def test_forms_are_not_json(program: Program) -> None:
    response = program.call("post", body="provider=sandbox", content_type="application/x-www-form-urlencoded")
    assert response.status_code == 415


@pytest.mark.parametrize(
    "authorization", [None, "Bearer ", "Bearer nonsense", "Bearer ' OR 1=1 --", "Basic YTpi", "ksw_x"]
)
def test_unknown_callers_are_refused(db: None, authorization: str | None) -> None:
    client = Client(headers={"Authorization": authorization} if authorization else {})
    response = client.get(ROOT)
    assert response.status_code == 401
    assert response["WWW-Authenticate"] == "Bearer"
    assert error_of(response)["code"] == "not_authenticated"


@pytest.mark.parametrize("path", ["", "/sandbox/test"])
def test_nobody_is_asked_who_they_are_before_csrf(db: None, path: str) -> None:
    response = Client(enforce_csrf_checks=True).post(ROOT + path)
    assert response.status_code == 401
    assert error_of(response)["code"] == "not_authenticated"


def test_a_bad_token_is_refused_in_spite_of_a_session(alice: User) -> None:
    client = Client(headers={"Authorization": "Bearer nonsense"})
    client.force_login(alice)
    assert client.get(ROOT).status_code == 401


@pytest.mark.parametrize("place", ["query", "cookie", "x-api-key"])
def test_tokens_count_in_their_header_only(alice: User, place: str) -> None:
    token = token_of(alice)
    client = Client(headers={"X-Api-Key": token} if place == "x-api-key" else {})
    if place == "cookie":
        client.cookies["Authorization"] = client.cookies["token"] = token
    assert client.get(ROOT, {"token": token, "api_key": token} if place == "query" else {}).status_code == 401


@pytest.mark.parametrize("ruin", ["revoke", "expire", "deactivate"])
def test_dead_tokens_are_refused(alice: User, ruin: str) -> None:
    row, token = services.token_create(user=alice)
    if ruin == "revoke":
        services.token_revoke(user=alice, token_id=row.pk)
    elif ruin == "expire":
        PersonalAccessToken.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    else:
        User.objects.update(is_active=False)
    assert Program(token).call("get").status_code == 401


def test_scopes_bound_what_a_token_may_do(alice: User, sandbox_url: str) -> None:
    reader, agent = Program(token_of(alice, "read")), Program(token_of(alice, "agents"))
    assert reader.call("get").status_code == 200
    assert error_of(agent.call("get"))["code"] == "scope_missing"
    for caller in (reader, agent):
        assert caller.call("post", body={"provider": "sandbox", "api_key": GOOD}).status_code == 403
        assert caller.call("delete", "/sandbox").status_code == 403
        assert caller.call("post", "/sandbox/test").status_code == 403


def test_sessions_work_with_their_csrf_token_only(alice: User, sandbox_url: str) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)
    assert client.get(ROOT).status_code == 200
    body = {"provider": "sandbox", "api_key": GOOD}
    assert client.post(ROOT, json.dumps(body), content_type="application/json").status_code == 403
    client.get("/accounts/password/change/")
    csrf = client.cookies["csrftoken"].value
    response = client.post(ROOT, json.dumps(body), content_type="application/json", headers={"X-CSRFToken": csrf})
    assert response.status_code == 201, response.content


def test_openapi_document_and_docs_page_stay_at_home(db: None) -> None:
    client = Client()
    document = client.get("/api/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert f"{ROOT}/{{provider}}/test" in document["paths"]
    page = client.get("/api/docs").content.decode()
    assert "https://" not in page.replace("https://www.w3.org", "")


def test_keys_of_a_lost_ring_read_as_needing_reentry(program: Program, alice: User, settings: Any) -> None:
    services.credential_save(user=alice, provider="sandbox", api_key=GOOD)
    settings.CREDENTIAL_KEYS = "other:" + base64.b64encode(b"x" * 32).decode()
    UserCredential.objects.update(status="error", status_detail="No connection to the address.")
    item = program.call("get").json()["items"][0]
    assert (item["status"], item["status_detail"]) == ("needs_reentry", CredentialUnreadable.user_message)
    test = connection_tests.test_start(user=alice, provider="sandbox")
    connection_tests.test_run(test.pk)
    body = program.call("get", f"/tests/{test.pk}").json()
    assert body["state"] == "invalid"
    assert "Enter it again" in body["detail"]
