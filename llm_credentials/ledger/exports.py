"""Exports usage line by line: one line for each day, provider, model, task and key."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

import orjson

from llm_credentials.ledger.aggregates import TOKENS, Sums
from llm_credentials.ledger.labels import Labels
from llm_credentials.ledger.reports import DIMENSIONS, Report

FIGURES: Final = ("requests", "errors", "estimated", "unpriced", *TOKENS)
COLUMNS: Final = (
    *("day", "provider", "model", "task", "key", "key_owner", *FIGURES),
    *("cost_usd", "mean_latency_ms", "p50_latency_ms", "p95_latency_ms", "mean_ttft_ms"),
)
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""Leading characters that make a spreadsheet treat a cell as a formula."""


def figures_of(sums: Sums) -> dict[str, Any]:
    """JSON values. The cost is an exact decimal as text, of requests with a known cost; null if there are none."""
    cost = sums.cost_usd
    return {
        **{name: getattr(sums, name) for name in FIGURES},
        "cost_usd": None if cost is None else format(cost, "f"),
        "mean_latency_ms": _whole(sums.mean_latency_ms),
        "p50_latency_ms": sums.p50_ms,
        "p95_latency_ms": sums.p95_ms,
        "mean_ttft_ms": _whole(sums.mean_ttft_ms),
    }


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def key_of(key: dict[str, Any], labels: Labels) -> dict[str, Any]:
    """The requested dimensions as JSON values; a key by its name."""
    found: dict[str, Any] = {}
    for name in DIMENSIONS:
        if name == "credential_id" and name in key:
            found["key"] = labels.key(key[name], key["key_owner"])
        elif name in key:
            found[name] = key[name].isoformat() if name == "day" else key[name]
    return found


async def csv_lines(report: Report, labels: Labels) -> AsyncIterator[bytes]:
    yield csv_line(COLUMNS)
    async for key, sums in report.lines():
        values = key_of(key, labels) | figures_of(sums)
        yield csv_line(values[name] for name in COLUMNS)


async def json_lines(report: Report, labels: Labels) -> AsyncIterator[bytes]:
    """One JSON array, with one object per line."""
    before = b"[\n"
    async for key, sums in report.lines():
        yield before + orjson.dumps(key_of(key, labels) | figures_of(sums))
        before = b",\n"
    yield b"[]\n" if before == b"[\n" else b"\n]\n"


def csv_line(cells: Iterable[Any]) -> bytes:
    line = io.StringIO()
    csv.writer(line).writerow(_harmless(cell) for cell in cells)
    return line.getvalue().encode()


def _harmless(cell: Any) -> Any:
    """An apostrophe before text that a spreadsheet would treat as a formula."""
    if isinstance(cell, str) and cell.lstrip(" ").startswith(_FORMULA):
        return f"'{cell}"
    return cell
