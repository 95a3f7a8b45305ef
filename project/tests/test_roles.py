"""What the two groups of staff may: every page of the admin and every action, asked by each of them."""

from __future__ import annotations

from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.auth.models import Group, Permission, User
from django.test import Client
from django.urls import reverse

from llm_credentials.models import AuditEvent, ConnectionTest, SystemCredential, UserCredential
from llm_credentials.tests.proofs import proven
from project import roles
from project.tests.owned_things import KEY, SYSTEM_KEY, World, ask, own_world, path_of
from project.tests.pages import furnish
from project.tests.route_rules import ALL, TABLE, Kind

world = own_world  # the fixture

RUN = {
    f"llm_credentials_{name}"
    for name in ("egressallowance", "grouppolicy", "systemconfig", "systemcredential", "userallowance")
}
SEEN_BY_OPERATORS = {
    *("agents_agentrun", "auth_group", "auth_user", "llm_credentials_connectiontest", "llm_credentials_llmsettings"),
    *("llm_credentials_personalaccesstoken", "llm_credentials_usagerecord", "llm_credentials_usercredential"),
}
LOOK = {"changelist": 200, "change": 200, "history": 200, "add": 403, "delete": 403}
WORK = dict.fromkeys(LOOK, 200)
CLOSED = dict.fromkeys(LOOK, 403)

PAGES: dict[str, tuple[int, int]] = {
    "health": (200, 200),
    "llm_credentials_usage": (200, 200),
    "llm_credentials_usage_export": (200, 200),
    "llm_credentials_key_ring": (200, 200),
    "llm_credentials_audit_verify": (200, 403),
    "llm_credentials_site_allowance": (403, 200),
    "llm_credentials_site_models": (200, 200),
    "llm_credentials_site_models_save": (403, 422),
    "llm_credentials_site_models_load": (403, 422),
    "llm_credentials_site_models_test": (403, 422),
    "llm_credentials_site_index": (403, 302),
    "llm_credentials_site_supervisor": (403, 302),
    "auth_user_password_change": (403, 403),
}
"""By the name of the page: what auditors get, and what operators get (422: let in, and the empty form refused; 302: let
in, and the empty choice saved)."""

ACTIONS: dict[str, tuple[str, ...]] = {
    "llm_credentials_usercredential": ("retest", "turn_off", "ask_for_reentry", "delete_selected"),
    "llm_credentials_systemcredential": ("retest", "turn_off", "delete_selected"),
    "llm_credentials_personalaccesstoken": ("revoke", "delete_selected"),
    "account_emailaddress": ("make_verified", "delete_selected"),
    "mfa_authenticator": ("delete_selected",),
    "usersessions_usersession": ("delete_selected",),
    "auth_user": ("delete_selected",),
    "auth_group": ("delete_selected",),
    "llm_credentials_systemconfig": ("delete_selected",),
    "llm_credentials_userallowance": ("delete_selected",),
}


def member(role: str) -> User:
    user = User.objects.create_user(role.lower(), password="member-password", is_staff=True)
    user.groups.add(Group.objects.get(name=role))
    return user


def models() -> set[str]:
    return {f"{model._meta.app_label}_{model._meta.model_name}" for model in admin.site._registry}


def expected(role: str) -> dict[str, int]:
    """Status by the name of the route, for all routes of the admin that need a permission."""
    place = roles.ROLES.index(role)
    found = {f"admin:{name}": statuses[place] for name, statuses in PAGES.items()}
    for model in models():
        if role == roles.AUDITORS:
            pages = LOOK
        else:
            pages = WORK if model in RUN else LOOK if model in SEEN_BY_OPERATORS else CLOSED
        found |= {f"admin:{model}_{page}": status for page, status in pages.items()}
    return found


