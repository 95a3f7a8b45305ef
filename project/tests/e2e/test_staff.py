"""What staff come for: what needs attention, how the parts are doing, a key that is turned off, a chain that holds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import BrowserContext, Page, expect

from llm_credentials.models import UserCredential
from llm_credentials.tests.factories import UserCredentialFactory
from project import health
from project.tests.e2e.conftest import log_in

pytestmark = pytest.mark.django_db(transaction=True)


def test_staff_find_their_way(
    new_context: Callable[..., BrowserContext], site: str, staff: User, alice: User, look: Callable[[Page, str], None]
) -> None:
    credential = UserCredentialFactory(user=alice, status="invalid")
    health.clock_alive()
    context = new_context()
    log_in(context, staff, site)
    page = context.new_page()
    page.goto("/admin/")
    expect(page.get_by_text("Nobody has checked the audit trail for a week.")).to_be_visible()
    look(page, "staff-start")
    page.get_by_role("link", name="Health").first.click()
    expect(page.get_by_text("1 at work")).to_be_visible()
    look(page, "staff-health")
    page.goto("/admin/llm_credentials/usercredential/")
    look(page, "staff-keys")
    page.get_by_role("row", name="alice").get_by_role("checkbox").check()
    page.locator("select[name=action]").select_option("turn_off")
    page.get_by_role("button", name="Go").click()
    expect(page.get_by_text("1 key is turned off.")).to_be_visible()
    assert not UserCredential.objects.get(pk=credential.pk).is_active
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto("/admin/llm_credentials/auditevent/")
    expect(page.get_by_text("Key turned on or off").first).to_be_visible()
    look(page, "staff-trail-narrow-dark")
    page.get_by_role("button", name="Verify chain").click()
    expect(page.get_by_text("The audit trail holds.")).to_be_visible()
