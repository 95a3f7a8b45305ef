"""Close what a crash left open in the ledger; Celery beat does the same twice a minute."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from llm_credentials.ledger import books


class Command(BaseCommand):
    help = "Close attempts whose end nobody wrote down, at their worst case, as estimates."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--older-than",
            type=float,
            default=books.LOST_AFTER_S,
            metavar="SECONDS",
            help="only attempts begun at least so long ago (default: %(default)s)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        older_than_s: float = options["older_than"]
        if not 0 <= older_than_s < 10**9:
            raise CommandError("--older-than takes a number of seconds, 0 or more.")
        closed = books.sweep(older_than_s)
        self.stdout.write(f"{closed} open attempt{'' if closed == 1 else 's'} closed as estimated.")