@pytest.mark.any_database
@pytest.mark.parametrize("role", roles.ROLES)
def test_role_opens_these_pages_and_no_other(world: World, role: str) -> None:
    client = proven(member(role))
    wanted = expected(role)
    admins = [route for route in ALL if TABLE[route.name].kind is Kind.ADMIN]
    assert {route.name for route in admins} | {"admin:health"} == set(wanted)
    wrong = {}
    for route in sorted(admins, key=lambda each: TABLE[each.name].method == "POST"):  # what changes things comes last
        response = ask(client, TABLE[route.name].method, path_of(route, world))
        if response.status_code != wanted[route.name]:
            wrong[route.name] = response.status_code
        text = "" if response.streaming else response.text
        for secret in (KEY, SYSTEM_KEY, KEY[:-4], SYSTEM_KEY[:-4], "v1:t1:"):
            assert secret not in text, route.name
    assert wrong == {}


def test_auditors_change_nothing_by_any_form_or_action(world: World) -> None:
    client = proven(member(roles.AUDITORS))
    before = world.state()
    for route in (each for each in ALL if TABLE[each.name].kind is Kind.ADMIN):
        path = path_of(route, world)
        if route.name.endswith(("_change", "_add", "_delete")):
            posted = {"post": "yes", "base_url": "https://elsewhere.example", "new_key": KEY}
            assert client.post(path, posted).status_code == 403, route.name
    for model in models():
        actions = {*ACTIONS.get(model, ()), "delete_selected"}
        for action in actions:
            run(client, model, action, world)
            assert world.state() == before, f"{model} {action}"


def run(client: Client, model: str, action: str, world: World) -> Any:
    chosen = {"action": action, "_selected_action": [world.ids[model]], "post": "yes"}
    return client.post(reverse(f"admin:{model}_changelist"), chosen)


def test_every_action_of_the_admin_has_an_expectation(rf: Any, staff: User) -> None:
    request = rf.get("/")
    request.user = staff
    for model, its_admin in admin.site._registry.items():
        name = f"{model._meta.app_label}_{model._meta.model_name}"
        reading = {"export_json_lines", "export_csv"}
        assert set(its_admin.get_actions(request)) - {"delete_selected", *reading} == (
            set(ACTIONS.get(name, ())) - {"delete_selected"}
        ), name


def test_operators_do_not_touch_keys_tokens_and_accounts_of_people(world: World) -> None:
    client = proven(member(roles.OPERATORS))
    before = world.state()
    for model in models() - RUN:
        for action in {*ACTIONS.get(model, ()), "delete_selected"} - OPERATED:
            run(client, model, action, world)
            assert world.state() == before, f"{model} {action}"


OPERATED = {"retest", "turn_off", "ask_for_reentry"}
"""What they may all the same, with users' keys."""


def test_operators_have_keys_of_people_tested_and_turned_off(world: World) -> None:
    client = proven(member(roles.OPERATORS))
    keys = UserCredential.objects.filter(pk=world.ids["llm_credentials_usercredential"])
    for action in ("ask_for_reentry", "retest"):
        run(client, "llm_credentials_usercredential", action, world)
        assert keys.get().is_active
    run(client, "llm_credentials_usercredential", "turn_off", world)
    assert not keys.get().is_active
    seen = AuditEvent.objects.filter(subject=str(world.alice.pk), actor=str(User.objects.get(username="operators").pk))
    assert {"credential.ask", "test.start", "credential.toggle"} <= set(seen.values_list("action", flat=True))


def test_operators_change_the_keys_of_the_site(world: World) -> None:
    client = proven(member(roles.OPERATORS))
    run(client, "llm_credentials_systemcredential", "delete_selected", world)
    assert not SystemCredential.objects.exists()
    assert UserCredential.objects.for_user(world.alice).exists()
    assert AuditEvent.objects.filter(action="credential.delete", subject="system").count() == 1


