from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from project import collector


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    threshold, callbacks = gc.get_threshold(), list(gc.callbacks)
    gc.callbacks[:] = []
    monkeypatch.setattr(collector, "_set_aside", 0)
    yield
    gc.set_threshold(*threshold)
    gc.callbacks[:] = callbacks


def test_settle_sets_aside_what_is_there_and_looks_less_often() -> None:
    collector.settle()
    assert gc.get_freeze_count() > 10_000
    assert gc.get_threshold()[0] == collector.YOUNG


def is_looked_through(thing: object) -> bool:
    return any(each is thing for each in gc.get_objects())


def test_what_a_late_import_left_is_set_aside_but_not_for_ever() -> None:
    collector.settle()
    late = [[number] for number in range(10)]
    assert is_looked_through(late)
    gc.collect()
    assert not is_looked_through(late)
    gc.collect()
    later = [[number] for number in range(10)]
    gc.collect()
    assert is_looked_through(later)
