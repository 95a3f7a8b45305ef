"""Profiles a table: its columns, their null and distinct counts, and a few rows. Runs in ``process``."""

from __future__ import annotations

from typing import Any, Final

import duckdb

from agents.tables.loading import Loaded, quoted

SAMPLES: Final = 3
SAMPLE_CHARS: Final = 60
PROFILED: Final = 100
"""Columns of a table that are profiled."""


def of_table(connection: duckdb.DuckDBPyConnection, loaded: Loaded) -> dict[str, Any]:
    """In the format of ``results.Table``; columns past the first hundred have name and type alone."""
    described = connection.execute(f"SELECT * FROM {quoted(loaded.name)} LIMIT 0").description or []
    columns = [{"name": str(column[0]), "type": str(column[1])} for column in described]
    counted = connection.execute(f"SELECT count(*) FROM {quoted(loaded.name)}").fetchone()
    rows = int(counted[0]) if counted else 0
    known = columns[:PROFILED]
    try:
        looked = [one | _of_column(connection, loaded.name, one["name"], rows) for one in known]
    except duckdb.Error:  # incomparable type or too much data: names and types suffice for queries
        looked = [dict(one) for one in known]
    return {
        "name": loaded.name,
        "file": loaded.file,
        "part": loaded.part,
        "rows": rows,
        "columns": [*looked, *columns[PROFILED:]],
    }


def _of_column(connection: duckdb.DuckDBPyConnection, table: str, column: str, rows: int) -> dict[str, Any]:
    name = quoted(column)
    found = connection.execute(
        f"SELECT count({name}), approx_count_distinct({name}), min({name})::VARCHAR, max({name})::VARCHAR "
        f"FROM {quoted(table)}"
    ).fetchone()
    assert found is not None, "an aggregate without groups has one row"
    filled, distinct, least, most = found
    samples = connection.execute(
        f"SELECT DISTINCT {name}::VARCHAR FROM (SELECT {name} FROM {quoted(table)} WHERE {name} IS NOT NULL LIMIT 50) "
        f"ORDER BY 1 LIMIT {SAMPLES}"
    ).fetchall()
    return {
        "nulls": rows - int(filled),
        "distinct": min(int(distinct), int(filled)),
        "min": _cut(least),
        "max": _cut(most),
        "samples": [_cut(sample) for (sample,) in samples],
    }


def _cut(value: str | None) -> str | None:
    if value is None:
        return None
    text = " ".join(value.encode("utf-8", "replace").decode().split())
    return text if len(text) <= SAMPLE_CHARS else f"{text[:SAMPLE_CHARS]}…"
