"""The page on which staff settle the site's models."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse

from llm_credentials import connection_tests, embeddings, site_settings
from llm_credentials.models import ConnectionTest, EmbeddingIndex, SystemConfig, SystemCredential
from llm_credentials.tests.factories import UserFactory

GOOD = "sbx-good-CANARY-0123456789"
PAGE = "/admin/llm_credentials/systemconfig/models/"

pytestmark = pytest.mark.django_db
committed = pytest.mark.django_db(transaction=True)
"""Where a provider is asked, which no transaction may wait for."""


@pytest.fixture
def site(client: Client, staff: User, sandbox_url: str) -> Client:
    client.force_login(staff)
    return client


def form_of(page: Any, use: str) -> str:
    return str(page.text).split(f'id="{use}-form"')[1].split("</form>")[0]


def test_page_is_linked_and_shows_what_is_settled(site: Client) -> None:
    assert PAGE in site.get(reverse("admin:llm_credentials_systemconfig_changelist")).text
    site_settings.completions_set(provider="sandbox", api_key=GOOD, model="sandbox-fast", temperature=0.2)
    page = site.get(PAGE)
    form = form_of(page, "completions")
    assert '<option value="sandbox" selected>' in form
    assert 'value="sandbox-fast"' in form
    assert 'value="0.2"' in form
    assert f"•••• {GOOD[-4:]}" in form
    assert GOOD not in page.text


def test_sections_are_saved(site: Client) -> None:
    typed = {"provider": "sandbox", "api_key": GOOD, "model": "", "max_tokens": "100", "temperature": ""}
    assert site.post(f"{PAGE}completions/save/", typed).status_code == 302
    same = {"provider": "sandbox", "same_key_as_completions": "on", "model": "sandbox-embed"}
    assert site.post(f"{PAGE}embeddings/save/", same).status_code == 302
    assert site.post(f"{PAGE}supervisor/", {"provider": "sandbox", "model": "sandbox-fast"}).status_code == 302
    found = site_settings.read()
    assert (found.completions.provider, found.completions.max_tokens) == ("sandbox", 100)
    assert found.completions.temperature is None
    assert (found.same_key, found.embeddings.model) == (True, "sandbox-embed")
    assert found.supervisor.model == "sandbox-fast"
    assert SystemCredential.objects.get().is_key(GOOD)
    assert "checked" in form_of(site.get(PAGE), "embeddings")


@pytest.mark.parametrize(
    ("use", "typed", "said"),
    [
        ("completions", {"provider": ""}, "required"),
        ("completions", {"provider": "nobody", "api_key": GOOD}, "not one of the available"),
        ("completions", {"provider": "openai"}, "Enter your OpenAI key."),
        ("completions", {"provider": "openai_compatible", "model": "m"}, "needs the address"),
        ("completions", {"provider": "sandbox", "api_key": GOOD, "temperature": "3"}, "less than or equal to 2"),
        ("completions", {"provider": "sandbox", "api_key": GOOD, "max_tokens": "x"}, "whole number"),
        ("completions", {"provider": "sandbox", "api_key": GOOD, "model": "sandbox-embed"}, "answers no chats"),
        ("embeddings", {"provider": "anthropic", "api_key": GOOD}, "not one of the available"),
        ("embeddings", {"provider": "sandbox", "api_key": GOOD, "model": "sandbox-chat"}, "makes no embeddings"),
        ("embeddings", {"provider": "openai", "same_key_as_completions": "on"}, "Completions have no key"),
    ],
)
def test_bad_input_is_said_and_changes_nothing(site: Client, use: str, typed: dict[str, str], said: str) -> None:
    page = site.post(f"{PAGE}{use}/save/", typed)
    assert page.status_code == 422
    assert said in page.text.split(f'id="{use}-form"')[1].split("</form>")[0]
    assert GOOD not in page.text
    assert not SystemConfig.objects.exists()
    assert not SystemCredential.objects.exists()


def test_bad_supervisor_is_said(site: Client) -> None:
    page = site.post(f"{PAGE}supervisor/", {"provider": "openai", "model": "../x"})
    assert page.status_code == 422
    assert page.context["supervisor"].non_field_errors()
    assert not SystemConfig.objects.exists()


def test_another_provider_shows_its_own_fields_and_no_model(site: Client) -> None:
    site_settings.completions_set(provider="sandbox", api_key=GOOD, model="sandbox-fast")
    assert 'name="endpoint"' not in form_of(site.get(PAGE), "completions")
    other = form_of(site.get(f"{PAGE}?use=completions&provider=openai_compatible"), "completions")
    assert 'name="endpoint"' in other
    assert 'value="sandbox-fast"' not in other
    assert GOOD[-4:] not in other
    listed = form_of(site.get(f"{PAGE}?use=embeddings&provider=sandbox"), "embeddings")
    assert '<option value="sandbox-embed">' in listed
    assert '<option value="sandbox-chat">' not in listed


@committed
def test_models_are_loaded_with_the_typed_key(site: Client) -> None:
    page = site.post(f"{PAGE}completions/load/", {"provider": "sandbox", "api_key": GOOD})
    assert '<option value="sandbox-chat">' in form_of(page, "completions")
    assert "to choose from" in form_of(page, "completions")
    assert GOOD not in page.text
    assert not SystemCredential.objects.exists()
    refused = site.post(f"{PAGE}completions/load/", {"provider": "sandbox", "api_key": "short"})
    assert (refused.status_code, "too short" in refused.text) == (422, True)


@committed
def test_test_is_shown_until_it_ends(site: Client, bob: User) -> None:
    started = site.post(f"{PAGE}completions/test/", {"provider": "sandbox", "api_key": GOOD, "model": "sandbox-chat"})
    test = ConnectionTest.objects.get()
    assert started.headers["Location"] == f"{PAGE}?test={test.pk}"
    assert "Look again" in site.get(started.headers["Location"]).text
    again = site.post(f"{PAGE}completions/test/", {"provider": "sandbox", "api_key": GOOD})
    assert (again.status_code, "being tested already" in again.text) == (422, True)
    connection_tests.test_run(test.pk)
    ended = site.get(started.headers["Location"])
    assert "Key accepted. sandbox-chat answered" in ended.text
    assert "Look again" not in ended.text
    ConnectionTest.objects.update(user=UserFactory())
    assert "Key accepted" not in site.get(started.headers["Location"]).text


def test_changes_need_a_recent_proof(site: Client) -> None:
    session = site.session
    session["logged_in_at"] = 0
    session.save()
    confirm = reverse("llm_credentials:step-up")
    assert site.get(PAGE).headers["Location"].startswith(confirm)
    for place in ("completions/save/", "embeddings/save/", "completions/load/", "completions/test/", "supervisor/"):
        response = site.post(PAGE + place, {"provider": "sandbox", "api_key": GOOD})
        assert response.headers["Location"].startswith(confirm), place
    assert not SystemConfig.objects.exists()
    assert not ConnectionTest.objects.exists()


def test_who_may_only_look_gets_no_button(client: Client, db: Any) -> None:
    auditor = User.objects.create_user("auditor", password="auditor-password", is_staff=True)
    auditor.user_permissions.add(Permission.objects.get(codename="view_systemconfig"))
    client.force_login(auditor)
    page = client.get(PAGE)
    assert page.status_code == 200
    assert "Save completions" not in page.text
    assert client.post(f"{PAGE}completions/save/", {"provider": "sandbox"}).status_code == 403


def test_no_such_section_is_not_found(site: Client) -> None:
    assert site.post(f"{PAGE}other/save/", {}).status_code == 404


def test_staff_are_asked_before_an_index_is_made_anew(site: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[EmbeddingIndex] = []
    monkeypatch.setattr(embeddings, "_holders", [embeddings.Holder(count=lambda index: 7, begin=begun.append)])
    assert "Search by meaning" not in site.get(PAGE).text
    site_settings.embeddings_set(provider="sandbox", api_key=GOOD)
    first = embeddings.index_in_use()
    form = form_of(site.get(PAGE), "index")
    assert "7 pieces of text are indexed with sandbox sandbox-embed." in form
    assert "Index anew" not in form
    site_settings.embeddings_set(provider="sandbox", model="sandbox-embed-2")
    form = form_of(site.get(PAGE), "index")
    assert "7 pieces would have to be indexed anew" in form
    assert "Index anew" in form
    assert begun == []
    assert site.post(f"{PAGE}index/").status_code == 302
    assert site.post(f"{PAGE}index/").status_code == 302
    assert [(index.model, index.state) for index in begun] == [("sandbox-embed-2", "building")] * 2
    form = form_of(site.get(PAGE), "index")
    assert "7 pieces are made anew with sandbox sandbox-embed-2 so far" in form
    assert "Index anew" not in form
    assert embeddings.index_in_use() == first


def test_index_is_made_anew_by_staff_alone(client: Client, alice: User, sandbox_url: str) -> None:
    site_settings.embeddings_set(provider="sandbox", api_key=GOOD)
    embeddings.index_in_use()
    site_settings.embeddings_set(provider="sandbox", model="sandbox-embed-2")
    client.force_login(alice)
    assert client.post(f"{PAGE}index/").status_code in (302, 403)
    assert EmbeddingIndex.objects.get().state == "active"
