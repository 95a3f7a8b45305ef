"""Parses a diff. Models often get counts and line numbers wrong, but not the lines themselves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

MAX_DIFF_CHARS: Final = 400_000
MAX_FILES: Final = 50
MAX_HUNKS: Final = 500
MAX_NAME_CHARS: Final = 200

_HUNK = re.compile(r"@@(?: -(\d{1,9})(?:,(\d{1,9}))? \+\d{1,9}(?:,(\d{1,9}))?)?.*?@@")
_NO_NEWLINE = "\\ "
_NOWHERE = "/dev/null"

Sign: TypeAlias = Literal[" ", "-", "+"]


class PatchError(Exception):
    """The diff cannot be read or applied. The text says where and what to write instead, for models and people."""


@dataclass(kw_only=True)
class Hunk:
    old_start: int | None
    """One-based line at which it claims to begin; None if it does not say."""
    lines: list[tuple[Sign, str]] = field(default_factory=list)
    """Without their line ends."""
    new_ends_open: bool = False
    """Whether the resulting last line has no line end."""

    stray: int = 0
    """Number of empty lines at its end that may not belong to it."""

    def drop_stray(self) -> None:
        del self.lines[len(self.lines) - self.stray :]
        self.stray = 0

    @property
    def old(self) -> list[str]:
        return [text for sign, text in self.lines if sign != "+"]


@dataclass(kw_only=True)
class FilePatch:
    old_name: str | None
    """As written; None for a new file."""
    new_name: str | None
    """None for a file that is deleted."""
    hunks: list[Hunk] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.new_name or self.old_name or ""


def is_plain_name(name: str) -> bool:
    """Whether the name stays below its folder on every system, and is valid in a diff."""
    if not 0 < len(name) <= MAX_NAME_CHARS or name != name.strip():
        return False
    if any(not character.isprintable() or character in '\\":*?<>|' for character in name):
        return False
    return all(part not in ("", ".", "..", ".git") and not part.endswith((".", " ")) for part in name.split("/"))


def read(text: str) -> list[FilePatch]:
    """The files that a diff changes. Ignores code fences around it and prose before it. Raises PatchError."""
    if len(text) > MAX_DIFF_CHARS:
        raise PatchError("The diff is too long. Change less at once.")
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    found: list[FilePatch] = []
    at = 0
    while at < len(lines):
        if _begins_file(lines, at):
            if len(found) == MAX_FILES:
                raise PatchError(f"The diff changes more than {MAX_FILES} files. Change fewer at once.")
            patch, at = _file(lines, at)
            found.append(patch)
            if sum(len(each.hunks) for each in found) > MAX_HUNKS:
                raise PatchError(f"The diff has more than {MAX_HUNKS} hunks. Change less at once.")
            continue
        if lines[at].startswith(("rename from ", "copy from ")):
            raise PatchError("Renames are not applied here: delete the old file and make the new one.")
        if lines[at].startswith(("GIT binary patch", "Binary files ")):
            raise PatchError("Binary files are not changed here.")
        if _HUNK.match(lines[at]):
            raise PatchError("A hunk stands before any file: begin each file with a --- line and a +++ line.")
        at += 1
    if not found:
        raise PatchError(
            "There is no unified diff: each file begins with a --- line and a +++ line, then hunks with @@."
        )
    return found


def _begins_file(lines: Sequence[str], at: int) -> bool:
    return lines[at].startswith("--- ") and at + 1 < len(lines) and lines[at + 1].startswith("+++ ")


def _file(lines: Sequence[str], at: int) -> tuple[FilePatch, int]:
    patch = FilePatch(old_name=_name(lines[at][4:]), new_name=_name(lines[at + 1][4:]))
    if patch.old_name is None and patch.new_name is None:
        raise PatchError("A file's --- and +++ lines cannot both be /dev/null.")
    at += 2
    while at < len(lines):
        if header := _HUNK.match(lines[at]):
            hunk, at = _hunk(lines, at + 1, header)
            patch.hunks.append(hunk)
        elif lines[at].strip():
            break
        else:
            at += 1
    if not patch.hunks:
        raise PatchError(f"{patch.name!r} has no hunk: after its +++ line comes a line such as @@ -1,3 +1,4 @@.")
    return patch, at


def _name(written: str) -> str | None:
    name = written.split("\t", 1)[0].strip()
    if name == _NOWHERE:
        return None
    if len(name) > 1 and name[0] == name[-1] == '"':
        name = name[1:-1]
    return name


def _hunk(lines: Sequence[str], at: int, header: re.Match[str]) -> tuple[Hunk, int]:
    start, old_count, new_count = header.groups()
    hunk = Hunk(old_start=int(start) if start is not None else None)
    wanted = (_count(start, old_count), _count(start, new_count))
    stray = 0
    while at < len(lines) and not _ends_hunk(lines, at, hunk, wanted):
        line = lines[at]
        if line.startswith(_NO_NEWLINE):
            if hunk.lines and hunk.lines[-1][0] != "-":
                hunk.new_ends_open = True
        elif line == "":
            hunk.lines.append((" ", ""))  # an empty context line that lost its leading blank
            stray += 1
        else:
            sign = line[0]
            assert sign in (" ", "-", "+")
            stray = 0
            hunk.lines.append((sign, line[1:]))  # type: ignore[arg-type]  # narrowed by the assertion
        at += 1
    hunk.stray = stray
    if _lengths(hunk) != wanted:
        hunk.drop_stray()
    if not any(sign != " " for sign, _ in hunk.lines):
        raise PatchError("A hunk changes nothing: begin what goes with - and what comes with +.")
    return hunk, at


def _count(start: str | None, count: str | None) -> int | None:
    if start is None:
        return None
    return 1 if count is None else int(count)


def _ends_hunk(lines: Sequence[str], at: int, hunk: Hunk, wanted: tuple[int | None, int | None]) -> bool:
    line = lines[at]
    if line.startswith(("@@", "diff --git ", "Index: ")):
        return True
    if _begins_file(lines, at) and _HUNK.match("".join(lines[at + 2 : at + 3])):
        return True
    if line.startswith((" ", "-", "+", _NO_NEWLINE)):
        return False
    if line == "":
        # After the counted lines, an empty line separates the diff from what follows.
        return _lengths(hunk) == wanted
    return True  # a fence, prose, or the next file's header


def _lengths(hunk: Hunk) -> tuple[int, int]:
    return sum(sign != "+" for sign, _ in hunk.lines), sum(sign != "-" for sign, _ in hunk.lines)
