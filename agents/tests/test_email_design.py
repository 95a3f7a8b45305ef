"""Email design over the real loop: what a mail may consist of, its checks, its preview and its files."""

from __future__ import annotations

import json
from email import message_from_bytes, policy
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.test import Client

from agents.base import AgentResult
from agents.catalog.email_design import DesignForm, EmailDesign, EmailDesignAgent
from agents.mails import rendering
from agents.models import AgentRun, RunState
from agents.tests.scripted import ScriptedClient
from agents.tests.wires import WIRES, scripted

TEXT = "Welcome to Pennywise. Three first steps: add an account, set a limit, look in on Friday. Begin: https://penny.test/start"


def mjml(inside: str = "<mj-text>Welcome &amp; hello</mj-text>", head: str = "") -> str:
    column = f"<mj-section><mj-column>{inside}</mj-column></mj-section>"
    return f"<mjml><mj-head><mj-title>Welcome</mj-title>{head}</mj-head><mj-body>{column}</mj-body></mjml>"


def answer(**changes: Any) -> str:
    return json.dumps({"subject": "Welcome", "preview": "Three first steps", "mjml": mjml(), "text": TEXT} | changes)


def designed(result: AgentResult) -> EmailDesign:
    assert isinstance(result.output, EmailDesign), result.stopped
    return result.output


@pytest.mark.parametrize("wire", WIRES)
async def test_email_design_gives_a_mail(wire: str, sandbox_server: str) -> None:
    with scripted(sandbox_server, answer()) as script:
        client = script.client(wire)
        options = {"sender": "Pennywise", "colour": "#1a5fb4"}
        result = await EmailDesignAgent(User(), client=client, options=options).run("A welcome mail")
        await client.aclose()
        assert "Sender: Pennywise. Main colour: #1a5fb4." in script.asked[0].turns[-1]
    output = designed(result)
    assert "Welcome &amp; hello" in output.html
    assert "max-width" in output.html
    assert [check["holds"] for check in output.checks] == [True] * 5
    assert output.subject in result.text


BAD = {
    "script": mjml("<mj-text><script>alert(1)</script></mj-text>"),
    "raw": mjml("<mj-raw><p>x</p></mj-raw>"),
    "include": mjml('<mj-include path="/etc/passwd" />'),
    "handler": mjml('<mj-text><p onclick="x()">x</p></mj-text>'),
    "javascript": mjml('<mj-button href="javascript:alert(1)">Go</mj-button>'),
    "data": mjml('<mj-image src="data:text/html,x" alt="x" />'),
    "relative": mjml('<mj-button href="/start">Go</mj-button>'),
    "frame": mjml('<mj-text><iframe src="https://penny.test/"></iframe></mj-text>'),
    "form": mjml('<mj-text><form action="https://penny.test/"><input></form></mj-text>'),
    "import": mjml(head="<mj-style>@import 'https://penny.test/x.css';</mj-style>"),
    "unclosed": "<mjml><mj-body><mj-section><mj-column><mj-text>Hello there",
    "html": "<html><body>" + "Hello there, this is no MJML at all, though long enough." + "</body></html>",
    "words": "Here is your mail: hello, dear customer, and welcome to Pennywise.",
}


@pytest.mark.parametrize("name", BAD)
async def test_email_design_sends_back_what_is_no_mail(name: str) -> None:
    with pytest.raises(rendering.CannotRender):
        rendering.render(BAD[name])
    client = ScriptedClient(answer(mjml=BAD[name]), answer())
    result = await EmailDesignAgent(User(), client=client).run("A welcome mail")
    assert designed(result).mjml == mjml()
    assert "mjml" in client.asked[1][-1].text


