"""Text of pages goes through gettext, with nothing of it left over in English when every text is translated."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core import mail
from django.test import Client
from django.utils import translation

from llm_credentials.notices import Kind, deliver
from llm_credentials.providers import registry
from llm_credentials.providers.search import SEARCH_SPECS
from llm_credentials.tests.proofs import proven
from project.env import BASE_DIR
from project.tests import pages

PLACEHOLDER = re.compile(r"%(?:\(\w+\))?[#0\- +]*\d*(?:\.\d+)?[sdfgr]|%%")
SILENT = {"script", "style", "code", "pre", "svg", "template"}
SPOKEN = {"aria-label", "title", "placeholder", "alt", "aria-description", "data-confirm"}
GETTEXT = {"_", "gettext", "gettext_lazy", "gettext_noop", "ngettext", "pgettext"}
VOID = {"meta", "link", "input", "img", "br", "hr", "source", "wbr"}


def marked(text: str) -> str:
    """As a translation would come back: every word of it in brackets, what is filled in later outside of them."""
    if not text:
        return text
    return "⟦" + PLACEHOLDER.sub(r"⟧\g<0>⟦", text) + "⟧"


@pytest.fixture
def pseudo_language(monkeypatch: pytest.MonkeyPatch) -> None:
    engine: Any = translation._trans  # type: ignore[attr-defined]
    monkeypatch.setattr(engine, "gettext", marked, raising=False)
    monkeypatch.setattr(engine, "pgettext", lambda context, text: marked(text), raising=False)
    monkeypatch.setattr(engine, "ngettext", lambda one, many, n: marked(one if n == 1 else many), raising=False)
    monkeypatch.setattr(
        engine, "npgettext", lambda context, one, many, n: marked(one if n == 1 else many), raising=False
    )


class Words(HTMLParser):
    """What a page says: its texts, and the attributes that are read out or shown."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        self.quiet: list[str] = []
        self.inside = 0
        """How many brackets are open: a translated sentence may hold a link."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        # Monospace is for keys, models and code.
        silent = tag in SILENT or given.get("translate") == "no" or "mono" in (given.get("class") or "").split()
        if (self.quiet or silent) and tag not in VOID:
            self.quiet.append(tag)
        if silent:
            return
        self.said += [value for name, value in attrs if value and name in SPOKEN]
        if tag == "input" and given.get("type") in ("submit", "button"):
            self.said.append(given.get("value") or "")
        if tag == "meta" and given.get("name") == "description":
            self.said.append(given.get("content") or "")

    def handle_endtag(self, tag: str) -> None:
        if self.quiet:
            self.quiet.pop()

    def handle_data(self, data: str) -> None:
        if self.quiet:
            return
        rest = ""
        for letter in data:
            self.inside += (letter == "⟦") - (letter == "⟧")
            rest += letter if not self.inside and letter != "⟧" else " "
        self.said.append(rest)


def known_data() -> list[str]:
    """What is nobody's to translate: names of providers and models, and what the user has written."""
    found = {"Keyswitch", "alice", "default", "genai-prices", "UTC", pages.ANSWER, *pages.WRITTEN}
    for spec in registry.all_specs():
        found |= {spec.slug, spec.label, spec.key_hint, spec.base_url or "", spec.default_model}
        found |= {text for model in spec.models for text in (model.id, model.label)}
    for service in SEARCH_SPECS.values():
        found |= {service.label, service.default_url}
    return sorted(found - {""}, key=len, reverse=True)


def left_over(page: str, data: list[str]) -> list[str]:
    words = Words()
    words.feed(page)
    found = []
    for text in words.said:
        rest = re.sub(r"⟦[^⟦⟧]*⟧|https?://\S+|ksw_\w+", " ", text)
        for each in data:
            rest = rest.replace(each, " ")
        if re.search(r"[a-zA-Z]{2,}", rest):
            found.append(" ".join(text.split()))
    return found


def test_pages_say_nothing_that_is_not_translated(pseudo_language: None, alice: User) -> None:
    addresses = pages.page_addresses(pages.furnish(alice))
    data = known_data()
    found = {}

    def visit(who: str, client: Client, names: Iterable[str]) -> None:
        for name in names:
            response = client.get(addresses[name])
            if pages.is_page(response) and (rest := left_over(response.content.decode(), data)):
                found[f"{who} {name}"] = rest

    visit("alice", proven(alice), addresses)
    visit("nobody", Client(), [name for name in addresses if name.startswith(("home", "account_"))])
    addresses = pages.page_addresses({"pk": str(pages.add_second_factor(alice))})
    visit("alice with a second factor", proven(alice), [name for name in addresses if "mfa_" in name])
    assert not found, "\n".join(f"{page}: {text}" for page, texts in found.items() for text in texts)


@pytest.mark.parametrize("kind", Kind)
def test_mails_say_nothing_that_is_not_translated(pseudo_language: None, alice: User, kind: Kind) -> None:
    facts = {"provider": "OpenAI", "last4": "cdef", "factor": "totp", "by": "you", "through": "page"}
    assert deliver(alice.pk, kind, facts)
    (sent,) = mail.outbox
    assert left_over(f"{sent.subject}\n{sent.body}", known_data()) == []


# Texts in Python that no page of the test above happens to show


def sources() -> Iterator[Path]:
    for package in ("agents", "llm_credentials", "project"):
        for path in sorted((BASE_DIR / package).rglob("*.py")):
            if not {"tests", "migrations", "providers", "api", "commands"} & set(path.parts):
                yield path


def bare_texts(node: ast.AST) -> Iterator[ast.Constant]:
    """Sentences in it that are not handed to gettext."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) in GETTEXT:
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
        yield node
    for child in ast.iter_child_nodes(node):
        yield from bare_texts(child)


def told_by(call: ast.Call) -> Iterator[ast.AST]:
    """What of this call people will read, if it is an error, a message or a field of a form."""
    name = ast.unparse(call.func)
    if name == "ValidationError" or re.fullmatch(r"messages\.(success|info|warning|error)", name):
        yield from call.args
    elif re.match(r"forms\.\w+Field$", name):
        yield from (word.value for word in call.keywords if word.arg in ("label", "help_text"))


def test_errors_messages_and_labels_go_through_gettext() -> None:
    found = []
    for path in sources():
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        texts = [text for call in calls for told in told_by(call) for text in bare_texts(told)]
        found += [f"{path.relative_to(BASE_DIR)}:{text.lineno}: {text.value!r}" for text in texts]
    assert not found, "\n".join(found)
