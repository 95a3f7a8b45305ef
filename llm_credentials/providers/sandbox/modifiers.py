"""Parses the modifiers after a tilde in a model name or a key.

    sandbox-chat~delay=50~fault=429@2,retry-after=1~fault=500@1
    sandbox-chat+delay:50+fault:429@2+retry-after:1+fault:500@1

Each part is `name=value`. `fault=X@N` applies to the first N requests with that key and model, followed by the next
fault; without `@N` it applies for ever. What follows a fault after a comma, or as a part that is not a setting, is a
parameter of the fault. The second line means the same in characters that every model field accepts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

SETTINGS = frozenset({"delay", "wait", "chunks", "cached"})
_SEPARATOR = re.compile(r"[~+]")


@dataclass(frozen=True, slots=True)
class Fault:
    name: str
    times: int | None = None
    """For how many requests; None: for ever."""
    params: dict[str, str] = field(default_factory=dict, hash=False)

    def number(self, name: str, default: float) -> float:
        """A parameter as a number; the default if it is missing or not a number."""
        return _number(self.params.get(name, ""), default)


@dataclass(frozen=True, slots=True)
class Named:
    """A parsed model name or key."""

    base: str
    faults: tuple[Fault, ...] = ()
    settings: dict[str, float] = field(default_factory=dict, hash=False)


@lru_cache(maxsize=4096)
def parse(text: str) -> Named:
    """Parses `text`. Invalid parts are ignored: a name is never an error."""
    base, *parts = _SEPARATOR.split(text)
    faults: list[Fault] = []
    settings: dict[str, float] = {}
    for part in parts:
        name, value = _pair(part)
        if name == "fault":
            faults.append(_fault(value))
        elif name in SETTINGS:
            settings[name] = _number(value, 0.0)
        elif faults:
            faults[-1].params[name] = value
    return Named(base, tuple(faults), settings)


def _pair(part: str) -> tuple[str, str]:
    name, _, value = part.partition("=") if "=" in part else part.partition(":")
    return name, value


def _fault(value: str) -> Fault:
    first, *rest = value.split(",")
    name, _, times = first.partition("@")
    return Fault(name, int(times) if times.isdecimal() else None, dict(map(_pair, rest)))


def _number(text: str, default: float) -> float:
    try:
        return float(text)
    except ValueError:
        return default