def test_groups_are_made_and_mended_by_each_migration(db: None) -> None:
    group = Group.objects.get(name=roles.AUDITORS)
    seen = set(group.permissions.values_list("codename", flat=True))
    assert all(codename.startswith("view_") for codename in seen)
    group.permissions.add(Permission.objects.get(codename="delete_usercredential"))
    Group.objects.get(name=roles.OPERATORS).delete()
    roles.after_migrate("default")
    assert set(group.permissions.values_list("codename", flat=True)) == seen
    assert Group.objects.get(name=roles.OPERATORS).permissions.count() > 20


def test_groups_of_the_program_are_given_and_not_changed(client: Client, staff: User) -> None:
    client.force_login(staff)
    group, other = Group.objects.get(name=roles.OPERATORS), Group.objects.create(name="other")
    for target, status in ((group, 403), (other, 302)):
        change = reverse("admin:auth_group_change", args=[target.pk])
        assert client.post(change, {"name": target.name, "permissions": []}).status_code == status
    chosen = {"action": "delete_selected", "_selected_action": [group.pk, other.pk], "post": "yes"}
    client.post(reverse("admin:auth_group_changelist"), chosen)
    client.post(reverse("admin:auth_group_delete", args=[group.pk]), {"post": "yes"})
    assert Group.objects.filter(pk=group.pk).exists()
    noted = AuditEvent.objects.filter(action="config.change", target=f"group:{other.pk}", actor=str(staff.pk))
    assert noted.exists()


def test_accounts_are_deleted_with_everything_that_is_theirs(staff: User, alice: User, bob: User) -> None:
    """One by one and several at once; also tests of keys, which nobody deletes by themselves."""
    furnish(alice)
    test = ConnectionTest.objects.create(user=bob, provider="sandbox")
    site = proven(staff)
    assert site.post(reverse("admin:auth_user_delete", args=[alice.pk]), {"post": "yes"}).status_code == 302
    chosen = {"action": "delete_selected", "_selected_action": [bob.pk], "post": "yes"}
    assert site.post(reverse("admin:auth_user_changelist"), chosen).status_code == 302
    assert not User.objects.filter(pk__in=[alice.pk, bob.pk]).exists()
    assert not ConnectionTest.objects.filter(pk=test.pk).exists()
    noted = AuditEvent.objects.filter(action="account.delete", actor=str(staff.pk))
    assert set(noted.values_list("subject", flat=True)) == {str(alice.pk), str(bob.pk)}


def test_nobody_sees_what_lets_somebody_in(client: Client, staff: User, alice: User) -> None:
    """Neither the key of a session nor the secret of a second factor, whatever their permissions."""
    session = apps.get_model("usersessions", "UserSession").objects.create(
        user=alice, session_key="session-key-canary", ip="127.0.0.1", user_agent="x"
    )
    factor = apps.get_model("mfa", "Authenticator").objects.create(user=alice, type="totp", data={"secret": "CANARY"})
    client.force_login(staff)
    for name, row in (("usersessions_usersession", session), ("mfa_authenticator", factor)):
        for page in (reverse(f"admin:{name}_changelist"), reverse(f"admin:{name}_change", args=[row.pk])):
            response = client.get(page)
            assert response.status_code == 200
            assert "canary" not in response.text.lower(), page


def test_session_and_factor_are_taken_away_with_a_trace(staff: User, alice: User, client: Client) -> None:
    client.force_login(alice)
    session = apps.get_model("usersessions", "UserSession").objects.create(
        user=alice, session_key=client.session.session_key, ip="127.0.0.1", user_agent="x"
    )
    factor = apps.get_model("mfa", "Authenticator").objects.create(user=alice, type="totp", data={"secret": "x"})
    site = proven(staff)
    site.post(reverse("admin:usersessions_usersession_delete", args=[session.pk]), {"post": "yes"})
    assert client.get("/settings/security/").status_code == 302, "logged out"
    site.post(reverse("admin:mfa_authenticator_delete", args=[factor.pk]), {"post": "yes"})
    noted = AuditEvent.objects.filter(subject=str(alice.pk), actor=str(staff.pk))
    assert set(noted.values_list("action", "target")) == {("logout", "session"), ("factor.remove", "factor:totp")}
