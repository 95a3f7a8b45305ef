"""Replacing a key in the browser, as somebody does whose provider asks for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Page, expect

from llm_credentials.models import UserCredential
from llm_credentials.tests.factories import UserCredentialFactory
from project.tests.e2e.test_main_path import open_card

OLD, NEW, BAD = "sbx-good-old-key-1a2b", "sbx-good-CANARY-new-3c4d", "sbx-bad-0123456789-5e6f"

pytestmark = pytest.mark.django_db(transaction=True)


def test_key_is_replaced_only_when_the_new_one_works(
    alices_page: Page, alice: User, look: Callable[[Page, str], None]
) -> None:
    UserCredentialFactory(user=alice, provider="sandbox", key=OLD, model="sandbox-instant")
    card = open_card(alices_page)
    card.get_by_label("Key", exact=True).fill(BAD)
    card.get_by_role("button", name="Replace if it works").click()
    expect(card).to_contain_text("The old key stays in use.")
    expect(card.get_by_role("button", name="Save it anyway")).to_be_visible()
    assert UserCredential.objects.get().reveal() == OLD
    card.get_by_label("Key", exact=True).fill(NEW)
    card.get_by_role("button", name="Replace if it works").click()
    closed = alices_page.locator("#card-sandbox-default")
    expect(closed).to_contain_text("The new key is in use.")
    expect(closed).to_contain_text("•••• 3c4d")
    look(alices_page, "replace-done")
    assert UserCredential.objects.get().reveal() == NEW