@pytest.mark.parametrize(
    ("inside", "words"),
    [
        ('<mj-image src="https://penny.test/a.png" />', "Images without an alternative text: 1."),
        ('<mj-image src="http://penny.test/a.png" alt="x" />', "Addresses that are not https: 1."),
        ('<mj-button href="https://example.com/">Go</mj-button>', "Links that are placeholders: 1."),
        (f"<mj-text>{'long ' * 22_000}</mj-text>", "Gmail cuts mails at 102 KB."),
    ],
)
def test_checks_find_what_readers_would_stumble_over(inside: str, words: str) -> None:
    source = mjml(inside)
    (found,) = [each for each in rendering.checks(source, rendering.render(source), TEXT) if not each.holds]
    assert found.text.endswith(words)


def test_mail_and_its_preview_fetch_nothing_from_elsewhere() -> None:
    html = rendering.render(mjml('<mj-image src="https://penny.test/a.png" alt="A jar" /><mj-text>Hello</mj-text>'))
    assert "googleapis" not in html
    seen = rendering.without_pictures(html)
    assert ' src="' not in seen
    assert 'alt="A jar"' in seen


def test_eml_is_a_draft_with_both_parts() -> None:
    raw = rendering.as_eml(subject="Hello\r\nBcc: eve@example.com", html="<p>Ünïcode</p>", text="Ünïcode")
    mail = message_from_bytes(raw, policy=policy.default)
    assert mail["Subject"] == "Hello Bcc: eve@example.com"
    assert mail["Bcc"] is None
    assert mail["X-Unsent"] == "1"
    assert [part.get_content_type() for part in mail.iter_parts()] == ["text/plain", "text/html"]


def test_colour_is_a_colour() -> None:
    assert DesignForm({"colour": "#1a5fb4"}).is_valid()
    assert "colour" in DesignForm({"colour": "red; background: url(x)"}.copy() | {"sender": ""}).errors


@pytest.fixture
def run(alice: User) -> AgentRun:
    output = EmailDesign.model_validate_json(answer()).model_dump(mode="json")
    return AgentRun.objects.create(
        user=alice, agent="email_design", input="A welcome mail", state=RunState.DONE, result=output, output="Welcome"
    )


@pytest.mark.django_db
def test_run_page_shows_the_mail_in_frames_that_can_do_nothing(client: Client, alice: User, run: AgentRun) -> None:
    client.force_login(alice)
    page = client.get(run.get_absolute_url()).content.decode()
    assert page.count('<iframe class="mail-preview') == 2
    assert page.count(" sandbox ") == 2
    shown = client.get(f"/runs/{run.pk}/files/preview.html?show")
    assert shown.headers["X-Frame-Options"] == "SAMEORIGIN"
    rules = shown.headers["Content-Security-Policy"]
    assert rules.startswith("sandbox; default-src 'none'")
    assert "script" not in rules
    assert "Content-Disposition" not in shown.headers or "attachment" not in shown.headers["Content-Disposition"]


@pytest.mark.django_db
@pytest.mark.parametrize("name", ["mail.html", "preview.html", "mail.eml", "mail.mjml"])
def test_result_is_taken_along_as_a_file(client: Client, alice: User, run: AgentRun, name: str) -> None:
    client.force_login(alice)
    for query in ("", "?show"):
        response = client.get(f"/runs/{run.pk}/files/{name}{query}")
        assert response.status_code == 200
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Content-Security-Policy"].startswith("sandbox")
        if query == "" or name != "preview.html":
            assert response.headers["Content-Disposition"] == f'attachment; filename="{name}"'


@pytest.mark.django_db
def test_files_are_their_owners_alone_and_no_others_are_there(
    client: Client, alice: User, bob: User, run: AgentRun
) -> None:
    client.force_login(bob)
    assert client.get(f"/runs/{run.pk}/files/mail.html").status_code == 404
    client.force_login(alice)
    for path in (
        f"/runs/{run.pk}/files/other.txt",
        f"/runs/{run.pk}/files/..%2fmail.html",
        f"/runs/{uuid4()}/files/mail.html",
    ):
        assert client.get(path).status_code == 404, path
    AgentRun.objects.filter(pk=run.pk).update(agent="gone", result="no object")
    assert client.get(f"/runs/{run.pk}/files/mail.html").status_code == 404
