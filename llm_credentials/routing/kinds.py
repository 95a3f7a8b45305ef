"""The kinds of task that need a model: what users can override, and what the router may assume about each."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

Weight: TypeAlias = Literal["light", "normal", "heavy"]
NEEDS = frozenset({"tools", "vision", "json", "embeddings"})


@dataclass(frozen=True, slots=True)
class TaskKind:
    """``weight`` says how capable a model the task deserves under the user's cheapest-first strategy."""

    slug: str
    label: str
    weight: Weight = "normal"
    needs: Collection[str] = frozenset()

    def __post_init__(self) -> None:
        if self.weight not in get_args(Weight):
            raise ValueError(f"{self.slug}: a task's weight is one of {', '.join(get_args(Weight))}.")
        check_needs(self.needs)
        object.__setattr__(self, "needs", frozenset(self.needs))


_kinds: dict[str, TaskKind] = {}


def check_needs(needs: Collection[str]) -> None:
    """Raises ValueError for an unknown need, which would otherwise be ignored silently."""
    if isinstance(needs, str) or not NEEDS.issuperset(needs):
        raise ValueError(f"A task may need {', '.join(sorted(NEEDS))}; nothing else, and given as a collection.")


def register(kind: TaskKind) -> None:
    """Register a kind; the same kind twice is fine. Raises ValueError if two kinds share a slug."""
    if _kinds.setdefault(kind.slug, kind) != kind:
        raise ValueError(f"two kinds of task call themselves {kind.slug!r}")


def get(slug: str) -> TaskKind | None:
    return _kinds.get(slug)


def all() -> tuple[TaskKind, ...]:
    """Every kind, ordered by label."""
    return tuple(sorted(_kinds.values(), key=lambda kind: kind.label.lower()))
