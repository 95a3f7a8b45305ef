"""Applies a diff to its files, and rewrites it with their real content."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final, TypeAlias

from agents.patching.reading import FilePatch, Hunk, PatchError, is_plain_name, read

CONTEXT: Final = 3
"""Context lines around each change in the rewritten diff."""
SHOWN: Final = 12
"""Lines of a file quoted in an error."""


@dataclass(frozen=True, kw_only=True)
class Patched:
    diff: str
    """The same changes with correct line numbers and context, accepted by ``git apply`` and ``patch -p1``."""
    files: Mapping[str, str]
    """Complete text of every changed or new file."""
    made: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    added_lines: int = 0
    removed_lines: int = 0


@dataclass(frozen=True, slots=True)
class _Edit:
    """Replaces lines ``start`` to ``stop`` (zero-based, exclusive) with ``lines``; all include their line ends."""

    start: int
    stop: int
    lines: tuple[str, ...]


_Block: TypeAlias = list[_Edit]


@dataclass
class _Result:
    pieces: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    added: int = 0
    removed: int = 0


def apply(diff: str, files: Mapping[str, str]) -> Patched:
    """``files``: name → text of all files that the diff may change; it may also create new ones. Raises PatchError."""
    result = _Result()
    for patch in read(diff):
        name = _target(patch, files)
        if name in result.files or name in result.deleted:
            raise PatchError(
                f"{name!r} stands in the diff twice. Put all its hunks behind one pair of --- and +++ lines."
            )
        before = [] if patch.old_name is None else _lines(files[name])
        edits = _edits(name, before, patch)
        after = _after(before, edits)
        if patch.new_name is None:
            if after:
                raise PatchError(f"{name!r} is to be deleted, but the diff leaves lines of it. Remove every line.")
            result.deleted.append(name)
        else:
            result.files[name] = "".join(after)
            if patch.old_name is None:
                result.made.append(name)
        result.pieces.append(_written(name, patch, before, edits))
        result.added += sum(len(edit.lines) for edit in edits)
        result.removed += sum(edit.stop - edit.start for edit in edits)
    return Patched(
        diff="".join(result.pieces),
        files=result.files,
        made=tuple(result.made),
        deleted=tuple(result.deleted),
        added_lines=result.added,
        removed_lines=result.removed,
    )


def _target(patch: FilePatch, files: Mapping[str, str]) -> str:
    old, new = _known(patch.old_name, files), _known(patch.new_name, files)
    for name in (old, new):
        if name is not None and not is_plain_name(name):
            raise PatchError(
                f"{name!r} is no name of a file here: use the names of the files as given, without a leading slash, "
                "drive, backslash or «..»."
            )
    if old is not None and new is not None and old != new:
        raise PatchError(f"{old!r} would become {new!r}. Renames are not applied here: delete the one, make the other.")
    if old is None:
        assert new is not None
        if new in files:
            raise PatchError(f"{new!r} exists already: write its name on the --- line instead of /dev/null.")
        return new
    if old not in files:
        given = ", ".join(repr(name) for name in sorted(files)) or "none"
        raise PatchError(f"There is no file {old!r}. The files are: {given}. A new one has /dev/null on its --- line.")
    return old


def _known(name: str | None, files: Mapping[str, str]) -> str | None:
    """The name without a diff's a/ or b/ prefix, unless that is one of the file's own folders."""
    if name is None or name in files:
        return name
    return name[2:] if name.startswith(("a/", "b/")) else name


def _lines(text: str) -> list[str]:
    lines = [f"{line}\n" for line in text.split("\n")]
    last = lines.pop()[:-1]
    return [*lines, last] if last else lines


def _bare(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r")


class _Text:
    """A file's lines, indexed to find runs of lines without trying every position."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.text = "\n" + "".join(f"{line}\n" for line in lines)
        self.starts = list(accumulate((len(line) + 1 for line in lines), initial=0))

    def nearest(self, wanted: Sequence[str], *, begin: int, claimed: int) -> int | None:
        """Position of these lines at or after ``begin`` that is nearest to the claimed one."""
        run = "\n" + "".join(f"{line}\n" for line in wanted)
        middle = self.starts[min(max(claimed, begin), len(self.starts) - 1)]
        first = self.starts[min(begin, len(self.starts) - 1)]
        after = self.text.find(run, middle)
        before = self.text.rfind(run, first, middle + len(run) - 1)
        found = [bisect_left(self.starts, offset) for offset in (after, before) if offset >= 0]
        return min(found, key=lambda place: (abs(place - claimed), place), default=None)

    def only(self, wanted: Sequence[str], *, begin: int) -> int | None:
        """The only position of these lines at or after ``begin``; None if there is none or more than one."""
        first = self.nearest(wanted, begin=begin, claimed=begin)
        if first is None or self.nearest(wanted, begin=first + 1, claimed=first + 1) is not None:
            return None
        return first


def _edits(name: str, before: Sequence[str], patch: FilePatch) -> list[_Edit]:
    bare = [_bare(line) for line in before]
    line_end = "\r\n" if before and sum(line.endswith("\r\n") for line in before) * 2 > len(before) else "\n"
    texts = (_Text(bare), _Text([line.rstrip() for line in bare]))
    edits: list[_Edit] = []
    at, shift = 0, 0
    for number, hunk in enumerate(patch.hunks, 1):
        place = _place(texts, hunk, at, shift)
        if place is None and hunk.stray:
            hunk.drop_stray()
            place = _place(texts, hunk, at, shift)
        if place is None:
            raise PatchError(_misplaced(name, number, hunk, bare, at))
        if hunk.old_start is not None:
            shift = place - _claimed(hunk, 0)
        edits += _edits_of(hunk, place, before, line_end)
        at = place + len(hunk.old)
    return edits


