"""Saving, turning on and off, and removing a key on the page."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from llm_credentials.connection_tests import QueueUnavailable
from llm_credentials.models import ConnectionTest, UserCredential
from llm_credentials.tests.factories import UserCredentialFactory

LIST = "/settings/llm/"
SAVE = "/settings/llm/openai/save/"
TOGGLE = "/settings/llm/openai/toggle/"
REMOVE = "/settings/llm/openai/remove/"
DELETE = "/settings/llm/openai/delete/"
HTMX = {"HX-Request": "true"}
KEY = "sk-CANARY-5f1e-0123456789abcd4f2a"

# Rows must be committed before a task about them may be queued.
pytestmark = pytest.mark.django_db(transaction=True)


def html(response: Any) -> str:
    return str(response.content.decode())


def stored(user: User) -> UserCredential | None:
    return UserCredential.objects.for_user(user).filter(provider="openai").first()


# Save


def test_save_seals_the_key_and_starts_its_test(visitor: Client, alice: User) -> None:
    response = visitor.post(SAVE, {"name": "default", "api_key": KEY, "model": "gpt-mine", "base_url": ""})
    assert (response.status_code, response["Location"]) == (302, f"{LIST}#card-openai-default")
    credential = stored(alice)
    assert credential is not None
    assert credential.reveal() == KEY
    assert credential.model == "gpt-mine"
    test = ConnectionTest.objects.get(user=alice)
    assert (test.state, test.credential_id, test.has_key) == ("queued", credential.pk, False)


def test_save_answers_htmx_with_the_cards_in_their_new_places(visitor: Client) -> None:
    response = visitor.post(SAVE, {"name": "default", "api_key": KEY}, headers=HTMX)
    text = html(response)
    assert response["HX-Retarget"] == "#providers"
    assert "<html" not in text
    assert "•••• 4f2a" in text
    assert "CANARY" not in text
    assert "Waiting for its turn" in text


def test_save_of_a_stored_key_answers_htmx_with_its_card_and_the_chain(visitor: Client, alice: User) -> None:
    UserCredentialFactory(user=alice, key=KEY)
    response = visitor.post(SAVE, {"name": "default", "api_key": "", "model": "gpt-other"}, headers=HTMX)
    text = html(response)
    assert "HX-Retarget" not in response
    assert text.count('class="card credential') == 1
    assert 'id="chain" hx-swap-oob="true"' in text
    assert "OpenAI saved." in text


@pytest.mark.parametrize("typed", ["", "   ", "•••• 4f2a", "****4f2a"])
def test_save_without_a_new_key_keeps_the_stored_one_and_tests_nothing(
    visitor: Client, alice: User, typed: str
) -> None:
    UserCredentialFactory(user=alice, key=KEY, status="valid")
    visitor.post(SAVE, {"name": "default", "api_key": typed, "model": "gpt-other"})
    credential = stored(alice)
    assert credential is not None
    assert (credential.reveal(), credential.model, credential.status) == (KEY, "gpt-other", "valid")
    assert not ConnectionTest.objects.exists()


@pytest.mark.any_database
@pytest.mark.parametrize(
    ("typed", "field"),
    [
        ({"api_key": ""}, "api_key"),
        ({"api_key": "   "}, "api_key"),
        ({"api_key": "•••• 4f2a"}, "api_key"),
        ({"api_key": "sk-CANARY with-a-space-4f2a"}, "api_key"),
        ({"api_key": "sk-CANARY\r\nX-Evil: 1"}, "api_key"),
        ({"api_key": "sk-CANARY\x00-0123456789"}, "api_key"),
        ({"api_key": "sk-CANARY-“quoted”"}, "api_key"),
        ({"api_key": "sk-CANARY-" + "a" * 1_000_000}, "api_key"),
        ({"api_key": "CANA"}, "api_key"),
        ({"api_key": KEY, "model": "../../../admin"}, "model"),
        ({"api_key": KEY, "model": "a b"}, "model"),
        ({"api_key": KEY, "base_url": "http://169.254.169.254/"}, "base_url"),
        ({"api_key": KEY, "base_url": "file:///etc/passwd"}, "base_url"),
        ({"api_key": KEY, "base_url": "https://user:CANARY@example.com/"}, "base_url"),
        ({"api_key": KEY, "name": "no spaces here"}, "name"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else value,
)
@pytest.mark.parametrize("headers", [{}, HTMX], ids=["page", "htmx"])
def test_save_refuses_bad_input_beside_its_field(
    visitor: Client, alice: User, typed: dict[str, str], field: str, headers: dict[str, str]
) -> None:
    response = visitor.post(SAVE, {"name": "default", **typed}, headers=headers)
    text = html(response)
    assert response.status_code == 422
    place = re.search(rf'id="openai-default-{field}-errors".*?</div>', text, re.DOTALL)
    assert place is not None
    assert 'class="error"' in place[0]
    assert "CANARY" not in text
    assert not re.search(r'name="api_key"[^>]*\bvalue=', text)
    assert stored(alice) is None
    assert not ConnectionTest.objects.exists()


def test_save_refused_leaves_what_htmx_users_typed_in_its_fields(visitor: Client) -> None:
    response = visitor.post(SAVE, {"api_key": "short"}, headers=HTMX)
    assert response["HX-Reswap"] == "none"
    assert "<input" not in html(response)


def test_save_refused_repeats_no_key_that_was_pasted_into_the_wrong_field(visitor: Client) -> None:
    response = visitor.post("/settings/llm/openai/save/", {"model": KEY, "base_url": f"ftp://{KEY}"})
    assert response.status_code == 422
    assert "CANARY" not in html(response)


def test_save_refused_keeps_what_is_no_secret_on_the_page(visitor: Client) -> None:
    text = html(visitor.post(SAVE, {"api_key": "short", "model": "gpt-typed"}))
    assert 'value="gpt-typed"' in text


def test_save_with_a_new_address_asks_for_the_key_again(visitor: Client, alice: User) -> None:
    UserCredentialFactory(user=alice, key=KEY)
    response = visitor.post(SAVE, {"name": "default", "base_url": "https://llm.example.com/v1"}, headers=HTMX)
    assert response.status_code == 422
    assert "Enter the key again" in html(response)
    credential = stored(alice)
    assert credential is not None
    assert credential.base_url == ""


def test_save_takes_no_field_that_the_form_does_not_have(visitor: Client, alice: User, bob: User) -> None:
    visitor.post(SAVE, {"api_key": KEY, "user": str(bob.pk), "status": "valid", "request_count": "9", "priority": "1"})
    credential = stored(alice)
    assert credential is not None
    assert (credential.status, credential.request_count, credential.priority) == ("unverified", 0, 100)
    assert not UserCredential.objects.for_user(bob).exists()


def test_save_asks_for_login(client: Client) -> None:
    response = client.post(SAVE, {"api_key": KEY})
    assert response["Location"].startswith("/accounts/login/")
    assert not UserCredential.objects.exists()


def test_save_without_the_csrf_token_is_refused(alice: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)
    response = client.post(SAVE, {"api_key": KEY})
    assert response.status_code == 403
    assert "CANARY" not in html(response)
    assert stored(alice) is None


def test_save_by_a_stranger_makes_their_own_key(client: Client, alice: User, charlie: User) -> None:
    UserCredentialFactory(user=alice, key=KEY)
    client.force_login(charlie)
    client.post(SAVE, {"api_key": "sk-of-charlie-0123456789"})
    credential = stored(alice)
    assert credential is not None
    assert credential.reveal() == KEY


def test_save_for_an_unknown_provider_is_not_there(visitor: Client) -> None:
    assert visitor.post("/settings/llm/nobody/save/", {"api_key": KEY}).status_code == 404


def test_save_holds_when_the_queue_is_away(visitor: Client, alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(test: ConnectionTest) -> None:
        raise QueueUnavailable

    monkeypatch.setattr("llm_credentials.views.credentials.enqueue_connection_test", away)
    response = visitor.post(SAVE, {"api_key": KEY}, follow=True)
    assert stored(alice) is not None
    assert "It could not be tested" in html(response)


def test_save_past_the_limit_keeps_the_key_and_says_when_to_test(visitor: Client, alice: User, set_rate: Any) -> None:
    set_rate("test", "user", "0/m")
    response = visitor.post(SAVE, {"api_key": KEY}, follow=True)
    assert stored(alice) is not None
    assert "Key saved. It was not tested" in html(response)


# Toggle


def test_toggle_turns_the_key_off_and_on(visitor: Client, alice: User) -> None:
    credential = UserCredentialFactory(user=alice)
    assert visitor.post(TOGGLE, {"active": "off"})["Location"] == LIST
    credential.refresh_from_db()
    assert not credential.is_active
    visitor.post(TOGGLE, {"active": "on"})
    credential.refresh_from_db()
    assert credential.is_active


def test_toggle_answers_htmx_with_the_card_and_the_chain(visitor: Client, alice: User) -> None:
    UserCredentialFactory(user=alice)
    text = html(visitor.post(TOGGLE, {"active": "off"}, headers=HTMX))
    assert "<html" not in text
    assert 'aria-checked="false"' in text
    assert "None of your keys is in use." in text


@pytest.mark.parametrize("active", ["", "true", "<script>"])
def test_toggle_refuses_what_is_neither_on_nor_off(visitor: Client, alice: User, active: str) -> None:
    credential = UserCredentialFactory(user=alice)
    response = visitor.post(TOGGLE, {"active": active})
    assert response.status_code == 422
    credential.refresh_from_db()
    assert credential.is_active


def test_toggle_asks_for_login(client: Client) -> None:
    assert client.post(TOGGLE, {"active": "off"})["Location"].startswith("/accounts/login/")


def test_toggle_by_a_stranger_is_not_there(client: Client, alice: User, charlie: User) -> None:
    credential = UserCredentialFactory(user=alice)
    client.force_login(charlie)
    assert client.post(TOGGLE, {"active": "off"}).status_code == 404
    credential.refresh_from_db()
    assert credential.is_active


# Remove


def test_confirm_removal_names_what_goes(visitor: Client, alice: User) -> None:
    UserCredentialFactory(user=alice, key=KEY)
    text = html(visitor.get(REMOVE))
    assert "<html" in text
    assert "Remove the OpenAI key ending 4f2a?" in text
    assert UserCredential.objects.exists()


def test_confirm_removal_gives_htmx_the_card_alone(visitor: Client, alice: User) -> None:
    UserCredentialFactory(user=alice, key=KEY)
    text = html(visitor.get(REMOVE, headers=HTMX))
    assert "<html" not in text
    assert "Remove the OpenAI key ending 4f2a" in text


def test_confirm_removal_of_nothing_is_not_there(visitor: Client) -> None:
    assert visitor.get(REMOVE).status_code == 404


def test_confirm_removal_by_a_stranger_is_not_there(client: Client, alice: User, charlie: User) -> None:
    UserCredentialFactory(user=alice, key=KEY)
    client.force_login(charlie)
    assert client.get(REMOVE).status_code == 404


def test_delete_removes_the_key_and_says_which(visitor: Client, alice: User) -> None:
    UserCredentialFactory(user=alice, key=KEY)
    response = visitor.post(DELETE, {"name": "default"}, follow=True)
    assert "Removed the OpenAI key ending 4f2a." in html(response)
    assert stored(alice) is None


def test_delete_leaves_the_other_keys_of_the_provider(visitor: Client, alice: User) -> None:
    UserCredentialFactory(user=alice)
    UserCredentialFactory(user=alice, name="work")
    visitor.post(DELETE, {"name": "work"})
    assert [credential.name for credential in UserCredential.objects.for_user(alice)] == ["default"]


def test_delete_answers_htmx_with_the_cards_in_their_new_places(visitor: Client, alice: User) -> None:
    UserCredentialFactory(user=alice, key=KEY)
    response = visitor.post(DELETE, {"name": "default"}, headers=HTMX)
    assert response["HX-Retarget"] == "#providers"
    assert "<html" not in html(response)
    assert "No key yet." in html(response)


def test_delete_twice_is_not_there(visitor: Client, alice: User) -> None:
    UserCredentialFactory(user=alice)
    visitor.post(DELETE)
    assert visitor.post(DELETE).status_code == 404


def test_delete_asks_for_login(client: Client, alice: User) -> None:
    UserCredentialFactory(user=alice)
    assert client.post(DELETE)["Location"].startswith("/accounts/login/")
    assert UserCredential.objects.exists()


def test_delete_by_a_stranger_is_not_there(client: Client, alice: User, charlie: User) -> None:
    UserCredentialFactory(user=alice)
    client.force_login(charlie)
    assert client.post(DELETE).status_code == 404
    assert UserCredential.objects.exists()
