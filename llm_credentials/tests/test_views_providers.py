"""The providers page: what it shows to whom, open and closed, as a page and as a fragment."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from llm_credentials.models import GroupPolicy, LLMSettings
from llm_credentials.providers.registry import specs
from llm_credentials.tests.factories import ConnectionTestFactory, SystemCredentialFactory, UserCredentialFactory

LIST = "/settings/llm/"
HTMX = {"HX-Request": "true"}
KEY = "sk-test-CANARY-5f1e-0123456789ab4f2a"


def html(response: Any) -> str:
    return str(response.content.decode())


def test_provider_list_shows_every_provider_of_the_site(visitor: Client) -> None:
    text = html(visitor.get(LIST))
    assert [spec.label for spec in specs() if f">{spec.label}<" not in text] == []
    assert "sandbox" not in text


def test_provider_list_shows_the_sandbox_only_where_it_is_set(visitor: Client, sandbox_url: str) -> None:
    assert 'id="card-sandbox-default"' in html(visitor.get(LIST))


def test_provider_list_masks_the_key_and_tells_its_status_with_its_age(visitor: Client, alice: User) -> None:
    tested_at = timezone.now() - timedelta(minutes=2)
    UserCredentialFactory(user=alice, key=KEY, status="valid", tested_at=tested_at, request_count=1240)
    text = html(visitor.get(LIST))
    assert "•••• 4f2a" in text
    assert "CANARY" not in text
    assert "Valid, <time" in text
    assert "2 min ago" in text
    assert "1,240 requests" in text
    assert 'aria-label="Configured"' in text


def test_provider_list_says_who_answers_first(visitor: Client, alice: User) -> None:
    UserCredentialFactory(user=alice, provider="openai", priority=1)
    UserCredentialFactory(user=alice, provider="anthropic", priority=2)
    LLMSettings.objects.create(user=alice, default_provider="anthropic")
    SystemCredentialFactory(provider="openai")
    text = html(visitor.get(LIST))
    assert "Anthropic answers first, then OpenAI; the organisation&#x27;s keys stand behind." in text
    assert text.index('id="card-anthropic-default"') < text.index('id="card-openai-default"')
    assert re.search(r'value="anthropic"[^>]*\bchecked', text)
    assert not re.search(r'value="openai"[^>]*\bchecked', text)


def test_provider_list_names_the_keys_that_do_not_work(visitor: Client, alice: User) -> None:
    UserCredentialFactory(user=alice, provider="anthropic", status="invalid")
    UserCredentialFactory(user=alice, provider="openai", status="valid")
    text = html(visitor.get(LIST))
    assert "The key of Anthropic does not work now." in text


def test_provider_list_leaves_keys_out_of_the_chain_that_are_off_or_unreadable(visitor: Client, alice: User) -> None:
    UserCredentialFactory(user=alice, provider="openai", is_active=False)
    UserCredentialFactory(user=alice, provider="anthropic", status="needs_reentry")
    UserCredentialFactory(user=alice, provider="groq")
    text = html(visitor.get(LIST))
    assert "Groq answers." in text
    assert "Enter the key again" in text


def test_provider_list_with_unreadable_keys_alone_asks_for_one_again(visitor: Client, alice: User) -> None:
    UserCredentialFactory(user=alice, provider="anthropic", status="needs_reentry")
    assert "Enter one again, and the agents can answer." in html(visitor.get(LIST))


def test_provider_list_teaches_where_there_is_nothing_yet(visitor: Client) -> None:
    text = html(visitor.get(LIST))
    assert "No key yet. Add one, and the agents can answer." in text
    assert "Choose a provider" in text


def test_provider_list_with_system_keys_alone_says_so(visitor: Client) -> None:
    SystemCredentialFactory(provider="openai")
    assert "The organisation&#x27;s keys answer for you." in html(visitor.get(LIST))


def test_provider_list_shows_several_keys_of_one_provider(visitor: Client, alice: User) -> None:
    UserCredentialFactory(user=alice, provider="openai", priority=1)
    UserCredentialFactory(user=alice, provider="openai", name="work", priority=2)
    text = html(visitor.get(LIST))
    assert 'id="card-openai-default"' in text
    assert 'id="card-openai-work"' in text
    assert "OpenAI answers first, then OpenAI · work." in text
    assert text.count('name="provider" value="openai"') == 1


def test_provider_list_survives_a_provider_that_is_gone(visitor: Client, alice: User) -> None:
    UserCredentialFactory(user=alice, provider="openai")
    UserCredentialFactory(user=alice, provider="sandbox")
    assert visitor.get(LIST).status_code == 200


def test_provider_list_survives_a_lost_encryption_key(visitor: Client, alice: User, settings: Any) -> None:
    UserCredentialFactory(user=alice, provider="openai", key=KEY)
    settings.CREDENTIAL_KEYS = "t2:ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA="
    response = visitor.get(LIST)
    assert response.status_code == 200
    assert "Enter the key again" in html(response)


def test_provider_list_shows_nothing_of_others(client: Client, alice: User, charlie: User) -> None:
    UserCredentialFactory(user=alice, key=KEY)
    client.force_login(charlie)
    text = html(client.get(LIST))
    assert "4f2a" not in text
    assert "Your keys" not in text


def test_provider_list_asks_for_login(client: Client) -> None:
    response = client.get(LIST)
    assert (response.status_code, response["Location"]) == (302, f"/accounts/login/?next={LIST}")


def test_provider_list_is_kept_by_no_cache(visitor: Client) -> None:
    assert "no-store" in visitor.get(LIST)["Cache-Control"]


def test_provider_list_marks_what_the_policy_forbids(visitor: Client, alice: User) -> None:
    UserCredentialFactory(user=alice, provider="openai", status="valid", tested_at=timezone.now())
    SystemCredentialFactory(provider="anthropic")
    GroupPolicy.objects.create(allowed_providers=["groq"])
    text = html(visitor.get(LIST))
    openai, groq, mistral = (
        text.split(f'id="card-{slug}-default"')[1].split("</li>")[0] for slug in ("openai", "groq", "mistral")
    )
    assert "Not allowed" in openai and "Not allowed" in mistral and "Not allowed" not in groq
    assert "None of your keys is in use." in text and "organisation's keys stand behind" not in text
    opened = html(visitor.get(LIST + "openai/"))
    assert "OpenAI is not allowed by your organisation&#x27;s policy" in opened


def test_provider_list_marks_a_model_that_the_policy_forbids(visitor: Client, alice: User) -> None:
    UserCredentialFactory(user=alice, provider="openai", model="gpt-4o")
    GroupPolicy.objects.create(allowed_models=["openai/gpt-5*"])
    assert "gpt-4o is not allowed" in html(visitor.get(LIST + "openai/"))
    assert "Not allowed" not in html(visitor.get(LIST)).split('id="card-groq-default"')[1].split("</li>")[0]


def test_provider_list_asks_few_queries(
    visitor: Client, alice: User, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    for spec in specs():
        UserCredentialFactory(user=alice, provider=spec.slug)
        ConnectionTestFactory(user=alice, provider=spec.slug, state="valid", finished_at=timezone.now())
    with django_assert_max_num_queries(10):
        visitor.get(LIST)


@pytest.mark.parametrize("path", ["openai/", "openai/card/", "openai/remove/"])
def test_one_card_asks_few_queries(
    visitor: Client, alice: User, path: str, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    for spec in specs():
        UserCredentialFactory(user=alice, provider=spec.slug)
    with django_assert_max_num_queries(10):
        assert visitor.get(LIST + path, headers=HTMX).status_code == 200


def test_settings_index_leads_to_the_providers(visitor: Client) -> None:
    assert visitor.get("/settings/")["Location"] == LIST


def test_credential_edit_opens_the_form_in_its_place_on_the_page(visitor: Client, alice: User) -> None:
    UserCredentialFactory(user=alice, provider="openai", key=KEY, model="gpt-mine")
    text = html(visitor.get(LIST + "openai/"))
    assert "<html" in text
    assert 'name="api_key"' in text
    assert 'value="gpt-mine"' in text
    assert "CANARY" not in text
    assert not re.search(r'name="api_key"[^>]*\bvalue=', text)


def test_credential_edit_gives_htmx_the_card_alone(visitor: Client) -> None:
    text = html(visitor.get(LIST + "openai/", headers=HTMX))
    assert "<html" not in text
    assert text.count('class="card credential') == 1
    assert 'autocomplete="new-password"' in text


@pytest.mark.parametrize("slug", ["nobody", "sandbox", "..%2f", "OPENAI"])
def test_credential_edit_of_an_unknown_provider_is_not_there(visitor: Client, slug: str) -> None:
    assert visitor.get(f"{LIST}{slug}/").status_code == 404


@pytest.mark.parametrize("name", ["../x", "a b", "<script>", "x" * 41])
def test_credential_edit_of_an_impossible_name_is_not_there(visitor: Client, name: str) -> None:
    assert visitor.get(LIST + "openai/", {"name": name}).status_code == 404


def test_credential_edit_asks_for_an_address_only_where_one_is_possible(visitor: Client) -> None:
    for spec in specs():
        text = html(visitor.get(f"{LIST}{spec.slug}/", headers=HTMX))
        assert ('name="base_url"' in text) == spec.base_url_editable, spec.slug


def test_credential_edit_shows_the_options_that_a_provider_declares(visitor: Client) -> None:
    declaring = next(spec for spec in specs() if spec.options)
    text = html(visitor.get(f"{LIST}{declaring.slug}/", headers=HTMX))
    assert [option.name for option in declaring.options if f'name="option_{option.name}"' not in text] == []


def test_credential_edit_shows_strangers_an_empty_form(client: Client, alice: User, charlie: User) -> None:
    UserCredentialFactory(user=alice, provider="openai", key=KEY, model="gpt-mine")
    client.force_login(charlie)
    text = html(client.get(LIST + "openai/"))
    assert "4f2a" not in text
    assert "gpt-mine" not in text


def test_credential_detail_closes_the_card(visitor: Client, alice: User) -> None:
    UserCredentialFactory(user=alice, provider="openai", key=KEY)
    text = html(visitor.get(LIST + "openai/card/", headers=HTMX))
    assert "<html" not in text
    assert 'name="api_key"' not in text
    assert "•••• 4f2a" in text


def test_credential_detail_without_htmx_is_the_page(visitor: Client) -> None:
    assert visitor.get(LIST + "openai/card/")["Location"] == LIST


@pytest.mark.parametrize("name", ["credential-edit", "credential-detail", "credential-confirm-removal", "model-list"])
def test_views_of_one_card_ask_for_login(client: Client, name: str) -> None:
    response = client.get(reverse(f"llm_credentials:{name}", args=["openai"]))
    assert response.status_code == 302
    assert response["Location"].startswith("/accounts/login/")


@pytest.mark.parametrize(
    "name", ["credential-save", "credential-toggle", "credential-delete", "credential-test", "model-list-load"]
)
def test_views_that_change_something_take_posts_alone(visitor: Client, name: str) -> None:
    assert visitor.get(reverse(f"llm_credentials:{name}", args=["openai"])).status_code == 405


def test_a_session_that_ended_sends_htmx_to_the_whole_login_page(client: Client, db: None) -> None:
    response = client.get(LIST + "openai/", headers=HTMX | {"HX-Current-URL": f"http://testserver{LIST}"})
    assert response["HX-Redirect"].startswith("/accounts/login/")
    assert html(response) == ""
