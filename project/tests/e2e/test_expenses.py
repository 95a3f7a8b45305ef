"""From the text of a receipt to an expense in the list, in a browser."""

from __future__ import annotations

from collections.abc import Callable

from django.contrib.auth.models import User
from playwright.sync_api import Page, expect

from agents.tests.test_expense import answer
from agents.tests.wires import scripted
from llm_credentials import services


def test_receipt_is_read_checked_and_kept(
    alices_page: Page, alice: User, sandbox_url: str, look: Callable[[Page, str], None]
) -> None:
    services.credential_save(user=alice, provider="sandbox", api_key="sbx-good-e2e-0123456789", model="sandbox-chat")
    with scripted(sandbox_url, answer(total="7.70")):
        alices_page.goto("/agents/expense/")
        alices_page.get_by_role("link", name="Café Luna").click()
        alices_page.get_by_role("button", name="Start", exact=True).click()
        expect(alices_page.get_by_text("1.00 EUR of difference")).to_be_visible(timeout=20_000)
        look(alices_page, "expense-read")
        alices_page.get_by_role("link", name="Check and keep").click()
    alices_page.get_by_role("button", name="Keep expense").click()
    expect(alices_page.get_by_label("Keep it as the receipt says")).to_be_visible()
    look(alices_page, "expense-asked")
    alices_page.get_by_label("Total").fill("6.70")
    alices_page.get_by_role("button", name="Keep expense").click()
    expect(alices_page.get_by_role("heading", name="Café Luna")).to_be_visible()
    alices_page.goto("/expenses/?month=2024-11")
    expect(alices_page.get_by_role("listitem").filter(has_text="Café Luna")).to_contain_text("6.70 EUR")
