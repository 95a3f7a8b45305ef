"""The first key in three steps."""

from __future__ import annotations

import time
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from llm_credentials import services
from llm_credentials.models import ConnectionTest, LLMSettings, UserCredential
from llm_credentials.providers.registry import recognise
from llm_credentials.stepup import LOGGED_IN_AT
from llm_credentials.tests.factories import SystemCredentialFactory, UserCredentialFactory

PLACE = "/settings/llm/start/"
SAVE = "/settings/llm/start/save/"
KEY = "gsk_CANARY0123456789abcdef4f2a"
HTMX = {"HX-Request": "true"}

pytestmark = pytest.mark.django_db(transaction=True)


def html(response: Any) -> str:
    return str(response.content.decode())


@pytest.mark.parametrize(
    ("key", "slugs"),
    [
        ("sk-ant-api03-abc", ["anthropic"]),
        ("sk-proj-abc", ["openai"]),
        ("sk-abc", ["deepseek", "openai"]),
        ("gsk_abc", ["groq"]),
        ("nothing", []),
        ("", []),
    ],
)
def test_shape_of_a_key_tells_whose_it_is(key: str, slugs: list[str]) -> None:
    assert sorted(spec.slug for spec in recognise(key)) == slugs


def test_page_offers_providers_with_their_key_pages(visitor: Client) -> None:
    text = html(visitor.get(PLACE))
    assert "https://console.groq.com/keys" in text
    assert 'value="openai_compatible"' not in text  # needs an address, too
    assert "Use the organisation" not in text


def test_key_is_stored_under_the_provider_that_its_shape_tells(visitor: Client) -> None:
    response = visitor.post(SAVE, {"provider": "", "api_key": f" {KEY}\n"})
    assert response["Location"] == f"{PLACE}?saved=groq&name=default"
    assert UserCredential.objects.get().reveal() == KEY
    assert ConnectionTest.objects.get().provider == "groq"
    text = html(visitor.get(response["Location"]))
    assert "•••• 4f2a" in text
    assert "Start a conversation" in text
    assert "CANARY" not in text
    assert "CANARY" not in str(dict(visitor.session))


@pytest.mark.parametrize("headers", [{}, HTMX], ids=["page", "htmx"])
@pytest.mark.parametrize(
    ("provider", "key", "words"),
    [
        ("", "a-key-of-nobody-CANARY-0123", "Choose its provider."),
        ("", "sk-CANARY0123456789abcdef", "Keys of DeepSeek or OpenAI look like this."),
        ("mistral", "", "Enter your Mistral key."),
        ("openai", KEY, "This looks like a key of Groq."),
        ("groq", "gsk_CANARY with spaces", "A key has no spaces"),
        ("", "", "Choose its provider."),
    ],
)
def test_what_cannot_be_stored_is_said_beside_its_field(
    visitor: Client, provider: str, key: str, words: str, headers: dict[str, str]
) -> None:
    response = visitor.post(SAVE, {"provider": provider, "api_key": key}, headers=headers)
    assert response.status_code == 422
    assert words in html(response)
    assert "CANARY" not in html(response)
    assert not UserCredential.objects.exists()


def test_unknown_provider_is_not_found(visitor: Client) -> None:
    assert visitor.post(SAVE, {"provider": "nobody", "api_key": KEY}).status_code == 404


def test_key_that_is_there_keeps_its_place(visitor: Client, alice: User) -> None:
    UserCredentialFactory(user=alice, provider="groq", key="gsk_other0123456789abcdef")
    visitor.post(SAVE, {"provider": "groq", "api_key": KEY})
    assert UserCredential.objects.get(name="default").reveal() != KEY
    assert UserCredential.objects.get(name="key-2").reveal() == KEY


def test_old_login_is_confirmed_before_anything_is_typed(visitor: Client) -> None:
    session = visitor.session
    session[LOGGED_IN_AT] = time.time() - 86_400
    session.save()
    assert visitor.get(PLACE)["Location"].startswith("/settings/security/confirm/?next=")
    response = visitor.post(SAVE, {"provider": "groq", "api_key": KEY})
    assert response["Location"].startswith("/settings/security/confirm/?next=")
    assert "CANARY" not in response["Location"] + str(dict(visitor.session))
    assert not UserCredential.objects.exists()


def test_key_of_somebody_else_is_not_shown(visitor: Client, bob: User) -> None:
    UserCredentialFactory(user=bob, provider="groq", key=KEY)
    assert "4f2a" not in html(visitor.get(f"{PLACE}?saved=groq"))


def test_organisation_may_answer_instead(visitor: Client, alice: User) -> None:
    SystemCredentialFactory(provider="openai")
    services.settings_update(user=alice, fallback_to_system=False)
    assert "Use the organisation" in html(visitor.get(PLACE))
    assert visitor.post(f"{PLACE}organisation/")["Location"] == "/"
    assert LLMSettings.of(alice).fallback_to_system


def test_home_leads_whoever_has_no_key_here(visitor: Client, alice: User) -> None:
    assert visitor.get("/")["Location"] == PLACE
    UserCredentialFactory(user=alice)
    assert visitor.get("/")["Location"] != PLACE


def test_home_leads_to_work_where_the_organisation_answers(visitor: Client) -> None:
    SystemCredentialFactory(provider="openai")
    assert visitor.get("/")["Location"] != PLACE
