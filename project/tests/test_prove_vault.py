"""The proofs of ``make prove-vault`` with small counts; and that its list of guards is up to date."""

from __future__ import annotations

import pytest

from benchmarks.prove import rotation, tampering
from benchmarks.prove.canaries import CANARIES, Findings
from benchmarks.prove.guards import GUARDS, Guard
from benchmarks.prove.mutations import without
from benchmarks.prove.report import Line
from llm_credentials.tests.canaries import forms_of
from project.env import BASE_DIR


def missed(lines: list[Line]) -> list[Line]:
    return [line for line in lines if not line.holds]


@pytest.mark.django_db(transaction=True)
def test_changed_and_moved_sealed_values_are_refused() -> None:
    assert missed(list(tampering.measured(48))) == []


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_rotation_under_load_that_is_killed_loses_nothing() -> None:
    size = rotation.Size(keys=160, writers=6, readers=6, kills=2)
    assert missed(list(rotation.measured(size))) == []


@pytest.mark.parametrize("name", CANARIES)
def test_every_canary_is_found_in_every_form(name: str) -> None:
    for form in forms_of(CANARIES[name]):
        findings = Findings()
        findings.search("somewhere", b"before " + form + b" after")
        assert findings.leaks, form
    silent = Findings()
    silent.search("somewhere", b"sbx-good-something-else")
    assert silent.leaks == []


def is_there(test: str) -> bool:
    """A file of tests, or one function of it."""
    path, _, name = test.partition("::")
    return (BASE_DIR / path).exists() and (not name or f"def {name}(" in (BASE_DIR / path).read_text())


def test_guards_stand_where_the_list_says() -> None:
    """Which test each one's removal turns red is measured by ``make prove-vault``."""
    gone = [guard.name for guard in GUARDS if not (BASE_DIR / guard.path).exists()]
    assert gone == []
    assert [guard.name for guard in GUARDS if without((BASE_DIR / guard.path).read_text(), guard) is None] == []
    assert [test for guard in GUARDS for test in guard.tests if not is_there(test)] == []
    assert len({guard.name for guard in GUARDS}) == len(GUARDS) >= 40


def test_a_guard_is_taken_out_where_it_is_meant_and_stale_ones_are_noticed() -> None:
    guard = Guard("second", "x.py", "if bad:", "if False:", (), nth=2)
    assert without("if bad:\n1\nif bad:\n2\n", guard) == "if bad:\n1\nif False:\n2\n"
    assert without("if bad:\n1\n", guard) is None
    assert without("if bad:\n1\nif bad:\n2\n", Guard("only", "x.py", "if bad:", "", ())) is None
