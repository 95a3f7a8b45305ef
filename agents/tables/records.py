"""Turns rows of Python values, from JSON or a workbook, into a typed DuckDB table. Runs in ``process``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import IO, Any, Final, Literal

MAX_CELLS: Final = 3_000_000
MAX_COLUMNS: Final = 500
MAX_PARTS: Final = 20
"""Tables per file."""
_INT64: Final = 2**63


class NoTable(Exception):
    """No table can be read; the text tells people and models why."""


@dataclass(frozen=True)
class Given:
    """A file as the process gets it."""

    name: str
    """Unique within a turn."""
    kind: Literal["delimited", "json", "workbook", "parquet"]
    data: bytes
    """Text is UTF-8."""


@dataclass
class Rows:
    name: str
    """Name of the sheet or key; empty if the file holds one table."""
    columns: list[str]
    cells: Sequence[Sequence[Any]]


def of_json(text: str) -> list[Rows]:
    """Raises NoTable."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return [_of_records("", _lines(text))]
    if isinstance(value, dict):
        return _of_object(value)
    if not isinstance(value, list) or not value:
        raise NoTable("it holds no records")
    return [_of_list("", value)]


def is_json_lines(text: str) -> bool:
    """Whether the first lines are JSON objects, one each."""
    first = [line for line in text[:200_000].split("\n")[:3] if line.strip()]
    if len(text) > 200_000:
        first = first[:1]
    try:
        return bool(first) and all(isinstance(json.loads(line), dict) for line in first)
    except (ValueError, RecursionError):
        return False


def _lines(text: str) -> list[dict[str, Any]]:
    records = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            raise NoTable(f"its line {number} is no JSON") from None
        records.append(record if isinstance(record, dict) else {"value": record})
    if not records:
        raise NoTable("it holds no records")
    return records


def _of_object(value: dict[str, Any]) -> list[Rows]:
    lists = {str(key): each for key, each in value.items() if isinstance(each, list) and each}
    are_columns = lists and len(lists) == len(value) and len({len(each) for each in lists.values()}) == 1
    if are_columns and not any(isinstance(item, dict | list) for each in lists.values() for item in each):
        return [Rows("", _checked_columns([*lists]), list(zip(*lists.values(), strict=True)))]
    tables = [_of_list(key, each) for key, each in lists.items() if all(isinstance(item, dict | list) for item in each)]
    return tables[:MAX_PARTS] or [_of_records("", [value])]


def _of_list(name: str, items: list[Any]) -> Rows:
    if all(isinstance(item, dict) for item in items):
        return _of_records(name, items)
    if all(isinstance(item, list) for item in items):
        return with_header(name, items)
    return _of_records(name, [item if isinstance(item, dict) else {"value": item} for item in items])


def _of_records(name: str, records: list[dict[str, Any]]) -> Rows:
    columns = list(dict.fromkeys(str(key) for record in records for key in record))
    _checked_size(len(records), columns)
    return Rows(name, _checked_columns(columns), [tuple(record.get(key) for key in columns) for record in records])


def with_header(name: str, rows: Iterable[Sequence[Any]]) -> Rows:
    """The first row names the columns if its cells are all text and unique. Raises NoTable."""
    kept = [row for row in rows if any(cell not in (None, "") for cell in row)]
    width = max((len(row) for row in kept), default=0)
    if not width:
        raise NoTable("it is empty")
    first = [*kept[0], *[None] * (width - len(kept[0]))]
    named = [cell for cell in first if cell not in (None, "")]
    header = all(isinstance(cell, str) for cell in named) and len(set(named)) == len(named)
    columns = [str(cell) if header and cell else f"column{number}" for number, cell in enumerate(first, 1)]
    cells = [[*row, *[None] * (width - len(row))] for row in (kept[1:] if header else kept)]
    _checked_size(len(cells), columns)
    return Rows(name, _checked_columns(columns), cells)


def _checked_size(rows: int, columns: Sequence[str]) -> None:
    if rows * len(columns) > MAX_CELLS:
        raise NoTable(f"it has more than {MAX_CELLS:,} cells; save the part that matters as CSV or Parquet")


def _checked_columns(columns: list[str]) -> list[str]:
    if len(columns) > MAX_COLUMNS:
        raise NoTable(f"it has {len(columns):,} columns; at most {MAX_COLUMNS} fit")
    return columns


def typed(rows: Rows) -> tuple[list[str], Iterator[str]]:
    """(DuckDB's type of each column, the lines of a CSV of them)"""
    types = [_type_of(row[index] for row in rows.cells) for index in range(len(rows.columns))]
    return types, (",".join(_cell(cell, kind) for cell, kind in zip(row, types, strict=True)) for row in rows.cells)


def write(rows: Iterator[str], file: IO[bytes]) -> None:
    for line in rows:
        file.write(line.encode("utf-8", "replace") + b"\n")
    file.flush()


def _type_of(cells: Iterable[Any]) -> str:
    kinds: set[type] = set()
    whole_days = large = False
    for cell in cells:
        if cell is None:
            continue
        kinds.add(type(cell))
        if isinstance(cell, datetime):
            whole_days = whole_days or cell.time() != time()
        elif isinstance(cell, int):
            large = large or not -_INT64 <= cell < _INT64
    if kinds == {bool}:
        return "BOOLEAN"
    if kinds and kinds <= {int, float}:
        return "BIGINT" if kinds == {int} and not large else "DOUBLE"
    if kinds and kinds <= {datetime, date}:
        return "TIMESTAMP" if whole_days else "DATE"
    return "TIME" if kinds == {time} else "VARCHAR"


def _cell(cell: Any, kind: str) -> str:
    if cell is None:
        return "\\N"
    if isinstance(cell, datetime) and kind == "DATE":
        cell = cell.date()
    if isinstance(cell, dict | list):
        cell = json.dumps(cell, ensure_ascii=False)
    elif isinstance(cell, bool):
        cell = str(cell).lower()
    return '"' + str(cell).replace("\0", "").replace('"', '""') + '"'
