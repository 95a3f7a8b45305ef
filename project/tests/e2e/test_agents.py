"""From a task in one box to a run that asks before it writes, in a browser."""

from __future__ import annotations

import json
from collections.abc import Callable

from django.contrib.auth.models import User
from playwright.sync_api import Page, expect

from agents.tests.agents_of_tests import NOTES, BillerAgent, WriterAgent, on_the_site
from agents.tests.scripted import Answer, call
from agents.tests.wires import scripted
from llm_credentials import services

KEY = "sbx-good-e2e-0123456789"
PICK = json.dumps({"agent": "writer", "why": "It writes notes, which is what you ask for."})


def test_a_run_asks_before_it_writes(
    alices_page: Page, alice: User, sandbox_url: str, look: Callable[[Page, str], None]
) -> None:
    services.credential_save(user=alice, provider="sandbox", api_key=KEY, model="sandbox-chat")
    asking = Answer(text=["I will note it."], calls=[call("note", text="We need milk.\nAnd flour.")])
    with on_the_site(WriterAgent, BillerAgent), scripted(sandbox_url, PICK, asking, "It is noted."):
        alices_page.goto("/agents/")
        alices_page.get_by_label("What do you want to do?").fill("Note that we need milk and flour.")
        look(alices_page, "agents")
        alices_page.get_by_role("button", name="Find the agent").click()
        expect(alices_page.locator("#picked")).to_contain_text("Writer was picked.")
        look(alices_page, "agent-picked")
        alices_page.get_by_role("button", name="Start", exact=True).click()
        expect(alices_page.get_by_role("heading", name="This needs your yes")).to_be_visible()
        look(alices_page, "run-asks")
        assert NOTES == []
        alices_page.get_by_text("Yes, do it").click()
        alices_page.get_by_role("button", name="Answer", exact=True).click()
        expect(alices_page.locator("#run")).to_contain_text("It is noted.")
        look(alices_page, "run-noted")
    assert NOTES == ["We need milk.\nAnd flour."]
