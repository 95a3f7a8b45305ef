"""Access tokens: made, checked, used, revoked."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone

from llm_credentials.models import PersonalAccessToken
from llm_credentials.services import (
    token_authenticate,
    token_create,
    token_revoke,
)
from llm_credentials.tests.factories import TokenFactory
from llm_credentials.tests.writes import refused

# Access tokens


def test_token_is_stored_as_a_hash_only(alice: Any) -> None:
    token, secret = token_create(user=alice, name=" laptop ", scopes=["gateway", "read"])
    assert secret.startswith("ksw_")
    assert len(secret) == 47
    assert (token.name, token.scopes, token.prefix) == ("laptop", ["read", "gateway"], secret[4:12])
    assert (token.allows("read"), token.allows("credentials")) == (True, False)
    row = PersonalAccessToken.objects.values().get()
    assert secret[12:] not in str(row)
    assert str(token) == f"ksw_{secret[4:12]}…"


def test_token_without_scopes_named_has_all(alice: Any) -> None:
    token, _ = token_create(user=alice)
    assert token.scopes == ["read", "credentials", "agents", "gateway"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scopes", []),
        ("scopes", ["admin"]),
        ("scopes", ["read", "root"]),
        ("scopes", "read"),
        ("name", "x" * 101),
        ("name", "a\nb"),
        ("expires_at", timezone.now() - timedelta(seconds=1)),
    ],
)
def test_token_create_bad_input_names_the_field(alice: Any, field: str, value: Any) -> None:
    bad: dict[str, Any] = {field: value}
    assert list(refused(lambda: token_create(user=alice, **bad))) == [field]
    assert not PersonalAccessToken.objects.exists()


def test_token_authenticates_its_user(alice: Any, bob: Any) -> None:
    _, hers = token_create(user=alice)
    _, his = token_create(user=bob)
    found = [token_authenticate(hers), token_authenticate(his)]
    assert [token.user for token in found if token] == [alice, bob]


def test_token_that_is_nothing_authenticates_nobody(alice: Any) -> None:
    _, secret = token_create(user=alice)
    wrong = [
        "",
        "ksw_",
        secret[4:],
        secret[:-1],
        secret + "a",
        secret[:12] + "A" * 35,
        secret.replace("ksw_", "KSW_"),
        f" {secret}",
        "ksw_" + "ü" * 43,
        "ksw_" + "\0" * 43,
        "ksw_' OR 1=1 --" + "a" * 32,
        "ksw_" + "a" * 1_000_000,
        PersonalAccessToken.objects.get().hash,
    ]
    assert [token_authenticate(text) for text in wrong] == [None] * len(wrong)


def test_token_revoked_expired_or_of_an_inactive_user_authenticates_nobody(alice: Any, bob: Any, charlie: Any) -> None:
    revoked, expired, inactive = TokenFactory(user=alice), TokenFactory(user=bob), TokenFactory(user=charlie)
    assert None not in [token_authenticate(token.secret) for token in (revoked, expired, inactive)]
    token_revoke(user=alice, token_id=revoked.pk)
    PersonalAccessToken.objects.filter(pk=expired.pk).update(expires_at=timezone.now())
    charlie.is_active = False
    charlie.save()
    assert [token_authenticate(token.secret) for token in (revoked, expired, inactive)] == [None, None, None]
    revoked.refresh_from_db()
    expired.refresh_from_db()
    assert (revoked.is_usable, expired.is_usable) == (False, False)


def test_token_of_the_same_prefix_is_told_apart(alice: Any, bob: Any) -> None:
    hers, his = TokenFactory(user=alice), TokenFactory(user=bob)
    PersonalAccessToken.objects.filter(pk=his.pk).update(prefix=hers.prefix)
    found = token_authenticate(hers.secret)
    assert found is not None
    assert found.user == alice


def test_token_last_use_is_written_at_most_once_a_minute(
    alice: Any, time_machine: Any, django_assert_num_queries: Any
) -> None:
    token = TokenFactory(user=alice)
    time_machine.move_to(timezone.now())
    start = timezone.now()
    with django_assert_num_queries(2):
        token_authenticate(token.secret)
    time_machine.shift(59)
    with django_assert_num_queries(1):
        token_authenticate(token.secret)
    time_machine.shift(2)
    with django_assert_num_queries(2):
        token_authenticate(token.secret)
    token.refresh_from_db()
    assert token.last_used_at >= start + timedelta(seconds=60)


def test_token_revoke_is_the_owners_and_may_be_repeated(alice: Any, bob: Any) -> None:
    token = TokenFactory(user=alice)
    for user, token_id in ((bob, token.pk), (alice, uuid4()), (alice, "no-uuid"), (alice, "\0")):
        with pytest.raises(PersonalAccessToken.DoesNotExist):
            token_revoke(user=user, token_id=token_id)
    assert token_authenticate(token.secret) is not None
    token_revoke(user=alice, token_id=token.pk)
    first = PersonalAccessToken.objects.get().revoked_at
    token_revoke(user=alice, token_id=token.pk)
    assert PersonalAccessToken.objects.get().revoked_at == first
