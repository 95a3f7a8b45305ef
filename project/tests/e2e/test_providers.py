"""The providers page as people live with it: several tabs, several keys, long lists."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Page, expect

from llm_credentials import services

KEY = "sbx-good-CANARY-e2e-4f2a"
PLACE = "/settings/llm/"

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_test_is_shown_in_every_open_tab(alices_page: Page, alice: User, look: Callable[[Page, str], None]) -> None:
    """The page's own questions, every second, get no answer here: only the server's events say when to look."""
    services.credential_save(user=alice, provider="sandbox", api_key=KEY, model="sandbox-instant")
    other = alices_page.context.new_page()
    alices_page.context.route("**/*?seen=*", lambda route: route.fulfill(status=204))
    other.goto(PLACE)
    alices_page.goto(f"{PLACE}sandbox/")
    alices_page.get_by_role("button", name="Test key").click()
    for page in (alices_page, other):
        card = page.locator("#card-sandbox-default")
        expect(card).to_contain_text("Key accepted. sandbox-instant answered in")
        expect(card.get_by_role("list", name="What this key can do")).to_contain_text("Embeddings of 256 numbers")
        expect(card.locator(".marks")).to_contain_text("Valid")
    look(alices_page, "providers-abilities")
