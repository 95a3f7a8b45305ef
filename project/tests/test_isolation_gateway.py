"""Every address of ``/v1``, asked by everybody who should get nothing; a route that is not in the table fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextvars import copy_context
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from llm_credentials import services
from llm_credentials.gateway.app import ROUTES
from llm_credentials.models import AuditEvent, PersonalAccessToken, UsageRecord
from llm_credentials.tests.factories import SystemCredentialFactory, UserCredentialFactory

MARK = "mark-of-the-owner"
BODIES: dict[tuple[str, str], Any] = {
    ("POST", "/v1/chat/completions"): {"model": "auto", "messages": [{"role": "user", "content": "hello"}]},
    ("POST", "/v1/messages"): {"model": "auto", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]},
    ("POST", "/v1/messages/count_tokens"): {"model": "auto", "messages": [{"role": "user", "content": "hello"}]},
    ("POST", "/v1/embeddings"): {"model": "auto", "input": "hello"},
    ("GET", "/v1/models"): None,
    ("GET", "/v1/models/auto"): None,
}
"""Every route, with a body that would be answered."""
CALLS = list(BODIES)


def test_every_route_has_an_expectation() -> None:
    routes = {(method, path.replace("*", "auto")) for path, methods in ROUTES.items() for method in methods}
    assert routes == set(BODIES)


@pytest.fixture
def owner(transactional_db: Any, alice: User, sandbox_url: str) -> Iterator[User]:
    UserCredentialFactory(user=alice, provider="openai", name=MARK, model=MARK, base_url=f"{sandbox_url}/v1")
    yield alice


def _ask(call: tuple[str, str], **headers: str) -> Any:
    """Through the whole ASGI application, in this process."""
    from project.asgi import application

    async def ask() -> Any:
        transport = httpx2.ASGITransport(app=application)
        async with httpx2.AsyncClient(transport=transport, base_url="http://testserver") as client:
            content = None if BODIES[call] is None else json.dumps(BODIES[call])
            return await client.request(*call, content=content, headers={"content-type": "application/json", **headers})

    # In a context of its own, as a server has for each request.
    return copy_context().run(async_to_sync(ask))


def _bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_whoever_has_no_valid_token_is_refused(call: tuple[str, str], owner: User, bob: User, staff: User) -> None:
    expired, expired_secret = services.token_create(user=owner)
    PersonalAccessToken.objects.filter(pk=expired.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    revoked, revoked_secret = services.token_create(user=owner)
    services.token_revoke(user=owner, token_id=revoked.pk)
    _, gone_secret = services.token_create(user=bob)
    User.objects.filter(pk=bob.pk).update(is_active=False)
    session = Client()
    session.force_login(owner)
    staff_session = Client()
    staff_session.force_login(staff)
    callers = {
        "anonymous": {},
        "expired": _bearer(expired_secret),
        "revoked": _bearer(revoked_secret),
        "deactivated": _bearer(gone_secret),
        "injected": _bearer("' OR 1=1 --"),
        "session": {"cookie": "; ".join(f"{name}={value.value}" for name, value in session.cookies.items())},
        "staff": {"cookie": "; ".join(f"{name}={value.value}" for name, value in staff_session.cookies.items())},
    }
    for who, headers in callers.items():
        answer = _ask(call, **headers)
        assert (answer.status_code, MARK in answer.text) == (401, False), who
    assert not UsageRecord.objects.exists()
    assert AuditEvent.objects.filter(action="token.refused").count() == 4


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_token_of_another_scope_is_refused(call: tuple[str, str], owner: User) -> None:
    others = [scope for scope in services.ALL_SCOPES if scope != "gateway"]
    for scope in others:
        answer = _ask(call, **_bearer(services.token_create(user=owner, scopes=[scope])[1]))
        assert (answer.status_code, MARK in answer.text) == (403, False), scope
    assert not UsageRecord.objects.exists()
    assert AuditEvent.objects.filter(action="access.denied", actor=str(owner.pk)).count() == len(others)


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_others_get_nothing_of_the_owner(call: tuple[str, str], owner: User, bob: User, staff: User) -> None:
    for user in (bob, staff):
        answer = _ask(call, **_bearer(services.token_create(user=user, scopes=["gateway"])[1]))
        assert answer.status_code in (200, 400), user
        assert MARK not in answer.text
    assert not UsageRecord.objects.filter(user=owner).exists()


def test_owner_is_let_in(owner: User) -> None:
    """Or what is said above of others would say nothing."""
    answer = _ask(("GET", "/v1/models"), **_bearer(services.token_create(user=owner, scopes=["gateway"])[1]))
    assert MARK in answer.text


def test_system_key_shows_to_nobody(owner: User, bob: User) -> None:
    SystemCredentialFactory(provider="openai", key="sk-system-canary-0123456789abcdef")
    for call in CALLS:
        answer = _ask(call, **_bearer(services.token_create(user=bob, scopes=["gateway"])[1]))
        assert "canary" not in answer.text
