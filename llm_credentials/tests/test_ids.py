from __future__ import annotations

import time
import uuid

import pytest

from llm_credentials.ids import new_id


def test_id_is_a_uuid_that_begins_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_790_000_000_123_456_789)
    made = {new_id() for _ in range(1000)}
    assert len(made) == 1000
    assert {(each.version, each.variant, each.int >> 80) for each in made} == {(7, uuid.RFC_4122, 1_790_000_000_123)}


def test_later_id_comes_behind_in_an_index(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter(range(0, 10**9, 10**6))
    monkeypatch.setattr(time, "time_ns", lambda: next(moments))
    made = [new_id().hex for _ in range(100)]
    assert made == sorted(made)
