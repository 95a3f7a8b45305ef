"""Events as text, for other systems and for archives."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Final, Literal

from django.db.models import QuerySet

from llm_credentials.models import AuditEvent

Format = Literal["jsonl", "csv"]

FIELDS: Final = (
    *("id", "shard", "seq", "at", "actor", "subject", "action", "target", "result"),
    *("ip", "request_id", "channel", "key_id", "previous", "mac"),
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def selected(
    *, since: datetime | None = None, until: datetime | None = None, subject: str | None = None
) -> QuerySet[AuditEvent]:
    rows = AuditEvent.objects.order_by("at", "shard", "seq")
    if since is not None:
        rows = rows.filter(at__gte=since)
    if until is not None:
        rows = rows.filter(at__lt=until)
    return rows if subject is None else rows.filter(subject=subject)


def lines(events: Iterable[AuditEvent], form: Format) -> Iterator[str]:
    """One line per event, with its line end; CSV starts with a header."""
    if form == "jsonl":
        for event in events:
            yield json.dumps(as_json(event)) + "\n"
        return
    yield _csv_line(FIELDS)
    for event in events:
        yield _csv_line(str(value) for value in as_json(event).values())


def as_json(event: AuditEvent) -> dict[str, str | int]:
    values = {name: getattr(event, name) for name in FIELDS}
    return values | {"id": str(event.pk), "at": event.at.astimezone(UTC).isoformat(timespec="microseconds")}


def _csv_line(values: Iterable[str]) -> str:
    line = io.StringIO()
    # Spreadsheets evaluate values that start like a formula.
    csv.writer(line, lineterminator="\n").writerow(f"'{v}" if v.startswith(_FORMULA) else v for v in values)
    return line.getvalue()
