"""The threat model names tests; they are there, and every numbered input has one or a reason."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from project.env import BASE_DIR

TEXT = (BASE_DIR / "docs/threat-model.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`([\w/]+/test_\w+\.py)(?:::(test_\w+))?`", TEXT)))
ROWS = {int(number): line for number, line in re.findall(r"^\| (\d+) \| (.*)$", TEXT, re.MULTILINE)}
WITHOUT = TEXT.partition("## Without a test")[2]


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
    bare = {number for number, line in ROWS.items() if "test_" not in line}
    assert bare == {44}
    assert all(f"**{number}," in WITHOUT for number in bare)


@pytest.mark.parametrize("path", ["README.md", "SECURITY.md"])
def test_threat_model_can_be_found(path: str) -> None:
    assert "docs/threat-model.md" in (BASE_DIR / path).read_text(encoding="utf-8")
