from __future__ import annotations

from pathlib import Path

import pytest

from project.tests import run

UNSTEADY = """
from pathlib import Path

def test_steady():
    pass

def test_unsteady():
    seen = Path("seen")
    first = not seen.exists()
    seen.touch()
    assert not first
"""


def suite_of(checkout: Path, text: str) -> run.Pass:
    """Those, run without what this project's tests need."""
    (checkout / "test_one.py").write_text(text)
    tests = run.Pass("One", ["-q", "-p", "xdist.plugin"], {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})
    tests.run()
    return tests


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose tests are run; its own cache."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    monkeypatch.setattr(run, "BASE_DIR", tmp_path)
    monkeypatch.setattr(run, "FAILED_BEFORE", tmp_path / ".pytest_cache/v/cache/lastfailed")
    return tmp_path


def test_run_names_what_fails_among_others_only(checkout: Path) -> None:
    tests = suite_of(checkout, UNSTEADY)
    assert tests.code == 0
    assert tests.unsteady == ["test_one.py::test_unsteady"]
    assert "1 failed, 1 passed" in tests.closing_line and "; by itself: 1 passed" in tests.closing_line


def test_run_fails_with_what_fails_by_itself_too(checkout: Path) -> None:
    tests = suite_of(checkout, "def test_wrong():\n    assert 17 * 23 == 390\n")
    assert (tests.code, tests.unsteady) == (1, [])


def test_run_takes_many_failures_for_no_coincidence(checkout: Path) -> None:
    many = "import pytest\n" + UNSTEADY.replace('Path("seen")', 'Path(f"seen-{n}")').replace(
        "def test_unsteady():", f"@pytest.mark.parametrize('n', range({run.AGAIN_MAX + 1}))\ndef test_unsteady(n):"
    )
    tests = suite_of(checkout, many)
    assert (tests.code, tests.unsteady) == (1, [])


def test_run_ends_what_is_never_over(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "PASS_LIMIT_S", 2.0)
    endless = "import subprocess\ndef test_endless():\n    subprocess.run(['sleep', '600'])\n"
    tests = suite_of(checkout, endless)
    assert tests.code != 0
    assert tests.unsteady == []


def test_run_fails_when_tests_cannot_be_read(checkout: Path) -> None:
    tests = suite_of(checkout, "import nothing_like_it\n")
    assert tests.code != 0
