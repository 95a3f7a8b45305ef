"""Every way in that can cause a call to a provider is limited: generated from the URLconf.

A route that is not in ``CALLS`` must cause none; ``test_route_causes_calls_only_where_it_is_limited`` asks every one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
import redis
from allauth.mfa.models import Authenticator
from django.conf import settings as site_settings
from django.contrib.auth.models import User
from django.db import transaction
from django.test import Client

from agents.models import Conversation, MessageState
from llm_credentials import opening
from llm_credentials.models import ConnectionTest
from llm_credentials.providers import RequestRejected, TextPart
from llm_credentials.tests.proofs import proven
from project.tests.owned_things import KEY, World, ask, own_world, path_of
from project.tests.pages import Route
from project.tests.route_rules import ALL, TABLE

world = own_world  # the fixture

CALLS = {
    "agents:conversation-create": "chat",
    "agents:message-create": "chat",
    "agents:message-retry": "chat",
    **{f"agents:message-{does}": "chat" for does in ("continue", "beside", "edit")},
    **{f"api:message_{does}": "chat" for does in ("retry", "continue", "beside", "edit")},
    "agents:message-stream": "stream",
    "agents:agent-pick": "chat",
    "agents:run-start": "run",
    "agents:run-create": "run",
    "agents:run-retry": "run",
    "llm_credentials:credential-save": "test",
    "llm_credentials:credential-test": "test",
    "llm_credentials:model-list": "models",
    "llm_credentials:model-list-load": "models",
    "api:credential_save": "test",
    "api:connection_test_start": "test",
    "api:model_list": "models",
    "api:site_models": "models",
    "api:site_test": "test",
    "api:model_list_unsaved": "models",
    "admin:llm_credentials_site_models_load": "models",
    "admin:llm_credentials_site_models_test": "test",
    "api:agent_pick": "chat",
    "api:run_create": "run",
    "api:run_retry": "run",
    "api:message_create": "chat",
}
"""Route → the kind of limit that holds for it."""
SAVES_WITHOUT_A_TEST = {"llm_credentials:credential-save", "api:credential_save"}
"""Where nothing but the test of the key is put off when there were too many."""
QUEUES = [queue.name for queue in site_settings.CELERY_TASK_QUEUES]
JOBS = {"llm_credentials.connection_test", "agents.run_agent"}
"""Those of the queue that call a provider."""
TYPED = {
    "agents:conversation-create": {"text": "Hello", "plain": "1"},
    "agents:message-create": {"text": "Hello"},
    "agents:message-edit": {"text": "Hello"},
    "agents:agent-pick": {"text": "Hello"},
    "agents:run-start": {"text": "Hello"},
    "agents:run-create": {"text": "Hello", "agent": "conversation"},
    "llm_credentials:credential-save": {"api_key": KEY + "x", "model": "m"},
    "llm_credentials:credential-test": {"api_key": KEY + "x", "model": "m"},
    "admin:llm_credentials_site_models_load": {"provider": "openai"},
    "admin:llm_credentials_site_models_test": {"provider": "openai", "model": "m"},
    "llm_credentials:model-list-load": {"api_key": KEY + "x", "model": "m"},
}


class Calls:
    """What was about to leave for a provider: clients that were made, and jobs that would make some."""

    def __init__(self, queue: redis.Redis) -> None:
        self.queue = queue
        self.opened = 0

    def refuse(self, provider: str, **_: Any) -> Any:
        self.opened += 1
        raise RequestRejected(provider=provider)

    @property
    def count(self) -> int:
        waiting: list[Any] = [each for name in QUEUES for each in self.queue.lrange(name, 0, -1)]  # type: ignore[union-attr]
        return self.opened + sum(json.loads(each)["headers"]["task"] in JOBS for each in waiting)

    def forget(self) -> None:
        self.queue.delete(*QUEUES)
        self.opened = 0


@pytest.fixture
def calls(valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Calls]:
    with redis.Redis.from_url(valkey_url) as queue:
        recorder = Calls(queue)
        monkeypatch.setattr(opening, "build_client", recorder.refuse)
        yield recorder


def _ask_for(route: Route, world: World, client: Client) -> Any:
    """As its page or a program would, with something to do."""
    path, method = path_of(route, world), TABLE[route.name].method
    if route.name == "api:site_models":
        return client.post(path, json.dumps({"provider": "openai"}), content_type="application/json")
    if route.name == "api:credential_save":
        body = json.dumps({"provider": "openai", "api_key": KEY + "x"})
        return client.post(path, body, content_type="application/json")
    if route.name == "api:agent_pick":
        return client.post(path, json.dumps({"text": "Hello"}), content_type="application/json")
    if route.name == "llm_credentials:credential-save":
        return client.post(path, TYPED[route.name] | {"name": f"key-{uuid4()}"})
    if route.name in TYPED:
        return client.post(path, TYPED[route.name])
    return ask(client, method, path, **({"HX-Request": "true"} if route.name.endswith("model-list") else {}))


def _ready(world: World) -> None:
    """A conversation in which everything may be asked for, and an owner without a second factor to prove."""
    Authenticator.objects.all().delete()
    conversation = Conversation.objects.get(pk=world.ids["conversation_id"])
    conversation.messages.filter(position__gt=999).delete()
    conversation.messages.filter(variant__gt=0).delete()
    conversation.messages.update(is_aside=False)
    half = (TextPart(text="Half an answer"),)
    conversation.messages.filter(role="assistant").update(state=MessageState.INCOMPLETE, parts=half, begun="")


CALLING = [route for route in ALL if route.name in CALLS]
QUIET = [route for route in ALL if route.name not in CALLS]


def test_every_calling_route_exists() -> None:
    assert {route.name for route in CALLING} == set(CALLS)


@pytest.mark.any_database
@pytest.mark.django_db(transaction=True)
def test_route_that_causes_calls_is_limited(world: World, calls: Calls, settings: Any, alice: User) -> None:
    rates = settings.LLM_RATES
    _ready(world)
    User.objects.filter(pk=alice.pk).update(is_staff=True, is_superuser=True)
    client = proven(alice)
    for route in CALLING:
        settings.LLM_RATES = {kind: {} for kind in rates}
        _ready(world)
        if route.name != "agents:message-stream":  # asked for when somebody reads it
            _ask_for(route, world, client)
            assert calls.count > 0, f"{route}: so that silence below means something"
        calls.forget()
        _ready(world)
        ConnectionTest.objects.all().delete()
        settings.LLM_RATES = {kind: {"user": "0/m"} if kind == CALLS[route.name] else {} for kind in rates}
        response = _ask_for(route, world, client)
        assert calls.count == 0, str(route)
        if route.name not in SAVES_WITHOUT_A_TEST:
            assert response.status_code == 429, str(route)
            assert int(response.headers["Retry-After"]) >= 1, str(route)


@pytest.mark.any_database
@pytest.mark.django_db(transaction=True)
def test_route_causes_calls_only_where_it_is_limited(world: World, calls: Calls, alice: User) -> None:
    _ready(world)
    User.objects.filter(pk=alice.pk).update(is_staff=True, is_superuser=True)
    client = proven(alice)
    # What opens a key refuses to do so inside the transaction that keeps this loop from leaving traces.
    client.raise_request_exception = False
    for route in QUIET:
        with transaction.atomic():
            for method in {"GET", TABLE[route.name].method}:
                ask(client, method, path_of(route, world))
            transaction.set_rollback(True)
        assert calls.count == 0, str(route)


@pytest.mark.django_db(transaction=True)
def test_limit_keeps_what_was_typed(world: World, calls: Calls, set_rate: Any, alice: User) -> None:
    set_rate("chat", "user", "0/m")
    set_rate("run", "user", "0/m")
    client = proven(alice)
    typed = "A long question that nobody wants to type twice"
    conversation = f"/conversations/{world.ids['conversation_id']}/messages/"
    for path, data in (
        (conversation, {"text": typed}),
        ("/agents/conversation/conversations/", {"text": typed}),
        ("/runs/create/", {"text": typed, "agent": "conversation"}),
    ):
        response = client.post(path, data)
        assert response.status_code == 429
        assert f">{typed}</textarea>" in response.content.decode()
    inline = client.post(conversation, {"text": typed}, headers={"HX-Request": "true"})
    assert (inline.status_code, inline.headers["HX-Retarget"]) == (429, "#composer-errors")


def test_limits_hold_in_each_process_while_valkey_is_away(set_rate: Any, alice: User, settings: Any) -> None:
    from llm_credentials import limits

    settings.CACHES = {
        "default": {**settings.CACHES["default"], "LOCATION": "redis://127.0.0.1:1/0", "KEY_PREFIX": "away"}
    }
    set_rate("chat", "user", "2/m")
    admitted = 0
    for _ in range(4):
        try:
            limits.admit("chat", alice)
            admitted += 1
        except limits.LimitReached as reached:
            assert 1 <= reached.retry_after_s <= 60
    assert admitted == 2
