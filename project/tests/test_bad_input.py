"""Every address of the site with what nobody should send it: refused or bounded, never a crash.

Generated from the URLconf, asked by somebody who may do everything, so that no refusal hides what comes after it.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from allauth.mfa.models import Authenticator
from django.contrib.auth.models import User
from django.db import transaction
from django.test import Client

from project.tests import owned_things
from project.tests.owned_things import World, entered, path_of
from project.tests.pages import Route
from project.tests.route_rules import ALL

furnished, world = owned_things.furnished, owned_things.world  # the fixtures

LONG = "x" * 100_000
QUERIES = [
    {"page": "1000000000000", "page_size": "1000000000", "p": "1000000000000", "o": "999.-999.x", "limit": "-1"}
    | {"q": LONG, "next": "https://evil.example/", "name": "' OR 1=1 --", "ordering": "api_key", "month": "99999-99"}
    | {"provider": "\ud83d", "days": "1e999", "date": "0000-00-00"},
    {"page": "NaN", "p": "-1", "page_size": "9" * 500, "all": "", "q": "%" * 100, "e": "1", "provider": LONG[:5000]},
    {"api_key__startswith": "s", "user__password__startswith": "p", "id__in": "x", "at__year": "x"},
    {"at__gte": "0000-00-00", "created_at__day": "99", "user__id__exact": "x", "_popup": "1", "_to_field": "password"},
]
"""The last two for lists of the admin, which filter by what they are told."""
NASTY = [
    *("", " ", "\0", "\ud800", "\ufeff", "\u202e", LONG[:5000], "' OR 1=1 --", "{{7*7}}", "%s%n", "../../x", "NaN"),
    *("1e999", "-1", "9" * 500, "[]", "{" * 1000, "<script>alert(1)</script>", "\r\nSet-Cookie: a=b", "null"),
]
FIELDS = [
    *("api_key", "model", "base_url", "name", "provider", "options", "option_api_version", "priority", "is_active"),
    *("text", "message", "input", "agent", "title", "credential", "credential_id", "confirm", "enabled", "fallback"),
    *(
        "login",
        "password",
        "password1",
        "password2",
        "email",
        "username",
        "code",
        "key",
        "q",
        "next",
        "action",
        "scopes",
    ),
    *("host", "port", "value", "category", "note", "user", "group", "_selected_action", "index", "select_across", "on"),
    *("monthly_budget_usd", "temperature", "max_tokens", "task", "expires", "expires_in", "date", "created_at_0"),
]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Thousands of refusals, each with its trace, would drown the one that matters."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def everything(world: World, settings: Any) -> Callable[[], Client]:
    """Clients of the owner, who is also staff with every right; limits do not stand in the way."""
    settings.RATELIMIT_ENABLE = False
    settings.ACCOUNT_RATE_LIMITS = False
    Authenticator.objects.all().delete()  # the one that stands there is none that could be read
    User.objects.filter(pk=world.alice.pk).update(is_staff=True, is_superuser=True)
    world.alice.refresh_from_db()

    def client() -> Client:
        made = entered(world.alice)
        made.raise_request_exception = False
        return made

    return client


def crashes(world: World, client: Callable[[], Client], ask: Callable[[Client, Route, str], list[Any]]) -> list[str]:
    found = []
    for route in ALL:
        path = path_of(route, world)
        with transaction.atomic():
            for number, response in enumerate(ask(client(), route, path)):
                # A call of a provider refuses to run inside the transaction that keeps this loop from leaving traces.
                cause = _cause(response)
                ours = "inside transaction.atomic" in cause or "durable atomic block" in cause
                if response.status_code >= 500 and response.status_code != 503 and not ours:
                    found.append(f"{route} {number}: {response.status_code} {_cause(response)}")
            transaction.set_rollback(True)
    return found


def _cause(response: Any) -> str:
    kind, error, trace = response.exc_info or (None, None, None)
    frames = [frame for frame in traceback.extract_tb(trace) if ".venv" not in frame.filename]
    return f"{kind and kind.__name__}: {str(error)[:100]} {frames[-1].filename if frames else ''}"


@pytest.mark.slow
def test_no_address_crashes_on_odd_queries(world: World, everything: Callable[[], Client]) -> None:
    def ask(client: Client, route: Route, path: str) -> list[Any]:
        if route.name.endswith(("_add", "_change", "_delete", "_history")):
            return []
        asked = QUERIES if route.name.endswith("_changelist") else QUERIES[:2]
        queries = [urlencode(query, errors="surrogatepass") for query in asked]
        return [client.get(f"{path}?{query}") for query in (*queries, "%ff%fe=%zz&=&&==")]

    assert crashes(world, everything, ask) == []


def test_no_address_crashes_on_odd_forms(world: World, everything: Callable[[], Client]) -> None:
    def ask(client: Client, route: Route, path: str) -> list[Any]:
        answers = []
        for shift in (0, 7):
            values = {name: NASTY[(at + shift) % len(NASTY)] for at, name in enumerate(FIELDS)}
            body = urlencode(values, errors="surrogatepass")
            answers.append(client.post(path, body, content_type="application/x-www-form-urlencoded"))
        answers.append(client.post(path, b"\x00\xff", content_type="multipart/form-data; boundary=x"))
        if route.name.endswith("_changelist"):
            chosen = {"_selected_action": ["x", "\0"], "action": "delete_selected", "post": "yes"}
            answers.append(client.post(path, chosen))
        return answers

    assert crashes(world, everything, ask) == []


@pytest.mark.slow
def test_no_address_crashes_on_odd_ids(world: World, everything: Callable[[], Client]) -> None:
    """In the place of every id of the address."""

    def ask(client: Client, route: Route, path: str) -> list[Any]:
        answers = []
        for odd in ("9" * 40, "%F0%9F%92%A9..%2f..%2fx", "x" * 3000):
            other = path
            for value in sorted(set(world.ids.values()), key=len, reverse=True):
                if len(value) > 8 or f"/{value}/" in path:
                    other = other.replace(f"/{value}", f"/{odd}")
            if other != path:
                answers += [client.get(other), client.post(other, {"post": "yes"})]
        return answers

    assert crashes(world, everything, ask) == []
