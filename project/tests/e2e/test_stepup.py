"""Confirming that it is you on the way to a key, bringing a removed key back, and tokens, as a person does it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.conf import settings as site_settings
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from playwright.sync_api import BrowserContext, Page, expect

from llm_credentials import removal, services
from llm_credentials.models import PersonalAccessToken, UserCredential
from llm_credentials.stepup import LOGGED_IN_AT
from llm_credentials.tests.proofs import RECORDS
from project.tests.e2e.conftest import log_in
from project.tests.e2e.test_main_path import open_card

KEY = "sbx-good-CANARY-e2e-4f2a"

pytestmark = pytest.mark.django_db(transaction=True)


def let_proof_grow_old(context: BrowserContext) -> None:
    name = site_settings.SESSION_COOKIE_NAME
    (cookie,) = [cookie for cookie in context.cookies() if cookie["name"] == name]
    session = SessionStore(cookie["value"])
    session[LOGGED_IN_AT] = 0
    session[RECORDS] = []
    session.save()


def confirm(page: Page) -> None:
    page.get_by_label("Password", exact=True).fill("alice-password")
    page.get_by_role("button", name="Confirm").click()


def test_new_key_comes_after_the_proof(alices_page: Page, look: Callable[[Page, str], None]) -> None:
    page = alices_page
    page.goto("/settings/llm/")
    let_proof_grow_old(page.context)
    page.get_by_role("link", name=re.compile(r"^Sandbox\s*:")).click()
    expect(page.get_by_role("heading", name="Confirm that it is you")).to_be_visible()
    look(page, "confirm")
    confirm(page)
    expect(page.get_by_label("Key", exact=True)).to_be_focused()
    page.keyboard.type(KEY)
    page.keyboard.press("Enter")
    expect(page.locator("#card-sandbox-default")).to_contain_text("Key accepted")


def test_key_that_was_typed_waits_in_the_form(
    alices_page: Page, alice: User, look: Callable[[Page, str], None]
) -> None:
    page = alices_page
    card = open_card(page)
    card.get_by_label("Key", exact=True).fill(KEY)
    let_proof_grow_old(page.context)
    card.get_by_role("button", name="Save", exact=True).last.click()
    expect(card).to_contain_text("What you typed is still here")
    look(page, "proof-asked-late")
    with page.expect_popup() as opened:
        card.get_by_role("link", name="Confirm that it is you").click()
    other = opened.value
    confirm(other)
    expect(other.get_by_role("heading", name="Confirmed")).to_be_visible()
    look(other, "confirmed")
    other.close()
    expect(card.get_by_label("Key", exact=True)).to_have_value(KEY)
    card.get_by_role("button", name="Save", exact=True).last.click()
    expect(page.locator("#card-sandbox-default")).to_contain_text("Key accepted")


def test_stored_key_is_replaced_after_the_proof(
    alices_page: Page, alice: User, look: Callable[[Page, str], None]
) -> None:
    services.credential_save(user=alice, provider="sandbox", api_key="sbx-bad-0123456789", model="sandbox-instant")
    page = alices_page
    page.goto("/settings/llm/")
    let_proof_grow_old(page.context)
    card = open_card(page)
    expect(card.get_by_label("Model", exact=True)).to_be_visible()
    expect(card.get_by_label("Key", exact=True)).to_have_count(0)
    look(page, "key-closed")
    card.get_by_role("link", name=re.compile("Replace key")).click()
    confirm(page)
    card = page.locator("li.credential.is-open")
    card.get_by_label("Key", exact=True).fill(KEY)
    card.get_by_role("button", name="Save", exact=True).last.click()
    expect(page.locator("#card-sandbox-default")).to_contain_text("Key accepted")


def test_removed_key_comes_back_by_keyboard(alices_page: Page, alice: User, look: Callable[[Page, str], None]) -> None:
    services.credential_save(user=alice, provider="sandbox", api_key=KEY)
    page = alices_page
    card = open_card(page)
    card.get_by_role("link", name="Remove key…").click()
    page.get_by_role("button", name="Remove the Sandbox key ending 4f2a").press("Enter")
    undo = page.get_by_role("button", name="Undo the removal of the Sandbox key ending 4f2a")
    expect(undo).to_be_focused()
    assert not UserCredential.objects.exists()
    look(page, "removed")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").filter(has_text="is back")).to_be_visible()
    expect(page.get_by_role("link", name=re.compile(r"^Sandbox\s*: change"))).to_be_focused()
    assert UserCredential.objects.get().reveal() == KEY


def test_undo_goes_when_its_time_is_over(alices_page: Page, alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "UNDO_S", 2)
    services.credential_save(user=alice, provider="sandbox", api_key=KEY)
    page = alices_page
    open_card(page).get_by_role("link", name="Remove key…").click()
    page.get_by_role("button", name=re.compile("Remove the Sandbox key")).click()
    expect(page.get_by_role("button", name=re.compile("^Undo"))).to_be_visible()
    expect(page.get_by_role("button", name=re.compile("^Undo"))).to_have_count(0, timeout=20_000)
    assert not UserCredential.with_removed.exists()


def test_removed_key_comes_back_without_javascript(
    new_context: Callable[..., BrowserContext], alice: User, site: str
) -> None:
    services.credential_save(user=alice, provider="sandbox", api_key=KEY)
    context = new_context(java_script_enabled=False)
    log_in(context, alice, site)
    let_proof_grow_old(context)
    page = context.new_page()
    open_card(page).get_by_role("link", name="Remove key…").click()
    confirm(page)
    page.get_by_role("button", name=re.compile("Remove the Sandbox key")).click()
    page.get_by_role("button", name=re.compile("^Undo")).click()
    expect(page.locator("#card-sandbox-default")).to_contain_text("•••• 4f2a")


def test_token_is_made_copied_and_revoked(alices_page: Page, alice: User, look: Callable[[Page, str], None]) -> None:
    page = alices_page
    page.goto("/settings/llm/tokens/")
    look(page, "tokens-none")
    page.get_by_role("link", name="Make a token…").click()
    expect(page.get_by_label("Name")).to_be_focused()
    page.get_by_label("Name").fill("laptop")
    page.get_by_label("Call models through the gateway").check()
    page.get_by_label("Monthly budget in US dollars").fill("5")
    page.get_by_text("Only certain providers").click()
    look(page, "token-new")
    page.get_by_role("button", name="Make token").click()
    secret = page.get_by_label("laptop").input_value()
    assert services.token_authenticate(secret) is not None
    look(page, "token-made")
    page.get_by_role("link", name="I have copied it").click()
    expect(page.locator("main")).to_contain_text("$5.00 a month")
    look(page, "tokens")
    assert secret not in page.content()
    page.get_by_role("link", name="Revoke… laptop").click()
    look(page, "token-revoke")
    page.get_by_role("button", name="Revoke token").click()
    expect(page.get_by_role("heading", name="No token yet")).to_be_visible()
    assert PersonalAccessToken.objects.get().revoked_at is not None


def test_passkey_is_proof_enough_for_who_has_no_password(
    new_context: Callable[..., BrowserContext], alice: User, site: str, settings: Any, look: Callable[[Page, str], None]
) -> None:
    """Against a security key that the browser plays."""
    settings.MFA_WEBAUTHN_ALLOW_INSECURE_ORIGIN = True
    # A passkey belongs to a name; an address of numbers is none.
    named = site.replace("127.0.0.1", "localhost")
    context = new_context(base_url=named)
    log_in(context, alice, named)
    page = context.new_page()
    keys = context.new_cdp_session(page)
    keys.send("WebAuthn.enable")
    options = {"protocol": "ctap2", "transport": "internal", "hasResidentKey": True, "hasUserVerification": True}
    keys.send(
        "WebAuthn.addVirtualAuthenticator",
        {"options": {**options, "isUserVerified": True, "automaticPresenceSimulation": True}},
    )
    page.goto("/accounts/2fa/webauthn/add/")
    confirm(page)
    page.wait_for_url("**/webauthn/add/")  # its scripts, too
    page.get_by_label("Name").fill("Phone")
    page.get_by_role("button", name="Add").last.click()
    page.wait_for_url("**/recovery-codes/**")
    alice.set_unusable_password()
    alice.save()
    log_in(context, alice, named)
    page.goto("/settings/llm/sandbox/")
    look(page, "confirm-passkey")
    page.get_by_role("button", name="Use a security key").click()
    expect(page.get_by_label("Key", exact=True)).to_be_visible()
