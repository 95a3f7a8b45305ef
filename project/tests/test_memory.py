"""Where processes of one machine count together: in memory, and gone with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from project import memory


@pytest.fixture
def shm(tmp_path: Path) -> Path:
    (tmp_path / "shm").mkdir()
    return tmp_path / "shm"


def test_folder_lies_in_memory_and_nobody_else_may_look(tmp_path: Path, shm: Path) -> None:
    folder = memory.fresh_folder(tmp_path / "metrics", shm)
    assert folder.parent == shm
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "metrics").resolve() == folder


def test_folder_that_a_killed_start_left_is_removed_by_the_next(tmp_path: Path, shm: Path) -> None:
    left = memory.fresh_folder(tmp_path / "metrics", shm)
    (left / "counter_1.db").write_bytes(b"old")
    folder = memory.fresh_folder(tmp_path / "metrics", shm)
    assert [*shm.iterdir()] == [folder]
    assert not any(folder.iterdir())
    memory.remove_folder(tmp_path / "metrics", shm)
    assert not any(shm.iterdir())
    assert not (tmp_path / "metrics").is_symlink()


@pytest.mark.parametrize("why", ["none", "small"])
def test_folder_lies_on_the_disk_where_there_is_no_memory(
    why: str, tmp_path: Path, shm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why == "none":
        shm.rmdir()
    else:
        monkeypatch.setattr(memory, "ROOM_BYTES", 1 << 60)
    link = tmp_path / "metrics"
    link.mkdir()
    (link / "counter_1.db").write_bytes(b"of an earlier start, on the disk")
    assert memory.fresh_folder(link, shm) == link
    assert link.is_dir()
    assert not any(link.iterdir())


def test_a_link_to_elsewhere_is_not_followed(tmp_path: Path, shm: Path) -> None:
    elsewhere = tmp_path / "mine"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    link = tmp_path / "metrics"
    link.symlink_to(elsewhere)
    assert memory.fresh_folder(link, shm).parent == shm
    assert (elsewhere / "kept").exists()
