"""Generates texts that match a regular expression."""

from __future__ import annotations

import re

# The standard library has no public API for parsed patterns.
import re._constants as sre  # type: ignore[import-not-found]
import re._parser as sre_parser  # type: ignore[import-not-found]
from collections.abc import Callable
from functools import lru_cache
from typing import Any


@lru_cache(maxsize=64)
def matching(pattern: str, least: int) -> str:
    """A text that matches a regular expression: short, but of at least `least` characters if possible."""
    try:
        tree = sre_parser.parse(pattern)
    except (re.error, RecursionError, OverflowError):
        return "sandbox"
    text = _walk(tree, 0)
    for longer in range(1, least + 1):
        if len(text) >= least:
            break
        text = _walk(tree, longer)
    return text


def _walk(tree: Any, longer: int) -> str:
    return "".join(_one(code, argument, longer) for code, argument in tree)


def _one(code: Any, argument: Any, longer: int) -> str:
    if code is sre.LITERAL:
        return chr(argument)
    if code is sre.NOT_LITERAL:
        return "b" if argument == ord("a") else "a"
    if code is sre.ANY:
        return "a"
    if code is sre.IN:
        return _class(argument)
    if code in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
        least, most, inner = argument
        times: int = min(max(least, longer), 10_000 if most is sre.MAXREPEAT else most)
        return _walk(inner, longer) * times
    if code is sre.SUBPATTERN:
        return _walk(argument[3], longer)
    if code is sre.BRANCH:
        return _walk(argument[1][0], longer)
    return ""  # anchors and look-arounds have no width


def _class(items: Any) -> str:
    negated = items[0][0] is sre.NEGATE
    for character in "a0A-_ ." + "".join(map(chr, range(33, 127))):
        if any(_holds(code, argument, character) for code, argument in items if code is not sre.NEGATE) is not negated:
            return character
    code, argument = items[0]
    return chr(argument[0]) if code is sre.RANGE else chr(argument) if code is sre.LITERAL else "a"


def _holds(code: Any, argument: Any, character: str) -> bool:
    if code is sre.LITERAL:
        return bool(ord(character) == argument)
    if code is sre.RANGE:
        return bool(argument[0] <= ord(character) <= argument[1])
    tests: dict[Any, Callable[[str], bool]] = {
        sre.CATEGORY_DIGIT: str.isdigit,
        sre.CATEGORY_SPACE: str.isspace,
        sre.CATEGORY_WORD: lambda one: one.isalnum() or one == "_",
        sre.CATEGORY_NOT_DIGIT: lambda one: not one.isdigit(),
        sre.CATEGORY_NOT_SPACE: lambda one: not one.isspace(),
        sre.CATEGORY_NOT_WORD: lambda one: not (one.isalnum() or one == "_"),
    }
    test: Callable[[str], bool] = tests[argument]
    return test(character)
