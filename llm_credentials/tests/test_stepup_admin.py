"""Staff prove who they are before they change what guards others."""

from __future__ import annotations

from typing import Any

import pytest
from allauth.account.models import EmailAddress
from django.contrib.auth.models import User
from django.test import Client

from llm_credentials import services, stepup
from llm_credentials.models import AuditEvent, SystemCredential, UserCredential
from llm_credentials.tests.factories import SystemCredentialFactory, UserCredentialFactory
from llm_credentials.tests.proofs import enrol, make_stale, prove
from llm_credentials.tests.stepping_up import CONFIRM, KEY, STORED, assert_nothing_kept, target
from project.checks import staff_need_a_second_factor

pytestmark = pytest.mark.django_db


@pytest.fixture
def stale(client: Client, alice: User) -> Client:
    client.force_login(alice)
    make_stale(client)
    return client


@pytest.fixture
def stored(alice: User) -> UserCredential:
    made: UserCredential = UserCredentialFactory(user=alice, key=STORED, model="gpt-mine")
    return made


# The admin

SYSTEM = "/admin/llm_credentials/systemcredential/"


@pytest.fixture
def clerk(client: Client, staff: User) -> Client:
    client.force_login(staff)
    make_stale(client)
    return client


def test_admin_asks_before_the_form_is_filled(clerk: Client, staff: User) -> None:
    row = SystemCredentialFactory(key=STORED)
    for path in (f"{SYSTEM}add/", f"{SYSTEM}{row.pk}/change/", f"{SYSTEM}{row.pk}/delete/"):
        assert target(clerk.get(path)) == stepup.url(path)
        response = clerk.post(path, {"new_key": KEY, "provider": "openai", "post": "yes"})
        assert target(response) == stepup.url(path)
        assert_nothing_kept(clerk, response)
    assert SystemCredential.objects.get().reveal() == STORED
    prove(clerk, staff)
    assert clerk.get(f"{SYSTEM}add/").status_code == 200


@pytest.mark.parametrize(
    "place",
    [
        "auth/user/add/",
        "auth/user/{user}/change/",
        "auth/user/{user}/password/",
        "auth/user/{user}/delete/",
        "auth/group/add/",
        "account/emailaddress/add/",
    ],
)
def test_admin_asks_before_it_makes_a_way_around_every_other_proof(clerk: Client, alice: User, place: str) -> None:
    """A session that lies open could else give itself, or a new superuser, a password of its choice."""
    path = f"/admin/{place.format(user=alice.pk)}"
    typed = {"username": "mallory", "email": "m@example.com", "is_superuser": "on", "name": "all", "user": alice.pk}
    typed |= {"usable_password": "true", "password1": "tr0ub4dor-and-3", "password2": "tr0ub4dor-and-3", "post": "yes"}
    before = list(User.objects.values_list("username", "email", "password", "is_superuser"))
    assert target(clerk.get(path)) == stepup.url(path)
    assert target(clerk.post(path, typed)) == stepup.url(path)
    assert list(User.objects.values_list("username", "email", "password", "is_superuser")) == before


def test_admin_asks_before_it_vouches_for_addresses(clerk: Client, alice: User) -> None:
    address = EmailAddress.objects.create(user=alice, email="a@example.com")
    chosen = {"action": "make_verified", "_selected_action": [str(address.pk)]}
    assert target(clerk.post("/admin/account/emailaddress/", chosen)).startswith(CONFIRM)
    address.refresh_from_db()
    assert not address.verified


def test_admin_asks_before_it_removes_or_exports_many(clerk: Client, staff: User, stored: UserCredential) -> None:
    def act(model: str, action: str, pk: object) -> Any:
        form = {"action": action, "post": "yes", "_selected_action": [str(pk)]}
        return clerk.post(f"/admin/llm_credentials/{model}/", form)

    event = _event(stored)
    assert target(act("usercredential", "delete_selected", stored.pk)).startswith(CONFIRM)
    assert target(act("auditevent", "export_csv", event)).startswith(CONFIRM)
    assert UserCredential.objects.filter(pk=stored.pk).exists()
    prove(clerk, staff)
    assert act("auditevent", "export_csv", event).status_code == 200
    act("usercredential", "delete_selected", stored.pk)
    assert not UserCredential.objects.filter(pk=stored.pk).exists()


def _event(stored: UserCredential) -> Any:
    services.credential_save(user=stored.user, provider="openai", is_active=False)
    return AuditEvent.objects.latest("at").pk


def test_admin_lists_need_no_proof(clerk: Client) -> None:
    assert clerk.get(SYSTEM).status_code == 200


def test_staff_without_a_second_factor_are_led_to_set_one_up(clerk: Client, staff: User, settings: Any) -> None:
    settings.REQUIRE_STAFF_MFA = True
    for path in ("/admin/", SYSTEM, "/admin/login/"):
        response = clerk.get(path, follow=True)
        assert response.redirect_chain[-1][0] == "/accounts/2fa/", path
    assert "asks for a second factor" in response.content.decode()
    enrol(staff)
    assert clerk.get("/admin/").status_code == 200


def test_others_are_not_led_into_the_admin_by_a_second_factor(client: Client, alice: User, settings: Any) -> None:
    settings.REQUIRE_STAFF_MFA = True
    enrol(alice)
    client.force_login(alice)
    assert client.get("/admin/login/").status_code == 403


@pytest.mark.parametrize("required", [True, False])
def test_deployment_check_says_that_staff_need_no_second_factor(settings: Any, required: bool) -> None:
    settings.REQUIRE_STAFF_MFA = required
    found = {message.id for message in staff_need_a_second_factor(None)}
    assert ("project.W001" in found) is not required
