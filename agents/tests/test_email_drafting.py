"""Email drafting over the real loop, and what its page part shows."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.contrib.auth.models import User
from django.template.loader import render_to_string
from pydantic import ValidationError

from agents.base import AgentResult
from agents.catalog.email_drafting import LINK_MAX_CHARS, Draft, DraftForm, EmailDraftingAgent, EmailDrafts
from agents.tests.scripted import ScriptedClient
from agents.tests.wires import WIRES, scripted

BODY = "Dear Ms Okafor,\n\nthe heating has been cold since Monday.\n\nKind regards\n[name]"


def answer(count: int = 3, **changes: Any) -> str:
    draft = {"approach": "The point first", "subject": "Heating cold since Monday", "body": BODY} | changes
    return json.dumps({"drafts": [draft] * count, "missing": ["[name]"]})


def drafts(result: AgentResult) -> EmailDrafts:
    assert isinstance(result.output, EmailDrafts)
    return result.output


@pytest.mark.parametrize("wire", WIRES)
async def test_email_drafting_gives_three_variants(wire: str, sandbox_server: str) -> None:
    with scripted(sandbox_server, answer()) as script:
        client = script.client(wire)
        options = {"tone": "formal", "length": "short", "sender": "Ada\nBcc: x@example.com"}
        result = await EmailDraftingAgent(User(), client=client, options=options).run("The heating is cold.")
        await client.aclose()
        said = script.asked[0].turns[-1]
    assert "The heating is cold." in said
    assert "formal tone; at most 80 words each. Sign as Ada Bcc: x@example.com." in said
    output = drafts(result)
    assert [draft.subject for draft in output.drafts] == ["Heating cold since Monday"] * 3
    assert output.missing == ["[name]"]


async def test_email_drafting_asks_again_for_what_is_missing() -> None:
    client = ScriptedClient(answer(count=1), answer())
    result = await EmailDraftingAgent(User(), client=client).run("The heating is cold.")
    assert len(drafts(result).drafts) == 3
    assert len(client.asked) == 2


async def test_email_drafting_stops_with_what_happened_when_no_answer_fits() -> None:
    client = ScriptedClient("no drafts", "still none")
    result = await EmailDraftingAgent(User(), client=client).run("The heating is cold.")
    assert (result.stopped, result.output) == ("output", None)


def test_draft_opens_in_the_mail_program_with_subject_and_text() -> None:
    draft = Draft(approach="x", subject="Tea & cake? 100%", body="One\nTwo & three\n")
    link = urlsplit(draft.mailto)
    assert (link.scheme, link.path) == ("mailto", "")
    assert parse_qs(link.query) == {"subject": ["Tea & cake? 100%"], "body": ["One\r\nTwo & three\r\n"]}


def test_draft_too_long_for_a_link_has_none() -> None:
    assert Draft(approach="", subject="x", body="y" * LINK_MAX_CHARS).mailto == ""


@pytest.mark.parametrize("subject", ["Hello\nBcc: eve@example.com", "Hello\r\nBcc: eve@example.com"])
def test_subject_is_one_line(subject: str) -> None:
    draft = Draft(approach="", subject=subject, body="y")
    assert draft.subject == "Hello Bcc: eve@example.com"
    assert "%0A" not in draft.mailto.partition("&body")[0]


@pytest.mark.parametrize("changes", [{"subject": ""}, {"subject": "x" * 201}, {"body": ""}])
def test_draft_without_what_a_mail_needs_is_refused(changes: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Draft(**{"approach": "", "subject": "s", "body": "b"} | changes)


def test_email_drafting_page_part_shows_variants_and_no_markup_of_theirs() -> None:
    output = json.loads(answer(body="<script>alert(1)</script>\nBye", subject="<b>Heating</b>"))
    output["drafts"] = [Draft(**each).model_dump(mode="json") for each in output["drafts"]]
    page = render_to_string("agents/email_drafting/result.html", {"output": output})
    assert page.count("Open in mail program") == 3
    assert "<script" not in page
    assert "<b>" not in page
    assert "[name]" in page


def test_email_drafting_form_refuses_what_it_does_not_offer() -> None:
    form = DraftForm({"tone": "rude", "length": "endless"})
    assert set(form.errors) == {"tone", "length"}


def test_email_drafting_says_its_drafts_as_markdown() -> None:
    text = EmailDraftingAgent(User()).shown(EmailDrafts.model_validate_json(answer()))
    assert text.count("### Heating cold since Monday") == 3
    assert text.endswith("- [name]")
