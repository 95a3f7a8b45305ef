"""The front door, the account pages, the pages of errors, and what is true of every template."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.template.loader import get_template, render_to_string
from django.test import Client
from django.urls import reverse

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "templates"
PAGES = [path for path in sorted(FOLDER.rglob("*.html")) if path.parent.name != "mail"]
TEMPLATES = [str(path.relative_to(FOLDER)) for path in PAGES]
"""Mails apart, which bring their style along."""
CSS = ROOT / "static" / "css" / "keyswitch.css"


def html(response: Any) -> str:
    return str(response.content.decode())


def test_home_tells_a_visitor_what_this_is(client: Client, db: None) -> None:
    text = html(client.get("/"))
    assert "Keyswitch keeps your LLM keys sealed" in text
    assert reverse("account_signup") in text
    assert reverse("account_login") in text


def test_home_leads_a_user_to_their_work(client: Client, alice: User) -> None:
    client.force_login(alice)
    response = client.get("/")
    assert response.status_code == 302
    assert client.get(response["Location"]).status_code == 200


def test_styleguide_is_for_development_only(client: Client, settings: Any, db: None) -> None:
    settings.DEBUG = False
    assert client.get("/styleguide/").status_code == 404
    settings.DEBUG = True
    assert client.get("/styleguide/").status_code == 200


def test_security_page_asks_for_login(client: Client, db: None) -> None:
    assert client.get("/settings/security/")["Location"].startswith("/accounts/login/")


def test_security_page_leads_to_every_part_of_the_account(client: Client, alice: User) -> None:
    client.force_login(alice)
    text = html(client.get("/settings/security/"))
    names = ("account_change_password", "account_email", "mfa_index", "usersessions_list")
    assert [name for name in names if reverse(name) not in text] == []
    assert "alice@example.com" in text


@pytest.mark.parametrize(
    "name", ["account_login", "account_signup", "account_reset_password", "account_reset_password_done"]
)
def test_account_pages_of_visitors_look_like_the_site(client: Client, db: None, name: str) -> None:
    text = html(client.get(reverse(name)))
    assert "css/keyswitch.css" in text
    assert 'id="main"' in text


@pytest.mark.parametrize(
    "name",
    [
        "account_email",
        "account_change_password",
        "account_logout",
        "mfa_index",
        "usersessions_list",
        "account_reauthenticate",
    ],
)
def test_account_pages_of_users_look_like_the_site(client: Client, alice: User, name: str) -> None:
    client.force_login(alice)
    text = html(client.get(reverse(name), follow=True))
    assert "css/keyswitch.css" in text
    assert "Main" in text


@pytest.mark.parametrize("name", ["mfa_activate_totp", "mfa_add_webauthn", "mfa_list_webauthn"])
def test_second_factor_pages_look_like_the_site(client: Client, alice: User, name: str) -> None:
    client.post(reverse("account_login"), {"login": "alice", "password": "alice-password"})
    client.post(reverse("account_reauthenticate"), {"password": "alice-password"})
    response = client.get(reverse(name))
    assert response.status_code == 200
    assert "css/keyswitch.css" in html(response)


def test_sign_up_with_a_weak_password_says_why_and_echoes_none(client: Client, db: None) -> None:
    typed = {"username": "dora", "email": "d@example.com", "password1": "CANARY1", "password2": "CANARY1"}
    text = html(client.post(reverse("account_signup"), typed))
    assert 'class="error"' in text
    assert 'value="dora"' in text
    assert "CANARY1" not in text


@pytest.mark.parametrize("page", ["400", "403", "403_csrf", "404", "429", "500", "503"])
def test_error_pages_need_nothing_and_say_what_was_kept(page: str) -> None:
    text = render_to_string(f"{page}.html", {})
    assert "<h1>" in text
    assert re.search("nothing was changed|is kept|as you left them|Nothing was changed", text)
    assert "!" not in re.sub(r"<[^>]+>|<!doctype html>", "", text)


def test_unknown_address_is_our_own_404(client: Client, db: None) -> None:
    response = client.get("/nothing-here/")
    assert response.status_code == 404
    assert "There is nothing here" in html(response)


@pytest.mark.parametrize("name", TEMPLATES)
def test_template_obeys_the_content_security_policy(name: str) -> None:
    """No inline style, no inline script, no handler in an attribute, nothing from elsewhere."""
    text = (FOLDER / name).read_text()
    assert not re.search(r"<style\b|\sstyle\s*=", text)
    assert not re.search(r"\son[a-z]+\s*=\s*[\"']", text)
    assert "hx-on" not in text
    assert "hx-vals" not in text
    assert "javascript:" not in text
    assert not re.search(r"<(script|link|img|iframe)\b[^>]*(src|href)=[\"'](https?:)?//", text)
    for attributes, body in re.findall(r"<script\b([^>]*)>(.*?)</script>", text, re.DOTALL):
        assert "src=" in attributes or 'type="application/json"' in attributes, body


@pytest.mark.parametrize("name", TEMPLATES)
def test_template_compiles(name: str) -> None:
    get_template(name)


@pytest.mark.parametrize("name", TEMPLATES)
def test_template_marks_nothing_safe_and_opens_no_door_to_the_opener(name: str) -> None:
    text = (FOLDER / name).read_text()
    assert "autoescape off" not in text
    for link in re.findall(r"<a\b[^>]*target=\"_blank\"[^>]*>", text):
        assert "noopener" in link


def test_pages_carry_the_policy_they_keep(client: Client, db: None) -> None:
    policy = client.get("/")["Content-Security-Policy"]
    assert "style-src 'self';" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy


def test_htmx_keeps_no_page_and_evaluates_nothing(client: Client, db: None) -> None:
    text = html(client.get("/"))
    assert '"historyCacheSize":0' in text
    assert '"allowEval":false' in text
    assert '"includeIndicatorStyles":false' in text


def test_styles_stay_small() -> None:
    assert CSS.stat().st_size <= 30_000
