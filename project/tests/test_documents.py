"""What the documents point to is there: files, headings, commands, variables."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from django.core.management import get_commands

from project.env import BASE_DIR

DOCUMENTS = sorted([*BASE_DIR.glob("*.md"), *(BASE_DIR / "docs").rglob("*.md")])
FENCED = re.compile(r"^```.*?^```|^ {4}[^\n]*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(<?([^)\s>]+)>?\)|<img[^>]+src=\"([^\"]+)\"")
PATH = re.compile(r"`((?:agents|benchmarks|docs|llm_credentials|project|static|templates|\.ci)/[\w./-]+)`")
FOLDERS = ("agents", "benchmarks", "llm_credentials", "project")


def name_of(document: Path) -> str:
    return str(document.relative_to(BASE_DIR))


@cache
def headings(document: Path) -> frozenset[str]:
    """As anchors of the pages that repositories make of it."""
    text = FENCED.sub("", document.read_text(encoding="utf-8"))
    found = re.findall(r"^#{1,6} +(.+?) *#*$", text, re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", title.replace("`", "").lower()).replace(" ", "-") for title in found)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_of_documents_lead_somewhere(document: Path) -> None:
    dead = []
    for pair in LINK.findall(FENCED.sub("", document.read_text(encoding="utf-8"))):
        address = next(filter(None, pair))
        if re.match(r"[a-z]+:", address):
            continue
        path, _, anchor = address.partition("#")
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (anchor and anchor not in headings(target)):
            dead.append(address)
    assert dead == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_files_that_documents_name_are_there(document: Path) -> None:
    named = PATH.findall(document.read_text(encoding="utf-8"))
    assert [path for path in named if not (BASE_DIR / path).exists()] == []


def test_commands_that_documents_name_are_there() -> None:
    known = set(get_commands())
    targets = set(re.findall(r"^([a-z-]+):", (BASE_DIR / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    unknown = []
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        commands = re.findall(r"manage\.py ([a-z_]+)", text)
        made = re.findall(r"(?:`|^ {4}|&& )(?:[A-Z]+=\S+ )*make ([a-z-]+)", text, re.MULTILINE)
        unknown += [f"{name_of(document)}: manage.py {each}" for each in commands if each not in known]
        unknown += [f"{name_of(document)}: make {each}" for each in made if each not in targets]
    assert unknown == []


def test_variables_that_documents_name_are_explained() -> None:
    """In .env.example, or where they are read or set: switches of a test run, those of the compose file."""
    places = [BASE_DIR / ".env.example", BASE_DIR / "Makefile", *(BASE_DIR / "docs/deploy").iterdir()]
    code = [path for folder in FOLDERS for path in (BASE_DIR / folder).rglob("*.py")]
    text = "".join(path.read_text(encoding="utf-8") for path in [*places, *code])
    known = {"NAME_FILE", *re.findall(r"\b[A-Z][A-Z0-9_]{4,}\b", text)}
    unknown = [
        f"{name_of(document)}: {each}"
        for document in DOCUMENTS
        for each in re.findall(r"`([A-Z][A-Z0-9_]*_[A-Z0-9_]+)`", document.read_text(encoding="utf-8"))
        if each.removesuffix("_FILE") not in known and each not in known
    ]
    assert unknown == []
