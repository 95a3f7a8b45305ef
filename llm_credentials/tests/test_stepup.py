"""What touches keys asks for a recent proof of who is there: on pages, for htmx, in the API and in the admin."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import pytest
from allauth.mfa.models import Authenticator
from django.contrib.auth.models import User
from django.test import Client

from llm_credentials import services, stepup
from llm_credentials.models import ConnectionTest, UserCredential
from llm_credentials.tests.factories import UserCredentialFactory
from llm_credentials.tests.proofs import enrol, enrol_passkey, make_stale, prove
from llm_credentials.tests.stepping_up import CONFIRM, KEY, STORED, assert_nothing_kept, target
from project.tests.test_accounts import code_for

pytestmark = pytest.mark.django_db
HTMX = {"HX-Request": "true"}
PAGE = "/settings/llm/openai/"


@pytest.fixture
def stale(client: Client, alice: User) -> Client:
    client.force_login(alice)
    make_stale(client)
    return client


@pytest.fixture
def stored(alice: User) -> UserCredential:
    made: UserCredential = UserCredentialFactory(user=alice, key=STORED, model="gpt-mine")
    return made


# What counts as a proof


def test_login_counts_and_grows_old(client: Client, alice: User, settings: Any) -> None:
    client.post("/accounts/login/", {"login": "alice", "password": "alice-password"})
    assert client.get(PAGE).status_code == 200
    make_stale(client)
    assert target(client.get(PAGE)).startswith(CONFIRM)


@pytest.mark.parametrize(("method", "enough"), [("password", False), ("mfa", True)])
def test_with_a_second_factor_only_that_counts(client: Client, alice: User, method: str, enough: bool) -> None:
    enrol(alice)
    client.force_login(alice)
    assert target(client.get(PAGE)).startswith(CONFIRM), "a login that gave no second factor"
    prove(client, alice, method)
    assert (client.get(PAGE).status_code == 200) is enough


def test_proof_of_another_user_counts_for_nobody(client: Client, alice: User, bob: User) -> None:
    client.force_login(alice)
    make_stale(client)
    prove(client, bob)
    assert target(client.get(PAGE)).startswith(CONFIRM)


def test_site_may_ask_everybody_for_a_second_factor(client: Client, alice: User, settings: Any) -> None:
    settings.REQUIRE_SECOND_FACTOR = True
    client.force_login(alice)
    assert client.get("/settings/llm/").status_code == 200
    response = client.get(PAGE, follow=True)
    assert response.redirect_chain[-1][0] == "/accounts/2fa/"
    assert "Set one up" in response.content.decode()
    assert client.post(f"{PAGE}save/", {"api_key": KEY}).status_code == 401
    enrol(alice)
    prove(client, alice, "mfa")
    assert client.get(PAGE).status_code == 200


# The way there and back


def test_person_comes_back_to_the_card_with_a_password(stale: Client) -> None:
    response = stale.get(f"{PAGE}?name=work", follow=True)
    place = response.redirect_chain[-1][0]
    assert place.startswith("/accounts/reauthenticate/")
    assert target(stale.post(place, {"password": "wrong"})) == ""
    back = stale.post(place, {"password": "alice-password"})
    assert target(back) == f"{PAGE}?name=work"
    assert 'id="openai-work-api_key"' in stale.get(target(back)).content.decode()


def test_person_comes_back_with_an_authenticator_app(stale: Client, alice: User) -> None:
    secret = enrol(alice)
    place = stale.get(PAGE, follow=True).redirect_chain[-1][0]
    assert place.startswith("/accounts/2fa/reauthenticate/")
    assert target(stale.post(place, {"code": code_for(secret)})) == PAGE
    assert stale.get(PAGE).status_code == 200


def test_password_is_no_way_around_the_second_factor(stale: Client, alice: User) -> None:
    enrol(alice)
    response = stale.post(f"/accounts/reauthenticate/?next={PAGE}", {"password": "alice-password"})
    assert target(response).startswith("/accounts/2fa/reauthenticate/")
    assert target(stale.get(PAGE)).startswith(CONFIRM)
    stale.post("/accounts/2fa/totp/deactivate/")
    assert Authenticator.objects.filter(user=alice).exists()


def test_person_with_a_passkey_and_no_password_is_asked_for_it(stale: Client, alice: User) -> None:
    enrol_passkey(alice)
    stale.force_login(alice)
    make_stale(stale)
    place = target(stale.get(target(stale.get(PAGE))))
    assert place == f"/accounts/2fa/webauthn/reauthenticate/?{urlencode({'next': PAGE})}"
    prove(stale, alice, "mfa")
    assert stale.get(PAGE).status_code == 200


def test_person_with_nothing_to_show_is_told_to_log_in_again(stale: Client, alice: User) -> None:
    User.objects.filter(pk=alice.pk).update(password="!")
    stale.force_login(User.objects.get(pk=alice.pk))
    make_stale(stale)
    response = stale.get(PAGE, follow=True)
    assert response.redirect_chain[-1][0] == "/settings/security/"
    assert "Log out and in again" in response.content.decode()


@pytest.mark.parametrize("url", ["https://evil.example/", "//evil.example/", "javascript:alert(1)", ""])
def test_proof_leads_nowhere_else(client: Client, alice: User, url: str) -> None:
    client.force_login(alice)
    assert target(client.get(CONFIRM, {"next": url})) == "/settings/llm/"


def test_other_tab_says_how_to_go_on(stale: Client, alice: User) -> None:
    assert target(stale.get(f"{CONFIRM}done/")).startswith(CONFIRM)
    prove(stale, alice)
    assert "press the button once more" in stale.get(f"{CONFIRM}done/").content.decode()


# Pages


@pytest.mark.parametrize("headers", [{}, HTMX], ids=["page", "htmx"])
def test_form_for_a_new_key_comes_after_the_proof(stale: Client, alice: User, headers: dict[str, str]) -> None:
    response = stale.get(PAGE, headers=headers)
    assert target(response) == stepup.url(PAGE)
    assert response.content == b""
    prove(stale, alice)
    assert "api_key" in stale.get(PAGE, headers=headers).content.decode()


@pytest.mark.parametrize("headers", [{}, HTMX], ids=["page", "htmx"])
def test_stored_key_opens_with_key_and_address_closed(
    stale: Client, alice: User, stored: UserCredential, headers: dict[str, str]
) -> None:
    text = stale.get(PAGE, headers=headers).content.decode()
    assert 'type="password"' not in text
    assert "Replace key or address" in text and f'href="{stepup.url(PAGE)}"' in text
    assert 'name="model"' in text
    prove(stale, alice)
    assert 'type="password"' in stale.get(PAGE, headers=headers).content.decode()


def test_save_asks_htmx_for_the_proof_and_leaves_the_form_alone(stale: Client, stored: UserCredential) -> None:
    response = stale.post(f"{PAGE}save/", {"name": "default", "api_key": KEY, "model": "gpt-new"}, headers=HTMX)
    assert response.status_code == 401
    assert response["HX-Reswap"] == "none"
    text = response.content.decode()
    assert "What you typed is still here" in text
    assert 'target="_blank"' in text and "<form" not in text
    assert_nothing_kept(stale, response)
    _unchanged(stored)


def test_save_keeps_all_but_the_key_without_scripts(stale: Client, alice: User) -> None:
    response = stale.post(f"{PAGE}save/", {"name": "work", "api_key": KEY, "model": "gpt-new"})
    assert response.status_code == 401
    text = response.content.decode()
    assert "enter the key again" in text
    assert 'value="gpt-new"' in text and 'value="work"' in text
    assert_nothing_kept(stale, response)
    assert not UserCredential.objects.exists() and not ConnectionTest.objects.exists()
    prove(stale, alice)
    stale.post(f"{PAGE}save/", {"name": "work", "api_key": KEY, "model": "gpt-new"})
    assert UserCredential.objects.get().reveal() == KEY


def test_key_in_the_wrong_field_does_not_come_back(stale: Client) -> None:
    """Refused for what it is before anybody is asked for a proof."""
    response = stale.post(f"{PAGE}save/", {"name": "default", "api_key": KEY, "base_url": KEY})
    assert response.status_code == 422
    assert_nothing_kept(stale, response)


@pytest.mark.parametrize("changes", [{"api_key": KEY}, {"api_key": KEY, "base_url": "https://elsewhere.example/v1"}])
def test_key_and_address_change_only_after_the_proof(
    stale: Client, alice: User, stored: UserCredential, changes: dict[str, str]
) -> None:
    form = {"name": "default", "model": "gpt-mine", **changes}
    assert stale.post(f"{PAGE}save/", form).status_code == 401
    _unchanged(stored)
    prove(stale, alice)
    assert stale.post(f"{PAGE}save/", form).status_code == 302
    stored.refresh_from_db()
    assert stored.reveal() == KEY


def test_address_without_a_key_changes_only_after_the_proof(stale: Client, alice: User, settings: Any) -> None:
    settings.LLM_EGRESS_ALLOW = ["127.0.0.1:11434", "127.0.0.1:11435"]
    services.credential_save(user=alice, provider="ollama", base_url="http://127.0.0.1:11434", model="llama")
    form = {"name": "default", "model": "llama", "base_url": "http://127.0.0.1:11435"}
    assert stale.post("/settings/llm/ollama/save/", form).status_code == 401
    assert UserCredential.objects.get().base_url.startswith("http://127.0.0.1:11434")
    prove(stale, alice)
    assert stale.post("/settings/llm/ollama/save/", form).status_code == 302
    assert UserCredential.objects.get().base_url.startswith("http://127.0.0.1:11435")


@pytest.mark.parametrize("headers", [{}, HTMX], ids=["page", "htmx"])
def test_ordinary_changes_need_no_proof(stale: Client, stored: UserCredential, headers: dict[str, str]) -> None:
    form = {"name": "default", "model": "gpt-other", "base_url": stored.base_url}
    assert stale.post(f"{PAGE}save/", form, headers=headers).status_code in (200, 302)
    assert stale.post(f"{PAGE}toggle/", {"active": "off"}, headers=headers).status_code in (200, 302)
    assert stale.post("/settings/llm/default/set/", {"provider": "openai"}, headers=headers).status_code in (200, 302)
    assert stale.post("/settings/llm/fallback/set/", {"fallback": "off"}, headers=headers).status_code in (200, 302)
    assert stale.post(f"{PAGE}test/", form, headers=headers).status_code in (200, 302)
    stored.refresh_from_db()
    assert (stored.model, stored.is_active) == ("gpt-other", False)
    assert ConnectionTest.objects.get().credential_id == stored.pk


@pytest.mark.parametrize("headers", [{}, HTMX], ids=["page", "htmx"])
def test_removal_comes_after_the_proof(
    stale: Client, alice: User, stored: UserCredential, headers: dict[str, str]
) -> None:
    there = stepup.url(f"{PAGE}remove/")
    assert target(stale.get(f"{PAGE}remove/", headers=headers)) == there
    assert target(stale.post(f"{PAGE}delete/", headers=headers)) == there
    _unchanged(stored)
    prove(stale, alice)
    assert stale.post(f"{PAGE}delete/", headers=headers).status_code in (200, 302)
    assert not UserCredential.objects.exists()


def _unchanged(stored: UserCredential) -> None:
    row = UserCredential.objects.get(pk=stored.pk)
    assert (row.reveal(), row.model, row.version) == (STORED, "gpt-mine", 1)


# The API


def _post(client: Client, body: dict[str, Any], **headers: str) -> Any:
    return client.post("/api/user/llm-credentials", json.dumps(body), content_type="application/json", headers=headers)


def test_api_tells_a_stale_session_where_to_go(stale: Client, alice: User, stored: UserCredential) -> None:
    for response in (
        _post(stale, {"provider": "openai", "api_key": KEY}),
        _post(stale, {"provider": "openai", "name": "new", "api_key": KEY}),
        stale.delete("/api/user/llm-credentials/openai"),
    ):
        assert response.status_code == 401
        error = response.json()["error"]
        assert (error["code"], error["where"]) == ("reauthentication_required", CONFIRM)
        assert_nothing_kept(stale, response)
    _unchanged(stored)
    prove(stale, alice)
    assert _post(stale, {"provider": "openai", "api_key": KEY}).status_code == 200
    assert stale.delete("/api/user/llm-credentials/openai").status_code == 204


def test_api_lets_a_stale_session_do_ordinary_things(stale: Client, stored: UserCredential) -> None:
    changed = _post(stale, {"provider": "openai", "model": "gpt-other", "is_active": False, "priority": 5})
    assert changed.status_code == 200
    assert stale.get("/api/user/llm-credentials").status_code == 200
    test = stale.post("/api/user/llm-credentials/openai/test", "{}", content_type="application/json")
    assert test.status_code in (202, 503)


def test_api_token_was_proven_when_it_was_made(client: Client, alice: User, settings: Any) -> None:
    settings.REQUIRE_SECOND_FACTOR = True
    _, secret = services.token_create(user=alice, scopes=["credentials"])
    token = {"Authorization": f"Bearer {secret}"}
    assert _post(client, {"provider": "openai", "api_key": KEY}, **token).status_code == 201
    assert client.delete("/api/user/llm-credentials/openai", headers=token).status_code == 204