def _claimed(hunk: Hunk, shift: int) -> int:
    """Zero-based line at which the hunk claims to begin; an insertion without context names the line it follows."""
    assert hunk.old_start is not None
    return hunk.old_start - (1 if hunk.old else 0) + shift


def _place(texts: tuple[_Text, _Text], hunk: Hunk, at: int, shift: int) -> int | None:
    """Position of its old lines at or after ``at``, nearest to the claimed one; None if missing or ambiguous."""
    exact, stripped = texts
    old, size = hunk.old, len(exact.starts) - 1
    if not old:
        if hunk.old_start is None:
            return None if size else 0
        return min(max(_claimed(hunk, shift), at), size)
    for text, wanted in ((exact, old), (stripped, [line.rstrip() for line in old])):
        if hunk.old_start is None:
            place = text.only(wanted, begin=at)
        else:
            place = text.nearest(wanted, begin=at, claimed=_claimed(hunk, shift))
        if place is not None:
            return place
    return None


def _misplaced(name: str, number: int, hunk: Hunk, bare: Sequence[str], at: int) -> str:
    head = f"Hunk {number} of {name!r} does not apply"
    if not hunk.old:
        return f"{head}: it has no line of context and no line number, so where it belongs is not known."
    if hunk.old_start is None and sum(line == hunk.old[0] for line in bare) > 1:
        return f"{head}: its lines stand in more than one place. Give line numbers, or more lines of context."
    wanted = next((line for line in hunk.old if line not in bare), None)
    if wanted is not None:
        fault = f"the file has no line {wanted!r}"
    elif any(line not in bare[at:] for line in hunk.old):
        fault = "it comes after lines that an earlier hunk changed already; put hunks in the order of the file"
    else:
        fault = "its lines do not follow each other so in the file"
    start = max(0, (hunk.old_start or 1) - 1 - 2)
    shown = "\n".join(f"{start + index + 1}: {line}" for index, line in enumerate(bare[start : start + SHOWN]))
    where = f" There the file has:\n{shown}" if shown else " The file is empty, or ends before that."
    return f"{head}: {fault}. Lines of context and with - must stand in the file exactly so.{where}"


def _edits_of(hunk: Hunk, place: int, before: Sequence[str], line_end: str) -> list[_Edit]:
    """The hunk's changes, each separately; context lines keep the file's own text."""
    edits: list[_Edit] = []
    start = at = place
    fresh: list[str] = []

    def close() -> None:
        if fresh or at > start:
            edits.append(_Edit(start, at, tuple(fresh)))
            fresh.clear()

    for sign, text in hunk.lines:
        match sign:
            case " ":
                close()
                at += 1
                start = at
            case "-":
                at += 1
            case "+":
                fresh.append(text.removesuffix("\r") + line_end)
    if hunk.new_ends_open and fresh and at == len(before):
        fresh[-1] = _bare(fresh[-1])
    close()
    # Text added after a last line without line end needs one in between.
    return [_behind_open_end(edit, before, line_end) for edit in edits]


def _behind_open_end(edit: _Edit, before: Sequence[str], line_end: str) -> _Edit:
    if edit.start == edit.stop == len(before) and before and not before[-1].endswith("\n") and edit.lines:
        return _Edit(edit.start - 1, edit.stop, (before[-1] + line_end, *edit.lines))
    return edit


def _after(before: Sequence[str], edits: Sequence[_Edit]) -> list[str]:
    after: list[str] = []
    at = 0
    for edit in edits:
        after += before[at : edit.start]
        after += edit.lines
        at = edit.stop
    return after + list(before[at:])


# Rewriting the diff


def _written(name: str, patch: FilePatch, before: Sequence[str], edits: Sequence[_Edit]) -> str:
    shown = f"{name}\t" if " " in name else name
    head = [f"diff --git a/{name} b/{name}\n"]
    if patch.old_name is None:
        head.append("new file mode 100644\n")
    elif patch.new_name is None:
        head.append("deleted file mode 100644\n")
    head.append("--- /dev/null\n" if patch.old_name is None else f"--- a/{shown}\n")
    head.append("+++ /dev/null\n" if patch.new_name is None else f"+++ b/{shown}\n")
    shift = 0
    for block in _blocks(edits):
        lines, shift = _block_lines(block, before, shift)
        head += lines
    return "".join(head)


def _blocks(edits: Sequence[_Edit]) -> list[_Block]:
    """Edits whose context would touch share a hunk."""
    blocks: list[_Block] = []
    for edit in edits:
        if blocks and edit.start - blocks[-1][-1].stop <= 2 * CONTEXT:
            blocks[-1].append(edit)
        else:
            blocks.append([edit])
    return blocks


def _block_lines(block: _Block, before: Sequence[str], shift: int) -> tuple[list[str], int]:
    start, stop = max(0, block[0].start - CONTEXT), min(len(before), block[-1].stop + CONTEXT)
    body: list[str] = []
    at = start
    for edit in block:
        body += [_signed(" ", line) for line in before[at : edit.start]]
        body += [_signed("-", line) for line in before[edit.start : edit.stop]]
        body += [_signed("+", line) for line in edit.lines]
        at = edit.stop
    body += [_signed(" ", line) for line in before[at:stop]]
    grown = sum(len(edit.lines) - (edit.stop - edit.start) for edit in block)
    old_count, new_count = stop - start, stop - start + grown
    old_start = start + 1 if old_count else start
    new_start = start + shift + 1 if new_count else start + shift
    return [f"@@ -{old_start},{old_count} +{new_start},{new_count} @@\n", *body], shift + grown


def _signed(sign: str, line: str) -> str:
    return f"{sign}{line}" if line.endswith("\n") else f"{sign}{line}\n\\ No newline at end of file\n"
