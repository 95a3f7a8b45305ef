"""Sum the ledger by days; Celery beat does the same twice an hour."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from llm_credentials.ledger import rollups
from llm_credentials.management.moments import moment


class Command(BaseCommand):
    help = "Sum the ledger by days, for the pages and reports about usage. Running it again changes nothing."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--since", type=moment, metavar="DATE", help="sum every closed day from this one on anew (UTC)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        since: datetime | None = options["since"]
        days = rollups.roll_up(since=since.astimezone(UTC).date() if since else None)
        if not days:
            self.stdout.write("No day to sum.")
        else:
            self.stdout.write(f"{len(days)} day{'' if len(days) == 1 else 's'} summed, {days[0]} to {days[-1]}.")
