"""What calls for a token is made once, and anew as soon as the token is another."""

from __future__ import annotations

from copy import copy

import pytest
from django.contrib.auth.models import User

from llm_credentials import services
from llm_credentials.gateway import callers
from llm_credentials.gateway.callers import Caller, client_of
from llm_credentials.gateway.errors import Refused
from llm_credentials.gateway.naming import Named
from llm_credentials.models import PersonalAccessToken


@pytest.fixture
def token(alice: User) -> PersonalAccessToken:
    return services.token_create(user=alice, scopes=["gateway"])[0]


def test_client_is_kept_for_one_token_and_what_it_asks_for(alice: User, token: PersonalAccessToken) -> None:
    caller, named = Caller(user=alice, token=token), Named(provider="openai", model="gpt-4o-mini")
    assert client_of(caller, named) is client_of(caller, Named(provider="openai", model="gpt-4o-mini"))
    assert client_of(caller, Named(provider="openai", model="gpt-4o")) is not client_of(caller, named)


def test_changed_token_is_held_to_what_it_says_now(alice: User, token: PersonalAccessToken) -> None:
    named = Named(provider="openai", model="gpt-4o-mini")
    before = client_of(Caller(user=alice, token=token), named)
    changed = copy(token)
    changed.providers = ["groq"]
    with pytest.raises(Refused):
        client_of(Caller(user=alice, token=changed), named)
    changed.providers = ["groq", "openai"]
    assert client_of(Caller(user=alice, token=changed), named) is not before


def test_few_clients_are_kept(alice: User, token: PersonalAccessToken, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "CLIENTS_MAX", 3)
    for number in range(8):
        client_of(Caller(user=alice, token=token), Named(model=f"m{number}"))
    assert len(callers._made) <= 3
