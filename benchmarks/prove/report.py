"""What a proof claims, what it measured, and whether that holds.

Each module beside this one has ``def lines() -> Iterator[Line]``: it yields a line as soon as it has measured it,
leaves nothing behind, and never raises because something does not hold. ``print_lines`` prints them and counts misses;
``line_in`` reads what it printed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Line:
    claim: str
    """What must be so, with its figure: "connections to the listener: 0"."""
    measured: str
    """What was found, with its unit: "0 of 5,120 attempts"."""
    holds: bool


def print_lines(lines: Iterable[Line]) -> int:
    """Print each line as it comes; how many do not hold."""
    missed = 0
    for line in lines:
        missed += not line.holds
        print(text_of(line), flush=True)
    return missed


_PRINTED = re.compile(r"^  (ok  |MISS)  (.*?) → (.*)$")


def text_of(line: Line) -> str:
    claim, measured = (" ".join(text.split()) for text in (line.claim, line.measured))
    return f"  {'ok  ' if line.holds else 'MISS'}  {claim.replace(' → ', ' -> ')} → {measured}"


def line_in(text: str) -> Line | None:
    """The line that ``text_of`` made this of; None for anything else that a proof prints."""
    found = _PRINTED.match(text)
    return Line(found[2], found[3], found[1] == "ok  ") if found else None


def to_its_end(part: Callable[[], Iterable[Line]]) -> Iterator[Line]:
    """A part that breaks off falls short, and says where."""
    try:
        yield from part()
    except Exception as error:
        yield Line("measured to its end", f"broke off: {type(error).__name__}: {error}"[:300], False)
