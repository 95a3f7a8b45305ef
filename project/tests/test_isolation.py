"""Every address of the site, asked by everybody who should get nothing: generated from the URLconf.

A route that is not in ``route_rules.py`` fails ``test_every_route_has_an_expectation``. Whatever somebody else is
answered, nothing of the owner may stand in it, and nothing of the owner may change.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from llm_credentials import services
from llm_credentials.models import (
    PersonalAccessToken,
)
from project.tests import owned_things
from project.tests.owned_things import (
    KEY,
    MARK,
    SYSTEM_KEY,
    World,
    ask,
    clerk,
    deactivated,
    entered,
    path_of,
)
from project.tests.pages import Route
from project.tests.route_rules import ALL, TABLE, Kind

furnished, world = owned_things.furnished, owned_things.world  # the fixtures


@pytest.fixture
def bob(world: World) -> User:
    return User.objects.get(username="bob")


@pytest.fixture
def staff(world: World) -> User:
    return User.objects.get(username="staff")


def _text(response: Any) -> str:
    if response.streaming:
        return ""
    return str(response.content.decode(errors="replace"))


def _check_empty(response: Any, who: str) -> None:
    text = _text(response)
    assert response.status_code < 500, who
    for secret in (MARK, KEY, SYSTEM_KEY, "v1:t1:"):
        assert secret not in text, f"{who} saw {secret}"


def _is_login(response: Any) -> bool:
    place = str(response.headers.get("Location", "")) + str(response.headers.get("HX-Redirect", ""))
    return "/login/" in place


METHODS = ("GET", "POST", "DELETE")


# The matrix


def test_every_route_has_an_expectation() -> None:
    assert {route.name for route in ALL} == set(TABLE)


def _of(*kinds: Kind) -> list[Route]:
    return [route for route in ALL if route.name in TABLE and TABLE[route.name].kind in kinds]


PAGES = _of(Kind.OWN, Kind.OWNED)


@pytest.mark.parametrize("route", _of(Kind.PUBLIC), ids=str)
def test_public_page_shows_nothing_of_anybody(world: World, bob: User, route: Route) -> None:
    before = world.state()
    path = path_of(route, world)
    for who, client in (("anonymous", Client()), ("bob", entered(bob)), ("deactivated", deactivated())):
        for method in METHODS:
            _check_empty(ask(client, method, path), f"{who} {method}")
    assert world.state() == before


@pytest.mark.any_database
@pytest.mark.parametrize("route", PAGES, ids=str)
def test_page_asks_for_login(world: World, route: Route) -> None:
    """Anonymous, deactivated, or with a token, which opens no page."""
    path = path_of(route, world)
    _, secret = services.token_create(user=world.alice)
    before = world.state()
    header = {"Authorization": f"Bearer {secret}"}
    callers = (("anonymous", Client(), {}), ("gone", deactivated(), {}), ("token", Client(), header))
    for who, client, headers in callers:
        for method in METHODS:
            for htmx in ({}, {"HX-Request": "true"}):
                response = ask(client, method, path, **headers, **htmx)
                _check_empty(response, f"{who} {method}")
                assert response.status_code == 405 or _is_login(response), f"{who} {method} {response.status_code}"
        assert _is_login(ask(client, TABLE[route.name].method, path, **headers)), who
    assert world.state() == before


@pytest.mark.parametrize("route", PAGES, ids=str)
def test_page_gives_others_nothing_of_the_owner(world: World, bob: User, staff: User, route: Route) -> None:
    """A colleague, staff without a permission, and even staff with every permission."""
    before = world.state()
    rule = TABLE[route.name]
    for who, user in (("bob", bob), ("clerk", clerk()), ("staff", staff)):
        client = entered(user)
        for method in METHODS:
            for htmx in ({}, {"HX-Request": "true"}):
                response = ask(client, method, path_of(route, world), **htmx)
                _check_empty(response, f"{who} {method}")
                if rule.kind is Kind.OWNED:
                    assert response.status_code in (404, 405), f"{who} {method} {response.status_code}"
        if rule.kind is Kind.OWNED:
            assert ask(client, rule.method, path_of(route, world)).status_code == 404, who
    assert world.state() == before


@pytest.mark.parametrize("route", _of(Kind.OWNED), ids=str)
def test_owner_is_let_in(world: World, route: Route) -> None:
    """Or what is said above of others would say nothing."""
    response = ask(entered(world.alice), TABLE[route.name].method, path_of(route, world))
    assert response.status_code not in (401, 403, 404, 405)
    assert not _is_login(response)


@pytest.mark.any_database
@pytest.mark.parametrize("route", [each for each in PAGES if TABLE[each.name].method == "POST"], ids=str)
def test_post_without_csrf_token_is_refused(world: World, route: Route) -> None:
    client = entered(world.alice)
    client.handler.enforce_csrf_checks = True
    before = world.state()
    assert ask(client, "POST", path_of(route, world)).status_code == 403
    assert world.state() == before


# The API


def _expired(user: User) -> str:
    token, secret = services.token_create(user=user)
    PersonalAccessToken.objects.filter(pk=token.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    return secret


def _revoked(user: User) -> str:
    token, secret = services.token_create(user=user)
    services.token_revoke(user=user, token_id=token.pk)
    return secret


def _of_a_deactivated_user() -> str:
    user = User.objects.create_user("left", "left@example.com", "left-password")
    _, secret = services.token_create(user=user)
    User.objects.filter(pk=user.pk).update(is_active=False)
    return secret


@pytest.mark.parametrize("route", _of(Kind.API, Kind.SITE_API), ids=str)
def test_api_refuses_whoever_has_no_valid_token(world: World, route: Route) -> None:
    path, method = path_of(route, world), TABLE[route.name].method
    _, good = services.token_create(user=world.alice)
    bad = {
        "none": {},
        "expired": {"Authorization": f"Bearer {_expired(world.alice)}"},
        "revoked": {"Authorization": f"Bearer {_revoked(world.alice)}"},
        "deactivated": {"Authorization": f"Bearer {_of_a_deactivated_user()}"},
        "injected": {"Authorization": "Bearer ' OR 1=1 --"},
        "basic": {"Authorization": f"Basic {good}"},
        "x-api-key": {"X-Api-Key": good},
        "cookie": {"Cookie": f"token={good}"},
    }
    before = world.state()
    for who, headers in bad.items():
        response = ask(Client(), method, path, **headers)
        _check_empty(response, who)
        assert response.status_code == 401, who
    assert ask(Client(), method, f"{path}?token={good}&api_key={good}").status_code == 401
    assert ask(deactivated(), method, path).status_code == 401
    assert world.state() == before


@pytest.mark.parametrize("route", _of(Kind.API), ids=str)
def test_api_wants_the_scope(world: World, route: Route) -> None:
    """A token of each scope alone; with the right one the owner is let in."""
    rule = TABLE[route.name]
    path = path_of(route, world)
    if route.name.startswith("api:model_list"):
        path = path.replace("openai", "groq")  # of a stored key the provider would be asked
    for scope in services.ALL_SCOPES:
        _, secret = services.token_create(user=world.alice, scopes=[scope])
        response = ask(Client(), rule.method, path, Authorization=f"Bearer {secret}")
        if scope in rule.scope.split():
            assert response.status_code not in (401, 403, 404, 405), scope
        else:
            assert response.status_code == 403, scope
            _check_empty(response, scope)


@pytest.mark.parametrize("route", _of(Kind.API), ids=str)
def test_api_gives_others_nothing_of_the_owner(world: World, bob: User, staff: User, route: Route) -> None:
    for user in (bob, clerk(), staff):
        _, secret = services.token_create(user=user)
        before = world.state()
        path, method = path_of(route, world), TABLE[route.name].method
        _check_empty(ask(Client(), method, path, Authorization=f"Bearer {secret}"), f"{user} token")
        _check_empty(ask(entered(user), method, path), f"{user} session")
        # Whose token it is decides, whoever is logged in beside it.
        mixed = ask(entered(world.alice), method, path, Authorization=f"Bearer {secret}")
        _check_empty(mixed, f"{user} token beside the owner's session")
        assert world.state() == before


@pytest.mark.any_database
@pytest.mark.parametrize(
    "route", [each for each in _of(Kind.API, Kind.SITE_API) if TABLE[each.name].method != "GET"], ids=str
)
def test_api_wants_a_csrf_token_of_sessions(world: World, route: Route) -> None:
    client = entered(world.alice)
    client.handler.enforce_csrf_checks = True
    before = world.state()
    assert ask(client, TABLE[route.name].method, path_of(route, world)).status_code == 403
    assert world.state() == before


@pytest.mark.parametrize("route", _of(Kind.SITE_API), ids=str)
def test_site_api_is_for_staff_with_the_permission(world: World, bob: User, staff: User, route: Route) -> None:
    """By token and by session: nobody else, whatever the scope, and of auditors those who may look."""
    rule, path = TABLE[route.name], path_of(route, world)
    for user, status in ((bob, 403), (world.alice, 403), (clerk(), 403), (clerk("llm_credentials"), rule.auditor)):
        _, secret = services.token_create(user=user, name="of who asks")
        asked = (
            ask(Client(), rule.method, path, Authorization=f"Bearer {secret}"),
            ask(entered(user), rule.method, path),
        )
        for response in asked:
            _check_empty(response, user.username)
            assert response.status_code == status, user.username
    for scope in services.ALL_SCOPES:
        _, secret = services.token_create(user=staff, scopes=[scope])
        response = ask(Client(), rule.method, path, Authorization=f"Bearer {secret}")
        assert (response.status_code == 403) == (scope != rule.scope), scope


# The admin


@pytest.mark.any_database
@pytest.mark.parametrize("route", _of(Kind.STAFF, Kind.ADMIN), ids=str)
def test_admin_is_closed_to_everybody_else(world: World, bob: User, route: Route) -> None:
    before = world.state()
    for who, client in (("anonymous", Client()), ("bob", entered(bob)), ("deactivated", deactivated())):
        for method in METHODS:
            response = ask(client, method, path_of(route, world))
            _check_empty(response, f"{who} {method}")
            assert response.status_code in (302, 403, 405), f"{who} {method} {response.status_code}"
    assert world.state() == before


@pytest.mark.any_database
@pytest.mark.parametrize("route", _of(Kind.STAFF, Kind.ADMIN), ids=str)
def test_admin_shows_staff_without_permission_nothing(world: World, route: Route) -> None:
    client = entered(clerk())
    before = world.state()
    for method in METHODS:
        response = ask(client, method, path_of(route, world))
        _check_empty(response, method)
        if TABLE[route.name].kind is Kind.ADMIN:
            assert response.status_code in (403, 405), f"{method} {response.status_code}"
        client = client if client.session.get("_auth_user_id") else entered(User.objects.get(username="clerk"))
    assert world.state() == before
