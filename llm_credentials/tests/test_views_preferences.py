"""The default provider and the fallback to system keys, as the page saves them."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from llm_credentials.models import LLMSettings
from llm_credentials.tests.factories import UserCredentialFactory

LIST = "/settings/llm/"
DEFAULT = "/settings/llm/default/set/"
FALLBACK = "/settings/llm/fallback/set/"
HTMX = {"HX-Request": "true"}


def html(response: Any) -> str:
    return str(response.content.decode())


def test_default_set_puts_the_provider_first(visitor: Client, alice: User) -> None:
    UserCredentialFactory(user=alice, provider="openai")
    UserCredentialFactory(user=alice, provider="anthropic")
    assert visitor.post(DEFAULT, {"provider": "anthropic"})["Location"] == LIST
    assert LLMSettings.of(alice).default_provider == "anthropic"
    assert "Anthropic answers first, then OpenAI." in html(visitor.get(LIST))


def test_default_set_answers_htmx_with_what_changed_elsewhere(visitor: Client, alice: User) -> None:
    UserCredentialFactory(user=alice, provider="openai")
    UserCredentialFactory(user=alice, provider="anthropic")
    text = html(visitor.post(DEFAULT, {"provider": "anthropic"}, headers=HTMX))
    assert "<html" not in text
    assert 'id="chain" hx-swap-oob="true"' in text
    assert 'id="rank-openai-default" hx-swap-oob="true"></span>' in text
    assert "Answers first" in text


@pytest.mark.parametrize("provider", ["", "nobody", "anthropic", "../openai"])
def test_default_set_refuses_a_provider_without_a_key(visitor: Client, alice: User, provider: str) -> None:
    UserCredentialFactory(user=alice, provider="openai")
    assert visitor.post(DEFAULT, {"provider": provider}).status_code == 422
    assert LLMSettings.of(alice).default_provider == ""


def test_default_set_asks_for_login(client: Client, db: None) -> None:
    assert client.post(DEFAULT, {"provider": "openai"})["Location"].startswith("/accounts/login/")


def test_default_set_by_a_stranger_touches_nobody_else(client: Client, alice: User, charlie: User) -> None:
    UserCredentialFactory(user=alice, provider="openai")
    client.force_login(charlie)
    assert client.post(DEFAULT, {"provider": "openai"}).status_code == 422
    assert not LLMSettings.objects.exists()


def test_fallback_set_turns_it_off_and_on(visitor: Client, alice: User) -> None:
    assert visitor.post(FALLBACK, {"fallback": "off"})["Location"] == LIST
    assert not LLMSettings.of(alice).fallback_to_system
    visitor.post(FALLBACK, {"fallback": "on"})
    assert LLMSettings.of(alice).fallback_to_system


def test_fallback_set_answers_htmx_with_the_switch_turned(visitor: Client) -> None:
    text = html(visitor.post(FALLBACK, {"fallback": "off"}, headers=HTMX))
    assert "<html" not in text
    assert 'aria-checked="false"' in text
    assert 'name="fallback" value="on"' in text


@pytest.mark.parametrize("value", ["", "1", "<script>"])
def test_fallback_set_refuses_what_is_neither_on_nor_off(visitor: Client, alice: User, value: str) -> None:
    assert visitor.post(FALLBACK, {"fallback": value}).status_code == 422
    assert LLMSettings.of(alice).fallback_to_system


def test_fallback_set_asks_for_login(client: Client, db: None) -> None:
    assert client.post(FALLBACK, {"fallback": "off"})["Location"].startswith("/accounts/login/")


def test_fallback_set_is_of_the_user_alone(visitor: Client, bob: User) -> None:
    visitor.post(FALLBACK, {"fallback": "off"})
    assert LLMSettings.of(bob).fallback_to_system
