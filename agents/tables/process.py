"""The process that reads and queries tables: limited memory and time, no access to files or network.

Reads one line of JSON (``{"files": [{"name", "kind", "size_bytes"}], "query_timeout_s"}``) and the bytes of the files
from stdin, and writes one line: ``{"tables": […], "problems": {file: why}}``. Each further line, ``{"sql"}``, is
answered by one: ``{"columns", "rows", "more"}`` or ``{"error"}``. It ends when stdin does.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, Final

import duckdb

from agents.tables import profiles
from agents.tables.loading import Loaded, first_line, load
from agents.tables.records import Given, NoTable

MEMORY_BYTES: Final = 1536 * 1024 * 1024
DUCKDB_MEMORY: Final = "400MB"
CPU_S: Final = 180
"""For all the work of one turn."""
MAX_SQL_CHARS: Final = 20_000
MAX_ROWS: Final = 200
MAX_COLUMNS: Final = 50
MAX_CELL_CHARS: Final = 300
MAX_TABLES: Final = 40
_EXACT: Final = 2**53
_READS: Final = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    first = json.loads(sys.stdin.buffer.readline())
    given = [Given(each["name"], each["kind"], sys.stdin.buffer.read(each["size_bytes"])) for each in first["files"]]
    sys.modules["pytz"] = _PYTZ
    connection = opened()
    loaded, problems = load_all(connection, given)
    given.clear()
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    lock_down(connection)
    tables = [profiles.of_table(connection, each) for each in loaded]
    _write({"tables": tables, "problems": problems})
    for line in sys.stdin.buffer:
        _write(answer(connection, str(json.loads(line)["sql"]), float(first["query_timeout_s"])))


class _Zone(tzinfo):
    """UTC with pytz's interface, which DuckDB needs for each timestamp it returns."""

    def utcoffset(self, moment: datetime | None) -> timedelta:
        return timedelta()

    dst = utcoffset

    def tzname(self, moment: datetime | None) -> str:
        return "UTC"

    def localize(self, moment: datetime) -> datetime:
        return moment.replace(tzinfo=UTC)


_PYTZ: Final[Any] = SimpleNamespace(utc=_Zone(), timezone=lambda name: _Zone())


def opened() -> duckdb.DuckDBPyConnection:
    settings: dict[str, str | bool | int | float | list[str]] = {
        "threads": 1,
        "memory_limit": DUCKDB_MEMORY,
        "temp_directory": "",
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "allow_community_extensions": False,
        "allow_persistent_secrets": False,
        "home_directory": "/nowhere",
        "secret_directory": "/nowhere",
    }
    return duckdb.connect(":memory:", config=settings)


def lock_down(connection: duckdb.DuckDBPyConnection) -> None:
    """From here on SQL reaches only the tables in memory, and this cannot be undone."""
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def load_all(connection: duckdb.DuckDBPyConnection, files: Sequence[Given]) -> tuple[list[Loaded], dict[str, str]]:
    reserved = "SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category = 'reserved'"
    taken = {str(name) for (name,) in connection.execute(reserved).fetchall()}
    loaded: list[Loaded] = []
    problems: dict[str, str] = {}
    for given in files:
        try:
            found = load(connection, given, taken)
        except NoTable as refusal:
            problems[given.name] = str(refusal)
            continue
        taken.update(each.name for each in found)
        loaded += found
        if len(loaded) > MAX_TABLES:
            problems[given.name] = f"only the first {MAX_TABLES} tables of all files were read"
    return loaded[:MAX_TABLES], problems


def answer(connection: duckdb.DuckDBPyConnection, sql: str, timeout_s: float) -> dict[str, Any]:
    """The result of one read-only statement."""
    try:
        _check(connection, sql)
        with _in_time(connection, timeout_s), _reading(connection):
            cursor = connection.execute(sql)
            columns = [(str(column[0]), str(column[1])) for column in cursor.description or ()]
            rows = cursor.fetchmany(MAX_ROWS + 1)
    except NoTable as refusal:
        return {"error": str(refusal)}
    except duckdb.InterruptException:
        return {"error": f"The query took longer than {timeout_s:g} s and was ended. Ask for less at once."}
    except (duckdb.OutOfMemoryException, MemoryError):
        return {"error": "The query needs more memory than it may have. Ask for less at once."}
    except Exception as error:  # errors of its parser and binder say what is wrong
        return {"error": first_line(error)}
    wide = len(columns) > MAX_COLUMNS
    return {
        "columns": [{"name": name[:100], "type": kind[:60]} for name, kind in columns[:MAX_COLUMNS]],
        "rows": [[plain(cell) for cell in row[:MAX_COLUMNS]] for row in rows[:MAX_ROWS]],
        "more": len(rows) > MAX_ROWS or wide,
    }


def _check(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Uses DuckDB's own parser. Raises NoTable with what to do instead, and duckdb.Error for invalid SQL."""
    if len(sql) > MAX_SQL_CHARS:
        raise NoTable(f"The query is longer than {MAX_SQL_CHARS:,} characters.")
    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        raise NoTable("Give exactly one statement, a SELECT.")
    if statements[0].type not in _READS:
        raise NoTable(f"Only SELECT is allowed here, not {statements[0].type.name}: the tables cannot be changed.")


@contextmanager
def _reading(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """A SELECT may hold an INSERT in its WITH; a read-only transaction refuses it."""
    connection.execute("BEGIN TRANSACTION READ ONLY")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")


@contextmanager
def _in_time(connection: duckdb.DuckDBPyConnection, timeout_s: float) -> Iterator[None]:
    timer = threading.Timer(timeout_s, connection.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def plain(cell: Any) -> Any:
    """As JSON: numbers that JSON can represent as numbers, everything else as text."""
    if cell is None or isinstance(cell, bool):
        return cell
    if isinstance(cell, int) and -_EXACT < cell < _EXACT:
        return cell
    if isinstance(cell, float) and math.isfinite(cell):
        return cell
    if isinstance(cell, Decimal) and cell.is_finite():
        return float(cell) if len(cell.as_tuple().digits) <= 15 else str(cell)
    if isinstance(cell, bytes):
        return f"({len(cell)} bytes)"
    if isinstance(cell, timedelta):
        return str(cell)
    text = json.dumps(cell, ensure_ascii=False, default=str) if isinstance(cell, dict | list) else str(cell)
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= MAX_CELL_CHARS else f"{text[:MAX_CELL_CHARS]}…"


def _write(value: dict[str, Any]) -> None:
    # The file size limit does not apply to a pipe.
    sys.stdout.buffer.write(json.dumps(value).encode() + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
