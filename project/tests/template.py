"""One migrated database for the test processes of a run: the first process creates it, the others copy it."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connection

from project import env

FOLDER = "TEST_RUN"
"""Environment variable with the folder that the processes of a run share. Without it each creates its own database."""


@contextmanager
def folder_of_the_run() -> Iterator[str]:
    """Named after this process, so that databases left over in PostgreSQL can be recognised."""
    folder = Path(tempfile.gettempdir()) / f"keyswitch-run-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield str(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def copy_where_one_is_made() -> None:
    """From now on Django's ``create_test_db`` migrates only what no other process of this run has migrated yet."""
    if not env.outer(FOLDER):
        return
    folder, creation = Path(env.outer(FOLDER)), connection.creation
    migrated = creation.create_test_db
    template = _sqlite if connection.vendor == "sqlite" else _postgresql

    def create(*args: Any, **options: Any) -> str:
        made = folder / f"{connection.vendor}.made"
        with (folder / f"{connection.vendor}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if made.exists():
                name = str(creation._get_test_db_name())
                template(folder, name, back=True)
                settings.DATABASES[connection.alias]["NAME"] = connection.settings_dict["NAME"] = name
            else:
                name = str(migrated(*args, **options))
                template(folder, name, back=False)
                made.touch()
        connection.ensure_connection()
        return name

    creation.create_test_db = create


def _sqlite(folder: Path, name: str, *, back: bool) -> None:
    connection.close()
    kept = folder / "migrated.sqlite3"
    if back:
        remove_logs(name)
        shutil.copyfile(kept, name)
        return
    with closing(sqlite3.connect(name)) as database:
        database.execute("VACUUM INTO ?", [str(kept)])


def remove_logs(name: str) -> None:
    """Remove the files that SQLite leaves beside a database deleted while threads have it open. A later process with
    the same number would otherwise take them for its own database's.
    """
    for log in (f"{name}-wal", f"{name}-shm"):
        Path(log).unlink(missing_ok=True)


def _postgresql(folder: Path, name: str, *, back: bool) -> None:
    connection.close()  # the server copies no database that is in use
    kept = f"test_keyswitch_{folder.name.rpartition('-')[2]}_template"
    source, target = (kept, name) if back else (name, kept)
    with connection.creation._nodb_cursor() as cursor:
        cursor.execute(f'DROP DATABASE IF EXISTS "{target}"')
        cursor.execute(f'CREATE DATABASE "{target}" TEMPLATE "{source}"')
