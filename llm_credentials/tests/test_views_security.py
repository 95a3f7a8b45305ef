from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from llm_credentials import services
from llm_credentials.tests.proofs import enrol

pytestmark = pytest.mark.django_db
PAGE = "/settings/security/"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


def _log_in(name: str = "alice", agent: str = FIREFOX) -> Client:
    client = Client(headers={"user-agent": agent})
    client.post("/accounts/login/", {"login": name, "password": f"{name}-password"})
    return client


def _text(client: Client) -> str:
    return client.get(PAGE).content.decode()


def test_page_says_how_the_account_opens(alice: User) -> None:
    client = _log_in()
    text = _text(client)
    assert "Set up a second factor" in text and "alice@example.com hears of every change" in text
    services.token_create(user=alice, scopes=["read"])
    enrol(alice)
    text = _text(client)
    assert "Set up a second factor" not in text
    assert "change keys, with an authenticator app" in text
    assert "1 program holds one." in text


def test_page_shows_where_it_is_open_and_closes_the_others(alice: User, bob: User) -> None:
    here, there = _log_in(), _log_in(agent="curl/8.5")
    _log_in("bob", agent="Bobs browser")
    text = _text(here)
    assert text.count("This one") == 1
    assert "Firefox on Linux" in text and "Log out of the other one" in text
    assert "Bobs" not in text
    here.post("/accounts/sessions/")
    assert there.get(PAGE).status_code == 302
    assert "Log out of the other" not in _text(here)


def test_page_shows_what_happened_lately_and_nothing_of_others(alice: User, bob: User) -> None:
    services.credential_save(user=bob, provider="mistral", api_key="sk-of-bob-0123456789abcdef")
    client = _log_in()
    services.credential_save(user=alice, provider="openai", api_key="sk-of-alice-0123456789abcdef")
    services.credential_save(user=alice, provider="openai", is_active=False)
    text = _text(client)
    assert "Key added · OpenAI" in text and "Logged in" in text
    assert "turned on or off" not in text and "Mistral" not in text


def test_page_asks_few_queries(alice: User, django_assert_max_num_queries: Any) -> None:
    client = _log_in()
    for _ in range(4):
        _log_in(agent="curl/8.5")
    _text(client)
    with django_assert_max_num_queries(10):
        _text(client)
