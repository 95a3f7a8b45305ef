"""Removes citations without a source while an answer is written.

Django-free. A number in brackets outside code is a citation: ``[2]``, ``[1, 3]``, ``[2-4]``, ``【2】``,
``[2](https://…)``. An address after one is removed too, because the list of sources has it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

MAX_RANGE: Final = 20
MAX_ADDRESS: Final = 2100

_NEXT = re.compile(r"[`\[【]")
_TICKS = re.compile(r"`+")
_NUMBER = r"\^?\s{0,3}\d{1,3}"
_CITATION = re.compile(
    rf"[\[【]\s{{0,3}}({_NUMBER}(?:\s{{0,3}}[,;\u2013-]\s{{0,3}}{_NUMBER}){{0,20}})\s{{0,3}}(?:†[^\]】]{{0,40}})?[\]】]"
)
_BEGUN = re.compile(r"[\[【][\^\d\s,;\u2013-]{0,60}(?:†[^\]】]{0,40})?")
_BLANKS = re.compile(r"[ \t]+\Z")


class CitationFilter:
    """``feed`` returns what may be shown so far; ``finish`` returns the rest of an answer, after which another may
    begin.
    """

    def __init__(self, is_known: Callable[[int], bool]) -> None:
        self._is_known = is_known
        self._held = ""
        self._code = 0
        """Number of backticks that opened the current code span; 0 outside code."""
        self.cited: list[int] = []
        """In order of first citation."""
        self.struck: list[int] = []

    def feed(self, text: str) -> str:
        self._held += text
        return self._take(final=False)

    def finish(self) -> str:
        shown = self._take(final=True)
        self._code = 0
        return shown

    def _take(self, *, final: bool) -> str:
        text, self._held = self._held, ""
        shown: list[str] = []
        at = 0
        while found := _NEXT.search(text, at):
            start = found.start()
            shown.append(text[at:start])
            if text[start] == "`":
                end = self._ticks(text, start, final)
            elif self._code:
                end = start + 1
            else:
                end = self._citation(text, start, shown, final)
            if end is None:
                self._hold(shown, text[start:])
                return "".join(shown)
            if text[start] == "`" or self._code or end == start + 1:
                shown.append(text[start:end])
            at = end
        shown.append(text[at:])
        if not final:
            self._hold(shown, "")
        return "".join(shown)

    def _hold(self, shown: list[str], rest: str) -> None:
        """Hold back blanks before held text as well, because they are removed with it."""
        blanks = _BLANKS.search(shown[-1])
        if blanks:
            shown[-1] = shown[-1][: blanks.start()]
            rest = blanks[0] + rest
        self._held = rest

    def _ticks(self, text: str, start: int, final: bool) -> int | None:
        ticks = _TICKS.match(text, start)
        assert ticks is not None
        if ticks.end() == len(text) and not final:
            return None  # more of them may follow
        size = ticks.end() - start
        if not self._code:
            self._code = size
        elif self._code == size:
            self._code = 0
        return ticks.end()

    def _citation(self, text: str, start: int, shown: list[str], final: bool) -> int | None:
        """Next position: after a citation, which is written to ``shown``, or after a bracket that is not one."""
        found = _CITATION.match(text, start)
        if found is None:
            begun = _BEGUN.match(text, start)
            may_become_one = begun is not None and begun.end() == len(text)
            return None if may_become_one and not final else start + 1
        end = found.end()
        if end == len(text) and not final:
            return None  # an address may follow
        if text[end : end + 1] == "(":
            close = text.find(")", end, end + MAX_ADDRESS)
            if close < 0 and not final and len(text) - end < MAX_ADDRESS:
                return None
            end = close + 1 if close >= 0 else end
        kept = [number for number in _numbers(found[1]) if self._judge(number)]
        if kept:
            shown.append("".join(f"[{number}]" for number in kept))
        elif shown and (blanks := _BLANKS.search(shown[-1])):
            shown[-1] = shown[-1][: blanks.start()]
        return end

    def _judge(self, number: int) -> bool:
        known = self._is_known(number)
        place = self.cited if known else self.struck
        if number not in place:
            place.append(number)
        return known


def _numbers(text: str) -> list[int]:
    numbers: list[int] = []
    for piece in re.split(r"[,;]", text):
        first, *rest = (int(digits) for digits in re.findall(r"\d+", piece))
        last = rest[0] if rest else first
        numbers += range(first, last + 1) if first <= last <= first + MAX_RANGE else [first, last]
    return numbers
