from __future__ import annotations

from collections.abc import Iterator

import pytest

from llm_credentials.routing import kinds
from llm_credentials.routing.kinds import TaskKind


@pytest.fixture(autouse=True)
def _own_kinds(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(kinds, "_kinds", {})
    yield


def test_kinds_are_given_in_the_order_of_their_labels() -> None:
    for slug, label in (("b", "Write"), ("a", "analyse"), ("c", "Read")):
        kinds.register(TaskKind(slug, label, "light", {"tools"}))
    assert [kind.label for kind in kinds.all()] == ["analyse", "Read", "Write"]
    assert kinds.get("a") == TaskKind("a", "analyse", "light", frozenset({"tools"}))
    assert kinds.get("nowhere") is None


def test_kind_registered_twice_is_one() -> None:
    kinds.register(TaskKind("a", "Read"))
    kinds.register(TaskKind("a", "Read"))
    assert len(kinds.all()) == 1


def test_kinds_that_differ_under_one_slug_are_refused() -> None:
    kinds.register(TaskKind("a", "Read"))
    with pytest.raises(ValueError, match="two kinds of task call themselves 'a'"):
        kinds.register(TaskKind("a", "Write"))


def test_kind_with_an_unknown_need_is_refused() -> None:
    with pytest.raises(ValueError, match="A task may need"):
        TaskKind("a", "Read", needs=("telepathy",))


def test_kind_whose_needs_are_a_text_is_refused() -> None:
    with pytest.raises(ValueError, match="as a collection"):
        TaskKind("a", "Read", needs="tools")


def test_kind_with_an_unknown_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="weight"):
        TaskKind("a", "Read", "huge")  # type: ignore[arg-type]
