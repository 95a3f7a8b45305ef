"""``/api/user/llm-transfer``: settings out and in, keys in."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from llm_credentials import services
from llm_credentials.models import ConnectionTest, LLMSettings, UserCredential
from llm_credentials.tests.factories import UserCredentialFactory

PLACE = "/api/user/llm-transfer"
KEYS = "/api/user/llm-transfer/keys"
KEY = "sk-proj-CANARY0123456789abcd4f2a"
HEAD = {"format": "keyswitch-settings", "version": 1}

pytestmark = pytest.mark.django_db


@pytest.fixture
def program(alice: User) -> Client:
    return Client(headers={"Authorization": f"Bearer {services.token_create(user=alice)[1]}"})


def send(program: Client, path: str, body: Any) -> tuple[int, Any]:
    response = program.post(path, json.dumps(body), content_type="application/json")
    assert "CANARY" not in response.content.decode()
    return response.status_code, response.json()


def test_document_goes_out_and_comes_in(program: Client, alice: User) -> None:
    UserCredentialFactory(user=alice, key=KEY, model="gpt-5")
    services.settings_update(user=alice, temperature=0.4)
    document = program.get(PLACE).json()
    assert document["keys"][0]["model"] == "gpt-5"
    services.settings_update(user=alice, temperature=1)
    status, body = send(program, PLACE, {"document": document, "dry_run": True})
    assert (status, LLMSettings.of(alice).temperature) == (200, 1)
    assert {"what": "Temperature", "outcome": "changed", "words": "0.4"} in body["items"]
    assert send(program, PLACE, {"document": document})[0] == 200
    assert LLMSettings.of(alice).temperature == 0.4


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"format": "other", "version": 1},
        {**HEAD, "version": 2},
        {**HEAD, "nonsense": 1},
        {**HEAD, "keys": [{"provider": "openai", "api_key": KEY}]},
        {**HEAD, "keys": [{"provider": "openai", "id": "6f9619ff-8b86-4d11-b42d-00c04fc964ff"}]},
        {**HEAD, "settings": {"max_tokens": "10"}},
    ],
)
def test_what_is_no_document_is_refused(program: Client, document: Any) -> None:
    assert send(program, PLACE, {"document": document})[0] == 422


def test_keys_are_looked_at_and_stored(program: Client, alice: User) -> None:
    text = f"OPENAI_API_KEY={KEY}\nOPENAI_MODEL=gpt-5\nCLOSE=sk-CANARY0123456789abcdef\nOTHER=1"
    status, body = send(program, KEYS, {"text": text, "dry_run": True})
    assert (status, body["count"], body["ignored"]) == (200, 2, 1)
    assert [(each["outcome"], each["last4"], each["choices"]) for each in body["items"]] == [
        ("add", "4f2a", []),
        ("choose", "cdef", ["deepseek", "openai"]),
    ]
    assert not UserCredential.objects.exists()
    assert [each["outcome"] for each in send(program, KEYS, {"text": text})[1]["items"]] == ["saved", "choose"]
    assert (UserCredential.objects.get().reveal(), UserCredential.objects.get().model) == (KEY, "gpt-5")
    assert ConnectionTest.objects.get().provider == "openai"
    take = [{"variable": "CLOSE", "provider": "deepseek", "name": "spare"}]
    assert send(program, KEYS, {"text": text, "take": take})[1]["items"][1]["outcome"] == "saved"
    assert UserCredential.objects.filter(provider="deepseek", name="spare").exists()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"text": ""},
        {"text": "x" * 65_537},
        {"text": "A=b\n" * 1_001},
        {"text": f"A={KEY}\0"},
        {"text": f"OPENAI_API_KEY={KEY}", "take": [{"variable": "OPENAI_API_KEY", "provider": "nobody"}]},
        {"text": f"OPENAI_API_KEY={KEY}", "take": [{"variable": "OPENAI_API_KEY", "name": "../x"}]},
        {"text": f"OPENAI_API_KEY={KEY}", "user": 1},
    ],
)
def test_keys_that_cannot_be_read_are_refused(program: Client, body: Any) -> None:
    assert send(program, KEYS, body)[0] == 422
    assert not UserCredential.objects.exists()


def test_session_proves_who_is_there_before_keys_are_stored(client: Client, alice: User) -> None:
    client.force_login(alice)
    session = client.session
    session["logged_in_at"] = 0
    session.save()
    status, body = send(client, KEYS, {"text": f"OPENAI_API_KEY={KEY}"})
    assert (status, body["error"]["code"]) == (401, "reauthentication_required")
    assert not UserCredential.objects.exists()
