"""The list of models to choose from."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from llm_credentials import services
from llm_credentials.tests.factories import UserCredentialFactory

LIST = "/settings/llm/sandbox/models/"
LOAD = "/settings/llm/sandbox/models/load/"
HTMX = {"HX-Request": "true"}
GOOD = "sbx-good-CANARY-0123456789"
BAD = "sbx-bad-CANARY-0123456789"

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def visitor(client: Client, alice: User, sandbox_url: str) -> Client:
    client.force_login(alice)
    return client


def html(response: Any) -> str:
    return str(response.content.decode())


def test_model_list_is_what_the_provider_lists_for_the_stored_key(visitor: Client, alice: User) -> None:
    services.credential_save(user=alice, provider="sandbox", api_key=GOOD)
    text = html(visitor.get(LIST, headers=HTMX))
    assert "<html" not in text
    assert "as the provider lists them" in text
    assert '<option value="sandbox-' in text


def test_model_list_without_htmx_is_the_page_of_the_key(visitor: Client) -> None:
    assert visitor.get(LIST)["Location"] == "/settings/llm/sandbox/"


def test_model_list_of_a_refused_key_is_what_is_known_here(visitor: Client, alice: User) -> None:
    services.credential_save(user=alice, provider="sandbox", api_key=BAD)
    text = html(visitor.get(LIST, headers=HTMX))
    assert "could not be asked" in text
    assert "Any other name may be typed." in text


def test_model_list_past_the_limit_says_when_again(visitor: Client, alice: User, set_rate: Any) -> None:
    set_rate("models", "user", "0/m")
    services.credential_save(user=alice, provider="sandbox", api_key=GOOD)
    response = visitor.get(LIST, headers=HTMX)
    assert response.status_code == 429
    assert f"again in {response['Retry-After']} s" in html(response)


def test_model_list_of_a_stranger_uses_no_key(client: Client, alice: User, charlie: User, sandbox_url: str) -> None:
    services.credential_save(user=alice, provider="sandbox", api_key=GOOD)
    client.force_login(charlie)
    assert "as the provider lists them" not in html(client.get(LIST, headers=HTMX))


def test_model_list_load_asks_with_the_typed_key(visitor: Client) -> None:
    text = html(visitor.post(LOAD, {"api_key": GOOD}, headers=HTMX))
    assert "as the provider lists them" in text
    assert "CANARY" not in text


def test_model_list_load_without_htmx_is_the_page_with_the_list(visitor: Client) -> None:
    text = html(visitor.post(LOAD, {"api_key": GOOD, "model": "sandbox-mine"}))
    assert "<html" in text
    assert "as the provider lists them" in text
    assert 'value="sandbox-mine"' in text
    assert "CANARY" not in text


def test_model_list_load_refuses_bad_input(visitor: Client) -> None:
    response = visitor.post(LOAD, {"api_key": "sbx-CANARY with spaces"}, headers=HTMX)
    assert response.status_code == 422
    assert "A key has no spaces" in html(response)
    assert "CANARY" not in html(response)


@pytest.mark.parametrize("headers", [{}, HTMX], ids=["page", "htmx"])
def test_model_list_load_past_the_limit_says_when_again(
    visitor: Client, set_rate: Any, headers: dict[str, str]
) -> None:
    set_rate("models", "user", "0/m")
    response = visitor.post(LOAD, {"api_key": GOOD}, headers=headers)
    assert response.status_code == 429
    assert int(response["Retry-After"]) >= 1


def test_model_list_load_asks_for_login(client: Client, sandbox_url: str, db: None) -> None:
    assert client.post(LOAD, {"api_key": GOOD})["Location"].startswith("/accounts/login/")


def test_model_list_without_a_key_is_the_catalogue(visitor: Client, alice: User) -> None:
    UserCredentialFactory(user=alice, provider="openai")
    assert '<option value="' in html(visitor.get("/settings/llm/anthropic/models/", headers=HTMX))
