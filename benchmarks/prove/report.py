"""What a proof claims, what it measured, and whether that holds.

Each module beside this one has ``def lines() -> Iterator[Line]``: it yields a line as soon as it has measured it,
leaves nothing behind, and never raises because something does not hold. ``print_lines`` prints them and counts misses.
"""

from __future__ import annotations

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
        print(f"  {'ok  ' if line.holds else 'MISS'}  {line.claim}: {line.measured}", flush=True)
    return missed


def to_its_end(part: Callable[[], Iterable[Line]]) -> Iterator[Line]:
    """A part that breaks off falls short, and says where."""
    try:
        yield from part()
    except Exception as error:
        yield Line("measured to its end", f"broke off: {type(error).__name__}: {error}"[:300], False)
