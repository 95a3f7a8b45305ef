"""Loads files as tables of an in-memory DuckDB. Runs in ``process``, before it is locked down."""

from __future__ import annotations

import csv
import io
import re
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Final

import duckdb

from agents.tables import records, workbooks
from agents.tables.records import MAX_COLUMNS, Given, NoTable, Rows

MAX_LINE_BYTES: Final = 8 * 1024 * 1024
NAME_CHARS: Final = 60
_LENIENT: Final = f"quote='\"', escape='\"', null_padding=true, strict_mode=false, max_line_size={MAX_LINE_BYTES}"
"""Accepts lines with missing or extra cells."""
_NOT_IN_NAMES: Final = re.compile(r"[^a-z0-9]+")
_NUMBER: Final = re.compile(r"[-+]?[\d.,\s%]+")


@dataclass(frozen=True)
class Loaded:
    name: str
    """Name of the table in SQL."""
    file: str
    part: str
    """Sheet or key, if the file holds several."""


def load(connection: duckdb.DuckDBPyConnection, given: Given, taken: Collection[str]) -> list[Loaded]:
    """Raises NoTable."""
    try:
        match given.kind:
            case "delimited":
                return [_delimited(connection, given, taken)]
            case "parquet":
                return [_parquet(connection, given, taken)]
            case "workbook":
                parts = workbooks.of_workbook(given.data)
            case _:
                parts = records.of_json(given.data.decode())
        return _parts(connection, given, parts, taken)
    except (MemoryError, duckdb.OutOfMemoryException):
        raise NoTable("it unpacks to more than fits into memory") from None
    except duckdb.Error as error:
        raise NoTable(f"it could not be read: {first_line(error)}") from None


def _parts(
    connection: duckdb.DuckDBPyConnection, given: Given, parts: list[Rows], taken: Collection[str]
) -> list[Loaded]:
    loaded: list[Loaded] = []
    for rows in parts:
        words = given.name.rpartition(".")[0] or given.name
        name = free_name(f"{words} {rows.name}" if len(parts) > 1 else words, [*taken, *(one.name for one in loaded)])
        types, lines = records.typed(rows)
        named = zip(column_names(rows.columns), types, strict=True)
        columns = ", ".join(f"{literal(column)}: '{kind}'" for column, kind in named)
        with _as_path() as (file, path):
            records.write(lines, file)
            connection.execute(
                f"CREATE TABLE {quoted(name)} AS SELECT * FROM read_csv(?, columns={{{columns}}}, header=false, "
                f"auto_detect=false, delim=',', quote='\"', escape='\"', nullstr='\\N', allow_quoted_nulls=false, "
                f"parallel=false, max_line_size={MAX_LINE_BYTES})",
                [path],
            )
        loaded.append(Loaded(name, given.name, rows.name if len(parts) > 1 else ""))
    return loaded


def _delimited(connection: duckdb.DuckDBPyConnection, given: Given, taken: Collection[str]) -> Loaded:
    name = free_name(given.name.rpartition(".")[0] or given.name, taken)
    if not given.data.strip():
        raise NoTable("it is empty")
    with _as_path() as (file, path):
        file.write(given.data)
        file.flush()
        delimiter, header = _shape(connection, path, given.data)
        options = (
            f"delim={literal(delimiter)}, header={str(header).lower()}, sample_size=-1, parallel=false, {_LENIENT}"
        )
        make = f"CREATE TABLE {quoted(name)} AS SELECT * FROM read_csv(?, {options}"
        try:
            connection.execute(f"{make})", [path])
        except (duckdb.ConversionException, duckdb.InvalidInputException):
            connection.execute(f"{make}, all_varchar=true)", [path])
    _check_width(connection, name)
    return Loaded(name, given.name, "")


def _shape(connection: duckdb.DuckDBPyConnection, path: str, data: bytes) -> tuple[str, bool]:
    """(delimiter, whether the first line names the columns)"""
    found = connection.execute(f"SELECT Delimiter, HasHeader, Columns FROM sniff_csv(?, {_LENIENT})", [path]).fetchone()
    if found is None:
        raise NoTable("it holds no rows")
    delimiter, header, columns = found
    first = data.split(b"\n", 1)[0].decode("utf-8", "replace")[:100_000]
    if not header and all(str(column["type"]) == "VARCHAR" for column in columns):
        # All columns are text: take the first line as names if they could be names.
        cells = next(csv.reader(io.StringIO(first), delimiter=delimiter or ","), [])
        header = len(set(cells)) == len(cells) and all(cell.strip() and not _NUMBER.fullmatch(cell) for cell in cells)
    return str(delimiter or ","), bool(header)


def _parquet(connection: duckdb.DuckDBPyConnection, given: Given, taken: Collection[str]) -> Loaded:
    name = free_name(given.name.rpartition(".")[0] or given.name, taken)
    with _as_path() as (file, path):
        file.write(given.data)
        file.flush()
        connection.execute(f"CREATE TABLE {quoted(name)} AS SELECT * FROM read_parquet(?)", [path])
    _check_width(connection, name)
    return Loaded(name, given.name, "")


def _check_width(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    width = len(connection.execute(f"SELECT * FROM {quoted(name)} LIMIT 0").description or ())
    if width > MAX_COLUMNS:
        connection.execute(f"DROP TABLE {quoted(name)}")
        raise NoTable(f"it has {width:,} columns; at most {MAX_COLUMNS} fit")


def column_names(names: list[str]) -> list[str]:
    """Readable column names, unique regardless of case."""
    taken: dict[str, str] = {}
    for number, name in enumerate(names, 1):
        plain = " ".join("".join(letter if letter.isprintable() else " " for letter in name).split())[:NAME_CHARS]
        free, again = plain or f"column{number}", 2
        while free.casefold() in taken:
            free, again = f"{plain or 'column'}_{again}", again + 1
        taken[free.casefold()] = free
    return list(taken.values())


@contextmanager
def _as_path() -> Iterator[tuple[IO[bytes], str]]:
    """A file without a name on disk, so that it leaves nothing behind, and a path by which DuckDB can open it."""
    with tempfile.TemporaryFile() as file:
        yield file, f"/dev/fd/{file.fileno()}"


def free_name(words: str, taken: Collection[str]) -> str:
    """A name that needs no quotes in SQL: ``Sales 2024.csv`` → ``sales_2024``."""
    plain = _NOT_IN_NAMES.sub("_", words.casefold()).strip("_")[:NAME_CHARS] or "data"
    plain = f"t_{plain}" if plain[0].isdigit() else plain
    free, number = plain, 2
    while free in taken:
        free, number = f"{plain}_{number}", number + 1
    return free


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def first_line(error: Any) -> str:
    """DuckDB's message without its position marker, internal details and paths of this machine."""
    said = str(error).strip().split("\n\n")[0].partition("Traceback (most")[0].replace("\n", " ")
    return re.sub(r'"?/(?:dev/fd|root|home|tmp)[^\s"]*"?', "the file", said)[:500]
