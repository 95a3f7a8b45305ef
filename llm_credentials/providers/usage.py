"""Token counts, with one meaning for every provider."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

EXACT_BELOW: Final = 2.0**53
"""From here on a float may be inexact."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """The usage of a call. ``None`` means unknown and is never stored as 0."""

    input_tokens: int | None = None
    """All prompt tokens, including cached ones."""
    output_tokens: int | None = None
    """All generated tokens, including reasoning."""
    cache_read_tokens: int | None = None
    """The part of ``input_tokens`` that was read from the provider's cache."""
    cache_write_tokens: int | None = None
    """The part of ``input_tokens`` that was written to the provider's cache."""
    reasoning_tokens: int | None = None
    """The part of ``output_tokens`` that was reasoning."""


def count(value: object) -> int | None:
    """A token count from a provider: a whole number of at least 0, which some write as ``7.0``; else unknown."""
    if isinstance(value, float) and value.is_integer() and value < EXACT_BELOW:
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def add(*values: int | None) -> int | None:
    """The sum of the known values; unknown if none is known."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None
