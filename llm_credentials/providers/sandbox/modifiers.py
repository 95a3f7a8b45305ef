"""What stands behind a tilde in a model name or a key.

    sandbox-chat~delay=50~fault=429@2,retry-after=1~fault=500@1

Each part is `name=value` or `name:value`, further values follow after commas. `fault=X@N` holds for the first N
requests with that key and model, after which the next part's turn comes; without `@N` it holds for ever.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Fault:
    name: str
    times: int | None = None
    """For how many requests; None: for ever."""
    params: dict[str, str] = field(default_factory=dict, hash=False)

    def number(self, name: str, default: float) -> float:
        """A parameter as a number; the default where it is missing or none."""
        return _number(self.params.get(name, ""), default)


@dataclass(frozen=True, slots=True)
class Named:
    """A model name or key, taken apart."""

    base: str
    faults: tuple[Fault, ...] = ()
    settings: dict[str, float] = field(default_factory=dict, hash=False)


@lru_cache(maxsize=4096)
def parse(text: str) -> Named:
    """Take `text` apart. Parts that make no sense are passed over: a name is never an error."""
    base, *parts = text.split("~")
    faults: list[Fault] = []
    settings: dict[str, float] = {}
    for part in parts:
        name, _, value = part.replace(":", "=", 1).partition("=") if "=" not in part else part.partition("=")
        if name == "fault":
            faults.append(_fault(value))
        elif value:
            settings[name] = _number(value, 0.0)
    return Named(base, tuple(faults), settings)


def _fault(value: str) -> Fault:
    first, *rest = value.split(",")
    name, _, times = first.partition("@")
    pairs = (item.partition("=") for item in rest)
    return Fault(name, int(times) if times.isdecimal() else None, {key: text for key, _, text in pairs})


def _number(text: str, default: float) -> float:
    try:
        return float(text)
    except ValueError:
        return default
