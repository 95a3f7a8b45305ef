"""A new key in the place of a stored one: by Python, by the API and on the page."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.test import Client
from django.utils import timezone

from llm_credentials import connection_tests, services
from llm_credentials.connection_tests import TestBusy
from llm_credentials.models import AuditEvent, ConnectionTest, UserCredential
from llm_credentials.providers import CredentialUnreadable
from llm_credentials.replacement import ReplacementOver, VersionConflict, replacement_save, replacement_start
from llm_credentials.routing import snapshot_cache
from llm_credentials.services import Draft
from llm_credentials.tests.replacing import replace_under_load
from llm_credentials.tests.test_api_credentials import Program, error_of, token_of
from llm_credentials.tests.test_live_changes import elsewhere

pytestmark = pytest.mark.django_db(transaction=True)

OLD, NEW, BAD = "sbx-good-old-01234567", "sbx-good-CANARY-new-89", "sbx-bad-CANARY-0123456"
HTMX = {"HX-Request": "true"}


@pytest.fixture
def stored(alice: User, sandbox_url: str) -> UserCredential:
    return services.credential_save(user=alice, provider="sandbox", api_key=OLD, model="sandbox-chat").credential


@pytest.fixture
def program(alice: User, stored: UserCredential) -> Program:
    return Program(token_of(alice))


def run(test: ConnectionTest) -> ConnectionTest:
    connection_tests.test_run(test.pk)
    return ConnectionTest.objects.get(pk=test.pk)


def start(user: User, key: str = NEW, **fields: Any) -> ConnectionTest:
    return replacement_start(user=user, provider="sandbox", unsaved=Draft(api_key=key, **fields))


def now(stored: UserCredential) -> UserCredential:
    return UserCredential.objects.get(pk=stored.pk)


# In Python


def test_key_that_works_takes_the_place_of_the_old_one(alice: User, stored: UserCredential) -> None:
    test = start(alice, model="sandbox-fast")
    assert now(stored).reveal() == OLD, "until the new one works"
    test = run(test)
    assert (test.state, test.replacement, test.has_key) == ("valid", "done", False)
    row = now(stored)
    assert (row.reveal(), row.last4, row.model, row.status) == (NEW, NEW[-4:], "sandbox-fast", "valid")
    assert row.version == stored.version + 1
    assert AuditEvent.objects.filter(action="credential.replace").count() == 1


def test_key_that_does_not_work_leaves_the_old_one(alice: User, stored: UserCredential) -> None:
    test = run(start(alice, BAD))
    assert (test.state, test.replacement) == ("invalid", "kept")
    assert "refused this key" in test.detail
    row = now(stored)
    assert (row.reveal(), row.version, row.status) == (OLD, stored.version, stored.status)
    assert run(start(alice)).replacement == "done", "another try"


def test_key_that_did_not_work_can_be_saved_all_the_same(alice: User, bob: User, stored: UserCredential) -> None:
    test = run(start(alice, BAD))
    with pytest.raises(ReplacementOver):
        replacement_save(user=bob, test_id=test.pk)
    row = replacement_save(user=alice, test_id=test.pk)
    assert (row.reveal(), row.status) == (BAD, "unverified")
    assert not ConnectionTest.objects.get().has_key
    with pytest.raises(ReplacementOver):
        replacement_save(user=alice, test_id=test.pk)


def test_key_that_nobody_saves_is_destroyed_after_a_minute(alice: User, stored: UserCredential) -> None:
    test = run(start(alice, BAD))
    assert test.has_key
    ConnectionTest.objects.update(finished_at=timezone.now() - timedelta(seconds=connection_tests.UNSAVED_KEY_TTL_S))
    with pytest.raises(ReplacementOver):
        replacement_save(user=alice, test_id=test.pk)
    connection_tests.expire_abandoned()
    assert not ConnectionTest.objects.get().has_key
    assert now(stored).reveal() == OLD


def test_key_that_no_worker_tested_is_destroyed_and_the_old_one_stays(alice: User, stored: UserCredential) -> None:
    test = start(alice)
    ConnectionTest.objects.update(created_at=timezone.now() - timedelta(seconds=connection_tests.ABANDONED_AFTER_S))
    assert connection_tests.expire_abandoned(alice) == 1
    test.refresh_from_db()
    assert (test.state, test.replacement, test.has_key) == ("expired", "kept", False)
    assert now(stored).reveal() == OLD


CHANGES: dict[str, Any] = {
    "model": {"model": "sandbox-vision"},
    "key": {"api_key": "sbx-good-third-012345"},
    "turned off": {"is_active": False},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_change_made_meanwhile_is_not_lost(alice: User, stored: UserCredential, change: dict[str, Any]) -> None:
    test = start(alice)
    elsewhere(lambda: services.credential_save(user=alice, provider="sandbox", **change))
    test = run(test)
    assert (test.state, test.replacement, test.has_key) == ("valid", "conflict", True)
    row = now(stored)
    expected = {"api_key": OLD, "model": "sandbox-chat", "is_active": True, **change}
    assert (row.reveal(), row.model, row.is_active) == tuple(expected.values())
    assert replacement_save(user=alice, test_id=test.pk).reveal() == NEW


def test_key_that_is_removed_meanwhile_stays_removed(alice: User, stored: UserCredential) -> None:
    test = start(alice)
    services.credential_delete(user=alice, provider="sandbox")
    again = services.credential_save(user=alice, provider="sandbox", api_key=OLD).credential
    assert again.version == stored.version, "another key under the same name and number"
    test = run(test)
    assert test.replacement in ("conflict", "waiting", "kept")
    assert now(again).reveal() == OLD
    with pytest.raises(ReplacementOver):
        replacement_save(user=alice, test_id=test.pk)


def test_two_replacements_do_not_run_at_once(alice: User, stored: UserCredential) -> None:
    start(alice)
    with pytest.raises(TestBusy):
        start(alice, "sbx-good-third-012345")


def test_start_refuses_what_cannot_be(alice: User, bob: User, stored: UserCredential) -> None:
    for typed in (None, "", "   ", stored.masked):
        with pytest.raises(ValidationError):
            start(alice, typed)  # type: ignore[arg-type]
    with pytest.raises(UserCredential.DoesNotExist):
        start(bob)
    with pytest.raises(VersionConflict):
        replacement_start(user=alice, provider="sandbox", unsaved=Draft(api_key=NEW), version=stored.version + 1)
    assert not ConnectionTest.objects.exists()


def test_key_is_handed_to_no_other_owner_or_address(alice: User, bob: User, stored: UserCredential) -> None:
    test = start(alice)
    for change in ({"user": bob}, {"provider": "openai"}, {"base_url": "https://elsewhere.example"}):
        other = UserCredential(**{"user": alice, "provider": "sandbox", **change})
        with pytest.raises(CredentialUnreadable):
            test.hand_key_to(other)
        assert other.api_key is None


# By the API


def test_api_replaces_a_key_when_it_works(program: Program, stored: UserCredential) -> None:
    response = program.call("patch", "/sandbox", {"api_key": NEW, "test_first": True, "version": stored.version})
    assert response.status_code == 202, response.content
    body = response.json()
    assert (body["state"], body["replacement"], body["save_url"]) == ("queued", "waiting", None)
    run(ConnectionTest.objects.get())
    after = program.client.get(body["status_url"]).json()
    assert (after["state"], after["replacement"]) == ("valid", "done")
    assert now(stored).reveal() == NEW
    assert "CANARY" not in response.content.decode() + str(after)


def test_api_says_where_to_save_a_key_that_does_not_work(program: Program, bob: User, stored: UserCredential) -> None:
    status_url = program.call("patch", "/sandbox", {"api_key": BAD, "test_first": True}).json()["status_url"]
    run(ConnectionTest.objects.get())
    after = program.client.get(status_url).json()
    assert (after["state"], after["replacement"]) == ("invalid", "kept")
    assert Program(token_of(bob)).client.post(after["save_url"]).status_code == 404
    assert (
        Program(token_of(User.objects.get(username="alice"), "read")).client.post(after["save_url"]).status_code == 403
    )
    saved = program.client.post(after["save_url"])
    assert (saved.status_code, saved.json()["last4"]) == (200, BAD[-4:])
    over = program.client.post(after["save_url"])
    assert (over.status_code, error_of(over)["code"]) == (409, "replacement_over")


def test_api_changes_a_stored_key_at_once_unless_told_otherwise(program: Program, stored: UserCredential) -> None:
    response = program.call("patch", "/sandbox", {"model": "sandbox-fast", "version": stored.version})
    assert (response.status_code, response.json()["model"]) == (200, "sandbox-fast")
    late = program.call("patch", "/sandbox", {"model": "sandbox-vision", "version": stored.version})
    assert (late.status_code, error_of(late)["code"]) == (409, "version_conflict")
    assert now(stored).model == "sandbox-fast"
    for body in ({"test_first": True}, {"provider": "openai"}):
        assert program.call("patch", "/sandbox", body).status_code == 422
    both = program.call("patch", "/sandbox", {"api_key": NEW, "test_first": True, "priority": 3})
    assert (both.status_code, error_of(both)["code"]) == (409, "not_together")
    assert program.call("patch", "/openai", {"model": "x"}).status_code == 404


# On the page

FORM = {"name": "default", "model": "sandbox-chat", "base_url": ""}
REPLACE = "/settings/llm/sandbox/replace/"


def html(response: Any) -> str:
    return str(response.content.decode())


def test_page_offers_it_for_a_stored_key_only(visitor: Client, stored: UserCredential) -> None:
    assert REPLACE in html(visitor.get("/settings/llm/sandbox/"))
    assert "/replace/" not in html(visitor.get("/settings/llm/openai/"))


@pytest.mark.parametrize("headers", [{}, HTMX], ids=["page", "htmx"])
def test_page_replaces_a_key_when_it_works(visitor: Client, stored: UserCredential, headers: dict[str, str]) -> None:
    response = visitor.post(REPLACE, {**FORM, "api_key": NEW}, headers=headers)
    assert response.status_code == (200 if headers else 302)
    test = ConnectionTest.objects.get()
    assert now(stored).reveal() == OLD
    run(test)
    told = visitor.get(f"/settings/llm/tests/{test.pk}/", headers=headers, follow=True)
    assert "The new key is in use." in html(told)
    assert "CANARY" not in html(response) + html(told)
    if headers:
        assert told["HX-Retarget"] == "#card-sandbox-default"


@pytest.mark.parametrize("headers", [{}, HTMX], ids=["page", "htmx"])
def test_page_keeps_the_old_key_and_lets_one_save_anyway(
    visitor: Client, bob: User, stored: UserCredential, headers: dict[str, str]
) -> None:
    visitor.post(REPLACE, {**FORM, "api_key": BAD}, headers=headers)
    test = run(ConnectionTest.objects.get())
    told = html(visitor.get(f"/settings/llm/tests/{test.pk}/", headers=headers, follow=True))
    assert "refused this key" in told and "The old key stays in use." in told and "Save it anyway" in told
    stranger = Client()
    stranger.force_login(bob)
    assert stranger.post(f"/settings/llm/tests/{test.pk}/save/").status_code == 404
    response = visitor.post(f"/settings/llm/tests/{test.pk}/save/", headers=headers, follow=True)
    assert response.status_code == 200
    assert now(stored).reveal() == BAD
    assert "Save it anyway" not in html(response)


def test_page_says_when_the_new_key_is_gone(visitor: Client, stored: UserCredential) -> None:
    visitor.post(REPLACE, {**FORM, "api_key": BAD})
    test = run(ConnectionTest.objects.get())
    ConnectionTest.objects.update(finished_at=timezone.now() - timedelta(minutes=2))
    response = visitor.post(f"/settings/llm/tests/{test.pk}/save/", follow=True)
    assert "not held any more" in html(response)
    assert now(stored).reveal() == OLD


def test_page_asks_for_the_new_key(visitor: Client, stored: UserCredential) -> None:
    response = visitor.post(REPLACE, {**FORM, "api_key": ""}, headers=HTMX)
    assert response.status_code == 422
    assert "Enter the new key" in html(response)
    assert visitor.post("/settings/llm/openai/replace/", {**FORM, "api_key": NEW}).status_code == 404


def test_page_asks_who_is_there_before_a_key_changes(visitor: Client, stored: UserCredential) -> None:
    session = visitor.session
    session["logged_in_at"] = 0
    session.save()
    response = visitor.post(REPLACE, {**FORM, "api_key": NEW}, headers=HTMX)
    assert response.status_code == 401
    assert not ConnectionTest.objects.exists()


# Under load


def test_calls_of_two_processes_go_on_while_their_key_is_replaced(
    alice: User, sandbox_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_cache, "KEPT_S", 45.0)
    found = replace_under_load(alice, sandbox_url, replacements=2, hold_s=1.3)
    assert found.failed == []
    assert (found.replaced, found.late, found.broken) == (2, 0, 0)
    assert found.calls > 8 and found.outlived > 0
