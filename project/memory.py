"""A folder in memory for this checkout, for memory-mapped files that must not depend on free disk space."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Final

MEMORY: Final = Path("/dev/shm")  # noqa: S108 (a disk in memory, where there is one)
PREFIX: Final = "keyswitch-"
ROOM_BYTES: Final = 32 << 20
"""Containers have a small one by default; with less room than this, the disk is used."""


def fresh_folder(link: Path, memory: Path = MEMORY) -> Path:
    """An empty folder in memory, or the folder ``link`` itself if no memory is available.

    ``link`` points to it, so that the next start can remove what a killed process left.
    """
    remove_folder(link, memory)
    try:
        if shutil.disk_usage(memory).free < ROOM_BYTES:
            raise OSError("too small")
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=memory))
    except OSError:
        link.mkdir(mode=0o700)
        return link
    link.symlink_to(folder)
    return folder


def remove_folder(link: Path, memory: Path = MEMORY) -> None:
    """Follows the link only to folders made by ``fresh_folder``, never elsewhere."""
    if not link.is_symlink():
        shutil.rmtree(link, ignore_errors=True)
        return
    folder = link.readlink()
    if folder.parent == memory and folder.name.startswith(PREFIX) and not folder.is_symlink():
        shutil.rmtree(folder, ignore_errors=True)
    link.unlink()
