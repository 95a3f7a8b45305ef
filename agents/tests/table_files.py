"""Files of tables, for tests."""

from __future__ import annotations

from agents.tables.records import Given


def delimited(text: str, name: str = "a.csv") -> Given:
    return Given(name, "delimited", text.encode())
