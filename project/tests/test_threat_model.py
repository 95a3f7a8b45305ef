"""The threat model names tests; they are there, and every numbered input has one or a reason."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from django.apps import apps
from django.contrib.auth.models import User
from django.core.management import get_commands, load_command_class

from llm_credentials import services
from llm_credentials.tests.factories import UserCredentialFactory
from project.env import BASE_DIR

TEXT = (BASE_DIR / "docs/threat-model.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`([\w/]+/test_\w+\.py)(?:::(test_\w+))?`", TEXT)))
ROWS = {int(number): line for number, line in re.findall(r"^\| (\d+) \| (.*)$", TEXT, re.MULTILINE)}


@cache
def names_in(path: Path) -> frozenset[str]:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return frozenset(each.name for each in body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_threat_model_names_tests_that_exist(path: str, name: str) -> None:
    assert (BASE_DIR / path).is_file()
    assert not name or name in names_in(BASE_DIR / path)


def test_threat_model_has_every_numbered_input() -> None:
    assert set(ROWS) == set(range(1, 63))
    assert not {number for number, line in ROWS.items() if "test_" not in line}


@pytest.mark.parametrize("path", ["README.md", "SECURITY.md"])
def test_threat_model_can_be_found(path: str) -> None:
    assert "docs/threat-model.md" in (BASE_DIR / path).read_text(encoding="utf-8")


# What to do when something was stolen

ADVICE = "".join((BASE_DIR / path).read_text(encoding="utf-8") for path in ("SECURITY.md", "docs/backup.md"))
SNIPPETS = re.findall(r'manage\.py shell -c "(.*)"', ADVICE)
COMMANDS = re.findall(r"(?:manage\.py |`)((?:audit|rotate|token)_\w+)([^`\n]*)`?", ADVICE)


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_advice_in_python_runs(alice: User, snippet: str) -> None:
    UserCredentialFactory(user=alice)
    token = services.token_create(user=alice)[1]
    exec(snippet, {})
    if "revoked_at" in snippet:
        assert services.token_authenticate(token) is None


def test_advice_names_commands_and_options_that_exist() -> None:
    assert {name for name, _ in COMMANDS} >= {"audit_export", "audit_verify", "rotate_credential_keys"}
    tables = {model._meta.db_table for model in apps.get_models()}
    for name, rest in COMMANDS:
        if name in tables:
            continue
        parser = load_command_class(get_commands()[name], name).create_parser("manage.py", name)
        known = {option for action in parser._actions for option in action.option_strings}
        assert set(re.findall(r"--[a-z-]+", rest)) <= known, name
