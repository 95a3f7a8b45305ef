"""``manage.py audit_export``: audit events as JSON Lines or CSV."""

from __future__ import annotations

from argparse import ArgumentParser
from datetime import datetime
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from llm_credentials.audit.export import Format, lines, selected
from llm_credentials.management.moments import moment


class Command(BaseCommand):
    help = "Print audit events, oldest first."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--format", dest="form", choices=("jsonl", "csv"), default="jsonl")
        parser.add_argument("--from", dest="since", type=moment, metavar="DATE")
        parser.add_argument("--until", type=moment, metavar="DATE")
        parser.add_argument("--subject", metavar="ID", help="Only events of this user's keys and account.")
        parser.add_argument("--to", type=Path, metavar="FILE", help="Instead of standard output.")

    def handle(
        self,
        *,
        form: Format,
        since: datetime | None,
        until: datetime | None,
        subject: str | None,
        to: Path | None,
        **options: Any,
    ) -> None:
        rows = selected(since=since, until=until, subject=subject).iterator(chunk_size=1000)
        if to is None:
            for line in lines(rows, form):
                self.stdout.write(line, ending="")
            return
        try:
            with to.open("x", encoding="utf-8") as file:
                file.writelines(lines(rows, form))
        except OSError as error:
            raise CommandError(f"{to} cannot be written: {error.strerror}.") from None
