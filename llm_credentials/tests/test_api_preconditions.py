"""Two who change the same settings, override or choice of the site at once: the second is told, and nothing is lost."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connections
from django.test import Client

from llm_credentials import services
from llm_credentials.models import ConnectionTest, LLMSettings, SystemConfig, TaskOverride
from llm_credentials.tests.factories import SystemCredentialFactory, UserCredentialFactory

SETTINGS = "/api/user/llm-settings"
OVERRIDE = "/api/user/task-overrides/code"
SITE = "/api/settings/ai"


def _program(user: User) -> Client:
    return Client(headers={"Authorization": f"Bearer {services.token_create(user=user)[1]}"})


def _send(client: Client, method: str, path: str, body: Any = None, etag: str | None = None) -> Any:
    headers = {} if etag is None else {"If-Match": etag}
    said = {} if body is None else {"data": json.dumps(body), "content_type": "application/json"}
    return getattr(client, method)(path, headers=headers, **said)


def _is_refused(response: Any) -> bool:
    said = json.loads(response.content)["error"]
    return (response.status_code, said["code"], said["where"]) == (412, "precondition_failed", "header.If-Match")


@pytest.mark.django_db
def test_settings_that_were_changed_meanwhile_stay(alice: User) -> None:
    program = _program(alice)
    first = program.get(SETTINGS)["ETag"]
    second = _send(program, "patch", SETTINGS, {"strategy": "fastest"}, first)
    assert (second.status_code, second["ETag"] != first) == (200, True)
    assert second["ETag"] == program.get(SETTINGS)["ETag"]
    assert _is_refused(_send(program, "patch", SETTINGS, {"strategy": "cheapest"}, first))
    assert LLMSettings.of(alice).strategy == "fastest"
    for matching in (f'"other", {second["ETag"]}', "*"):
        assert _send(program, "patch", SETTINGS, {"max_tokens": 7}, matching).status_code == 200
    assert _send(program, "patch", SETTINGS, {"max_tokens": 8}).status_code == 200


@pytest.mark.django_db
def test_override_that_was_changed_or_removed_meanwhile_stays(alice: User) -> None:
    program = _program(alice)
    assert _is_refused(_send(program, "put", OVERRIDE, {"model": "a"}, "*"))
    made = _send(program, "put", OVERRIDE, {"model": "a"})["ETag"]
    assert made == program.get(OVERRIDE)["ETag"]
    changed = _send(program, "put", OVERRIDE, {"model": "b"}, made)["ETag"]
    for method, body in (("put", {"model": "c"}), ("put", {}), ("delete", None)):
        assert _is_refused(_send(program, method, OVERRIDE, body, made)), method
    assert TaskOverride.objects.get().model == "b"
    assert _send(program, "delete", OVERRIDE, etag=changed).status_code == 204
    assert _is_refused(_send(program, "put", OVERRIDE, {"model": "d"}, changed))
    assert not TaskOverride.objects.exists()


@pytest.mark.django_db
def test_choices_of_the_site_that_were_changed_meanwhile_stay(staff: User) -> None:
    program = _program(staff)
    SystemCredentialFactory(provider="openai")
    first = program.get(SITE)["ETag"]
    body = {"provider": "openai", "model": "gpt-a"}
    changed = _send(program, "put", f"{SITE}/completions", body, first)
    assert (changed.status_code, changed["ETag"]) == (200, program.get(SITE)["ETag"])
    for path, other in (
        ("completions", body),
        ("embeddings", {"provider": "openai"}),
        ("supervisor", {"provider": "openai"}),
    ):
        assert _is_refused(_send(program, "put", f"{SITE}/{path}", other, first)), path
    assert set(SystemConfig.objects.values_list("key", flat=True)) == {"completions_config"}
    settled = _send(program, "put", f"{SITE}/supervisor", {"provider": "openai", "model": "gpt-b"}, changed["ETag"])
    assert settled.json() == program.get(f"{SITE}/supervisor").json() == {"provider": "openai", "model": "gpt-b"}
    assert _send(program, "put", f"{SITE}/supervisor", {}, settled["ETag"]).json()["provider"] is None


@pytest.mark.django_db
def test_key_that_was_changed_meanwhile_is_not_tested(alice: User, sandbox_url: str) -> None:
    program = _program(alice)
    UserCredentialFactory(user=alice, provider="openai")
    etag = program.get("/api/user/llm-credentials/openai")["ETag"]
    services.credential_save(user=alice, provider="openai", model="other")
    assert _is_refused(_send(program, "post", "/api/user/llm-credentials/openai/test", {}, etag))
    assert not ConnectionTest.objects.exists()


@pytest.mark.parametrize(
    ("path", "method", "body"),
    [
        (SETTINGS, "patch", {"max_tokens": "NUMBER"}),
        (OVERRIDE, "put", {"max_tokens": "NUMBER"}),
        (f"{SITE}/completions", "put", {"provider": "openai", "max_tokens": "NUMBER"}),
    ],
)
@pytest.mark.django_db(transaction=True)
def test_of_many_at_once_one_has_its_way(staff: User, path: str, method: str, body: Any) -> None:
    SystemCredentialFactory(provider="openai")
    first = _program(staff)
    begun = json.loads(json.dumps(body).replace('"NUMBER"', "9"))
    etag = _send(first, method, path, begun)["ETag"]
    headers = first.defaults

    def change(number: int) -> int:
        client = Client(**headers)
        said = json.loads(json.dumps(body).replace('"NUMBER"', str(number)))
        try:
            return int(_send(client, method, path, said, etag).status_code)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as pool:
        statuses = sorted(pool.map(change, [11, 12, 13, 14]))
    assert statuses == [200, 412, 412, 412]
