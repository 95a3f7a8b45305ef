"""Query results as they are stored, given to the model and shown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, Literal

from pydantic import BaseModel

from agents.texts import markdown_escaped, one_line

TOLD_ROWS: Final = 60
TOLD_CHARS: Final = 8_000
KEPT_CHARS: Final = 60_000
"""For the cells of one result."""
PROFILE_CHARS: Final = 12_000
"""For all tables, in the prompt; ``describe`` gives the rest."""
DESCRIBED_CHARS: Final = 16_000
SHOWN_ROWS: Final = 20
MAX_BARS: Final = 60
MAX_SERIES: Final = 6

Cell = bool | int | float | str | None
_NUMERIC: Final = re.compile(r"^(?:U?(?:TINY|SMALL|BIG|HUGE)?INT(?:EGER)?|FLOAT|DOUBLE|DECIMAL.*)$")


class Column(BaseModel):
    name: str
    type: str

    @property
    def is_number(self) -> bool:
        return _NUMERIC.match(self.type) is not None


class ProfiledColumn(Column):
    nulls: int | None = None
    distinct: int | None = None
    """Approximate. None, like the other statistics, for an unprofiled column."""
    min: str | None = None
    max: str | None = None
    samples: list[str | None] = []


class Table(BaseModel):
    name: str
    file: str
    part: str
    rows: int
    columns: list[ProfiledColumn]

    def described(self, room_chars: int) -> str:
        source = f"{self.file}, {self.part}" if self.part else self.file
        lines = [f"Table {self.name} (from {one_line(source)}): {self.rows:,} rows, {len(self.columns)} columns"]
        room = room_chars - len(lines[0])
        for number, column in enumerate(self.columns):
            line = _described(column)
            room -= len(line) + 1
            if room < 0:
                lines.append(f"- and {len(self.columns) - number} more columns: see describe({self.name!r})")
                break
            lines.append(line)
        return "\n".join(lines)


class Found(BaseModel):
    """The answer to one query."""

    title: str
    sql: str
    columns: list[Column]
    rows: list[list[Cell]]
    more: bool
    """Whether there were more rows than are kept."""

    @classmethod
    def of(cls, answer: dict[str, Any], *, title: str, sql: str) -> Found:
        rows, room = [], KEPT_CHARS
        for row in answer["rows"]:
            room -= sum(len(str(cell)) for cell in row)
            if room < 0:
                break
            rows.append(row)
        more = bool(answer["more"]) or len(rows) < len(answer["rows"])
        return cls(title=one_line(title), sql=sql.strip(), columns=answer["columns"], rows=rows, more=more)

    def told(self) -> str:
        """As the model reads it."""
        head = "\t".join(one_line(column.name) for column in self.columns)
        lines, room = [], TOLD_CHARS
        for row in self.rows[:TOLD_ROWS]:
            line = "\t".join("NULL" if cell is None else one_line(str(cell)) for cell in row)
            room -= len(line) + 1
            if room < 0:
                break
            lines.append(line)
        left = len(self.rows) - len(lines)
        more = (
            f"\n({left} more rows are shown to the user{', and there are others' if self.more else ''})" if left else ""
        )
        if not left and self.more:
            more = "\n(There is more than this; aggregate, or ask for less.)"
        return f"{len(lines)} rows:\n{head}\n" + "\n".join(lines) + more

    def as_markdown(self) -> str:
        head = [markdown_escaped(column.name) for column in self.columns]
        lines = [head, ["---:" if column.is_number else "---" for column in self.columns]]
        lines += [
            ["" if cell is None else markdown_escaped(str(cell)) for cell in row] for row in self.rows[:SHOWN_ROWS]
        ]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


class Series(BaseModel):
    name: str
    values: list[float | None]


class ChartData(BaseModel):
    title: str
    kind: Literal["bar", "line"]
    label: str
    """Meaning of the labels: the name of the first column."""
    labels: list[str]
    series: list[Series]
    sql: str

    @classmethod
    def of(cls, found: Found, kind: Literal["bar", "line"]) -> ChartData:
        """First column: labels; numeric columns after it: series. Raises ValueError with what to do instead."""
        numeric = [index for index, column in enumerate(found.columns) if index and column.is_number]
        if not found.rows or not numeric:
            raise ValueError("Nothing to draw: give a first column with labels, then columns with numbers, and rows.")
        if len(numeric) > MAX_SERIES:
            raise ValueError(f"A chart holds at most {MAX_SERIES} series; choose fewer columns.")
        if found.more or (kind == "bar" and len(found.rows) > MAX_BARS):
            raise ValueError(f"Too many rows for a chart: at most {MAX_BARS} bars, 200 points of a line. Aggregate.")
        labels = ["?" if row[0] is None else one_line(str(row[0]))[:60] for row in found.rows]
        series = [
            Series(name=one_line(found.columns[index].name)[:60], values=[_number(row[index]) for row in found.rows])
            for index in numeric
        ]
        if not any(value is not None for one in series for value in one.values):
            raise ValueError("Nothing to draw: there is no number in the result.")
        label = one_line(found.columns[0].name)[:60]
        return cls(title=found.title, kind=kind, label=label, labels=labels, series=series, sql=found.sql)


def described(tables: Sequence[Table]) -> str:
    """All tables, for the prompt."""
    room = PROFILE_CHARS // max(1, len(tables))
    return "\n\n".join(table.described(max(room, 300)) for table in tables)


def _described(column: ProfiledColumn) -> str:
    said = [f"- {one_line(column.name)!r} {column.type}"]
    if column.nulls is not None:
        said.append(f"{column.nulls:,} empty" if column.nulls else "never empty")
        said.append(f"about {column.distinct:,} different")
    if column.min is not None:
        said.append(f"from {column.min!r} to {column.max!r}")
    if column.samples:
        said.append("such as " + ", ".join(repr(sample) for sample in column.samples))
    return ", ".join(said)


def _number(cell: Cell) -> float | None:
    return float(cell) if isinstance(cell, int | float) and not isinstance(cell, bool) else _from_text(cell)


def _from_text(cell: Cell) -> float | None:
    """From a long DECIMAL or HUGEINT, which is stored as text to keep its last digits."""
    try:
        return float(cell) if isinstance(cell, str) else None
    except ValueError:
        return None
