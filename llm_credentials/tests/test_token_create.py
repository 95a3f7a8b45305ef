from __future__ import annotations

import io
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from llm_credentials import services
from llm_credentials.models import PersonalAccessToken


def printed(*args: str) -> str:
    out = io.StringIO()
    call_command("token_create", *args, stdout=out)
    return out.getvalue()


def test_token_create_prints_the_token_as_its_last_word(alice: Any) -> None:
    secret = printed("alice").split()[-1]
    token = services.token_authenticate(secret)
    assert token is not None
    assert token.user == alice
    assert token.scopes == list(services.ALL_SCOPES)
    assert token.expires_at is None


def test_token_create_takes_scopes_name_and_days(alice: Any) -> None:
    printed("alice", "--scope", "read", "--scope", "gateway", "--name", "laptop", "--days", "30")
    token = PersonalAccessToken.objects.get()
    assert (token.scopes, token.name) == (["read", "gateway"], "laptop")
    assert token.expires_at is not None
    assert timedelta(days=29) < token.expires_at - timezone.now() <= timedelta(days=30)


@pytest.mark.parametrize(
    "args",
    [
        ("nobody",),
        ("",),
        (),
        ("alice", "--scope", "root"),
        ("alice", "--days", "0"),
        ("alice", "--days", "-1"),
        ("alice", "--days", "999999999"),
        ("alice", "--days", "soon"),
        ("alice", "--name", "x" * 101),
    ],
)
def test_token_create_bad_input_is_a_clear_error(alice: Any, args: tuple[str, ...]) -> None:
    with pytest.raises(CommandError) as caught:
        printed(*args)
    assert str(caught.value)
    assert not PersonalAccessToken.objects.exists()
