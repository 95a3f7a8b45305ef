from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from llm_credentials.live import tokens
from llm_credentials.models import PersonalAccessToken
from llm_credentials.services import token_create, token_revoke
from llm_credentials.tests.clocks import move_on
from llm_credentials.tests.test_live_changes import elsewhere
from project.tests.servers import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("live_as_in_production")]


@pytest.fixture
def secret(alice: User) -> str:
    made = token_create(user=alice, name="script")[1]
    assert tokens.authenticate(made) is not None
    return made


def known(secret: str) -> bool:
    return tokens.find(secret) is not None


def test_known_token_asks_no_database(alice: User, secret: str) -> None:
    with CaptureQueriesContext(connection) as queries:
        token = tokens.authenticate(secret)
    assert len(queries) == 0
    assert token is not None and token.user == alice and token.allows("read")


def test_known_token_is_one_secrets_alone(alice: User, bob: User, secret: str) -> None:
    other = token_create(user=bob)[1]
    assert tokens.find(other) is None
    assert tokens.find(secret[:-1] + ("a" if secret[-1] != "a" else "b")) is None
    for nonsense in ("", "ksw_", "' OR 1=1", "ksw_" + "ä" * 43):
        assert tokens.authenticate(nonsense) is None
    found = tokens.authenticate(other)
    assert found is not None and found.user == bob


def test_revoked_token_is_refused_at_once_here(alice: User, secret: str) -> None:
    row = PersonalAccessToken.objects.get()
    token_revoke(user=alice, token_id=row.pk)
    assert tokens.find(secret) is None
    assert tokens.authenticate(secret) is None


@pytest.mark.parametrize("change", ["revoked", "deleted", "deactivated", "user deleted"])
def test_token_is_refused_after_a_change_elsewhere(alice: User, secret: str, change: str) -> None:
    changes: dict[str, Any] = {
        "revoked": lambda: PersonalAccessToken.objects.update(revoked_at=timezone.now()),
        "deleted": lambda: PersonalAccessToken.objects.all()._raw_delete("default"),
        "deactivated": lambda: User.objects.update(is_active=False),
        "user deleted": lambda: User.objects.get(pk=alice.pk).delete(),
    }
    elsewhere(changes[change])
    wait_until(lambda: not known(secret), "the token to be let go")
    assert tokens.authenticate(secret) is None


def test_known_token_is_asked_for_again_when_nobody_has_looked_for_changes_lately(
    secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens.listener, "SURE_S", 600.0)
    assert known(secret)
    monkeypatch.setattr(tokens.listener, "SURE_S", 0.0)
    assert not known(secret)
    assert tokens.authenticate(secret) is not None


def test_token_is_refused_from_the_moment_it_expires(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    _, secret = token_create(user=alice, expires_at=timezone.now() + timedelta(hours=1))
    tokens.authenticate(secret)
    assert known(secret)
    now = tokens.time.time()
    monkeypatch.setattr(tokens.time, "time", lambda: now + 3601)
    assert not known(secret)


def test_use_of_a_known_token_is_noted_once_a_minute(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = PersonalAccessToken.objects.get().last_used_at
    assert first is not None
    tokens.authenticate(secret)
    assert PersonalAccessToken.objects.get().last_used_at == first
    PersonalAccessToken.objects.update(last_used_at=first - timedelta(seconds=61))
    tokens.forget()
    tokens.authenticate(secret)
    again = PersonalAccessToken.objects.get().last_used_at
    assert again is not None and again >= first
    monkeypatch.setattr(tokens.listener, "is_sure", lambda read_at: True)
    move_on(monkeypatch, tokens, tokens.MARKED_EVERY_S)
    assert not known(secret), "the next use after a minute asks, and notes it"


def test_rights_of_a_known_token_s_user_are_those_of_now(alice: User, secret: str) -> None:
    """What a request hangs on its user, such as permissions, goes with that request."""
    permission = Permission.objects.get(codename="view_usercredential")
    staff = Group.objects.create(name="staff")
    staff.permissions.add(permission)
    first = tokens.find(secret)
    assert first is not None and not first.user.has_perm("llm_credentials.view_usercredential")
    alice.groups.add(staff)
    second = tokens.authenticate(secret)
    assert second is not None and second.user is not first.user
    assert second.user.has_perm("llm_credentials.view_usercredential")


def test_known_tokens_are_bounded(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "TOKENS_MAX", 2)
    secrets = [token_create(user=alice)[1] for _ in range(3)]
    for secret in secrets:
        tokens.authenticate(secret)
    assert [known(secret) for secret in secrets] == [False, True, True]
    tokens.forget(alice.pk)
    assert not tokens._kept and not tokens._hashes
