"""Writes ``docs/proof.md``: claims and measurements by part, each with its day, machine, versions and commit."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.prove.report import Line
from project import env

PAGE = env.BASE_DIR / "docs" / "proof.md"
HEAD = """# Proof

`make prove` makes this page; nothing in it is written by hand. Each line is a claim with its figure, what was measured,
and whether it holds. `make prove PART=…` makes one part anew and leaves the others as they are; `streams` (five hundred
that are open for ten minutes) is made only when it is named. [What the figures mean](performance.md).
"""


def text_of(parts: Mapping[str, Sequence[Line]], minutes: Mapping[str, float], where: str) -> dict[str, str]:
    """Each part's section. ``where``: day, machine, versions and commit."""
    return {name: _section(name, lines, minutes[name], where) for name, lines in parts.items()}


def _section(name: str, lines: Sequence[Line], minutes: float, where: str) -> str:
    held = sum(line.holds for line in lines)
    machine = "\n".join(f"    {line}" for line in where.splitlines())
    rows = "\n".join(
        f"| {_cell(line.claim)} | {_cell(line.measured)} | {'holds' if line.holds else '**falls short**'} |"
        for line in lines
    )
    return (
        f"## {name}\n\n{held} of {len(lines)} hold; {minutes:.1f} minutes.\n\n{machine}\n\n"
        f"| claim | measured | |\n|---|---|---|\n{rows}\n"
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def merged(old: str, sections: Mapping[str, str], order: Sequence[str]) -> str:
    """The page with these sections; those of other parts stay unchanged."""
    there = {match[1]: match[0].rstrip() + "\n" for match in re.finditer(r"(?ms)^## (\w+)\n.*?(?=^## |\Z)", old)}
    there |= sections
    return "\n".join([HEAD, *(there[name] for name in order if name in there)])


def write(sections: Mapping[str, str], order: Sequence[str], page: Path = PAGE) -> None:
    old = page.read_text(encoding="utf-8") if page.exists() else ""
    page.write_text(merged(old, sections, order), encoding="utf-8")


def commit() -> str:
    """``1a2b3c4``, and whether the tree has uncommitted changes."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=env.BASE_DIR, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    name = git("rev-parse", "--short", "HEAD")
    return f"commit {name}{' and changes' if git('status', '--porcelain') else ''}" if name else "no commit"
