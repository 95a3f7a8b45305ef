"""The order of the keys on the providers page, and several keys of one provider."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from llm_credentials import services
from llm_credentials.models import LLMSettings, UserCredential
from llm_credentials.tests.factories import UserCredentialFactory

PAGE = "/settings/llm/"
MOVE = "/settings/llm/order/move/"
ORDER = "/settings/llm/order/"
HTMX = {"HX-Request": "true"}
KEY = "sk-CANARY-5f1e-0123456789abcd4f2a"


@pytest.fixture
def keys(alice: User) -> dict[str, UserCredential]:
    return {
        slug: UserCredentialFactory(user=alice, provider=slug, priority=place * 10, key=KEY)
        for place, slug in enumerate(("openai", "mistral", "groq"), 1)
    }


def shown(client: Client) -> list[str]:
    """The providers of the chain as the page has them."""
    text = client.get(PAGE).content.decode()
    return re.findall(r'id="card-(\w+)-[\w-]+" data-key=', text)


def move(client: Client, row: UserCredential, where: str, **headers: str) -> Any:
    return client.post(MOVE, {"credential": row.pk, "move": where}, headers=headers)


def test_key_moves_up_and_down(visitor: Client, keys: dict[str, UserCredential]) -> None:
    assert shown(visitor) == ["openai", "mistral", "groq"]
    assert move(visitor, keys["groq"], "up")["Location"] == PAGE
    assert shown(visitor) == ["openai", "groq", "mistral"]
    move(visitor, keys["openai"], "down")
    move(visitor, keys["mistral"], "down")  # it is the last
    assert shown(visitor) == ["groq", "openai", "mistral"]


def test_move_gives_htmx_the_cards_alone(visitor: Client, keys: dict[str, UserCredential]) -> None:
    response = move(visitor, keys["groq"], "up", **HTMX)
    assert response["HX-Retarget"] == "#providers"
    assert "<html" not in response.content.decode()


def test_order_against_the_default_lets_go_of_it(visitor: Client, alice: User, keys: dict[str, UserCredential]) -> None:
    services.settings_update(user=alice, default_provider="mistral")
    assert shown(visitor) == ["mistral", "openai", "groq"]
    move(visitor, keys["groq"], "up")
    assert LLMSettings.of(alice).default_provider == "mistral"
    move(visitor, keys["mistral"], "down")
    assert LLMSettings.of(alice).default_provider == ""
    assert shown(visitor) == ["groq", "mistral", "openai"]


def test_dragged_order_is_kept(visitor: Client, keys: dict[str, UserCredential]) -> None:
    wanted = ["groq", "openai", "mistral"]
    visitor.post(ORDER, {"credential": [keys[slug].pk for slug in wanted]}, headers=HTMX)
    assert shown(visitor) == wanted


@pytest.mark.parametrize("place", [MOVE, ORDER])
@pytest.mark.parametrize("credential", ["", "no-id", "6f9619ff-8b86-4d11-b42d-00c04fc964ff"])
def test_what_is_no_key_of_the_user_moves_nothing(
    visitor: Client, keys: dict[str, UserCredential], bob: User, place: str, credential: str
) -> None:
    theirs = UserCredentialFactory(user=bob)
    for each in (credential, str(theirs.pk)):
        response = visitor.post(place, {"credential": each, "move": "up"}, headers=HTMX)
        assert "Nothing was moved" in response.content.decode() or "changed meanwhile" in response.content.decode()
    assert shown(visitor) == ["openai", "mistral", "groq"]


def test_a_single_key_has_no_arrows(visitor: Client, alice: User) -> None:
    UserCredentialFactory(user=alice)
    assert shown(visitor) == []


def test_many_keys_are_counted_rather_than_named(visitor: Client, alice: User) -> None:
    for number in range(10):
        UserCredentialFactory(user=alice, name=f"key-{number}", priority=number)
    page = visitor.get(PAGE).content.decode()
    assert "key-5 and 4 more." in " ".join(page.split())
    assert page.count('class="tile') == 6
    assert "4 more</a>" in page


# Several keys of one provider


def test_card_offers_another_key_under_a_free_name(visitor: Client, alice: User) -> None:
    UserCredentialFactory(user=alice)
    UserCredentialFactory(user=alice, name="key-2")
    text = visitor.get(f"{PAGE}openai/").content.decode()
    assert f"{PAGE}openai/?name=key-3" in text
    text = visitor.get(f"{PAGE}openai/?name=key-3").content.decode()
    assert 'name="name" id="openai-key-3-name" value="key-3"' in text


def save(client: Client, **typed: str) -> Any:
    return client.post(f"{PAGE}openai/save/", {"card": "key-2", "api_key": KEY, **typed}, headers=HTMX)


def test_another_key_is_saved_under_the_name_that_was_typed(visitor: Client, alice: User) -> None:
    UserCredentialFactory(user=alice)
    assert save(visitor, name="work").status_code == 200
    assert set(UserCredential.objects.values_list("name", flat=True)) == {"default", "work"}


def test_another_key_does_not_take_the_place_of_one_that_is_there(visitor: Client, alice: User) -> None:
    row = UserCredentialFactory(user=alice, key=KEY)
    response = save(visitor, name="default", api_key="sk-CANARY-another-0123456789")
    assert response.status_code == 422
    assert 'id="openai-key-2-name-errors"' in response.content.decode()
    assert "You have a key of this name" in response.content.decode()
    row.refresh_from_db()
    assert row.reveal() == KEY


def test_impossible_name_is_refused_beside_its_field(visitor: Client, alice: User) -> None:
    UserCredentialFactory(user=alice)
    response = save(visitor, name="../../x")
    assert response.status_code == 422
    assert 'id="openai-key-2-name-errors"' in response.content.decode()


# What a card says of its key


@pytest.mark.parametrize(
    ("status", "words", "is_ready"),
    [
        ("unverified", "It has not been tested yet.", True),
        ("invalid", "It is passed over until it works.", False),
        ("error", "No credit left.", False),
    ],
)
def test_card_says_what_to_do_next(visitor: Client, alice: User, status: str, words: str, is_ready: bool) -> None:
    UserCredentialFactory(user=alice, status=status, status_detail="No credit left.")
    shown = visitor.get(PAGE).content.decode()
    assert words in shown
    assert ('aria-label="Configured"' in shown) is is_ready


def test_models_are_listed_with_cost_and_speed(visitor: Client) -> None:
    text = visitor.get(f"{PAGE}mistral/").content.decode()
    row = re.search(r'<li data-words="mistral-small-latest[^"]*">(.*?)</li>', text, re.S)
    assert row is not None
    assert re.findall(r'class="badge">([^<]+)', row[1]) == ["very low cost", "very fast", "262 K tokens"]
