"""A proof's claims, measured values, and whether they hold.

Each module beside this one has ``def lines() -> Iterator[Line]``: it yields a line as soon as it is measured, leaves
nothing behind, and never raises because a claim fails. ``print_lines`` prints them and counts failures; ``line_in``
parses what it printed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Line:
    claim: str
    """The requirement with its figure: "connections to the listener: 0"."""
    measured: str
    """The result with its unit: "0 of 5,120 attempts"."""
    holds: bool


def print_lines(lines: Iterable[Line]) -> int:
    """Print each line as it comes; returns how many do not hold."""
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
    """Inverse of ``text_of``; None for any other output."""
    found = _PRINTED.match(text)
    return Line(found[2], found[3], found[1] == "ok  ") if found else None


def to_its_end(part: Callable[[], Iterable[Line]]) -> Iterator[Line]:
    """A part that raises yields a failing line that says where."""
    try:
        yield from part()
    except Exception as error:
        yield Line("measured to its end", f"broke off: {type(error).__name__}: {error}"[:300], False)
