"""robots.txt as in RFC 9309: our own group, else the one for all robots; the longest rule wins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote_to_bytes

AGENT: Final = "keyswitch"
MAX_RULES: Final = 2000
MAX_BYTES: Final = 500 * 1024
"""How much of a robots.txt is read, as the RFC says."""
_KEPT: Final = "/*$%?&=+,;:@!'()~-._"


@dataclass(frozen=True, slots=True)
class Robots:
    rules: tuple[tuple[str, bool], ...] = ()
    """(pattern, whether it allows), longest first; of equally long ones, the one that allows."""

    def allows(self, path: str) -> bool:
        """``path`` includes its query and begins with a slash."""
        plain = _normal(path)
        return plain == "/robots.txt" or next((allowed for rule, allowed in self.rules if _matches(rule, plain)), True)


EVERYTHING: Final = Robots()
NOTHING: Final = Robots((("/", False),))


def parse(text: str, agent: str = AGENT) -> Robots:
    """Lines that are no rules are ignored."""
    groups: dict[str, list[tuple[str, bool]]] = {}
    names: list[str] = []
    in_rules = True
    for line in text.removeprefix("\ufeff").splitlines()[: MAX_RULES * 5]:
        field, colon, value = line.partition("#")[0].partition(":")
        field, value = field.strip().lower(), value.strip()
        if not colon:
            continue
        if field == "user-agent":
            names = [] if in_rules else names
            in_rules = False
            names.append(value.lower())
            groups.setdefault(value.lower(), [])
        elif field in ("allow", "disallow"):
            in_rules = True
            if value:
                for name in names:
                    groups[name].append((_normal(value), field == "allow"))
    rules = groups.get(agent, groups.get("*", []))[:MAX_RULES]
    return Robots(tuple(sorted(rules, key=lambda rule: (-len(rule[0]), not rule[1]))))


def _normal(path: str) -> str:
    """Normalises percent-encoding."""
    return quote(unquote_to_bytes(path), safe=_KEPT)


def _matches(rule: str, path: str) -> bool:
    """Without a regular expression, which a hostile rule could make run for ever."""
    to_end = rule.endswith("$")
    first, *rest = rule.removesuffix("$").split("*")
    if not path.startswith(first):
        return False
    at = len(first)
    for index, piece in enumerate(rest):
        if to_end and index == len(rest) - 1:
            return path.endswith(piece) and len(path) - len(piece) >= at
        found = path.find(piece, at)
        if found < 0:
            return False
        at = found + len(piece)
    return at == len(path) if to_end else True
