"""``manage.py audit_archive``: move old events into a sealed file; the chains still hold."""

from __future__ import annotations

from argparse import ArgumentParser
from datetime import datetime
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from llm_credentials import keyring
from llm_credentials.audit.archive import ArchiveRefused, archive
from llm_credentials.management.moments import moment


class Command(BaseCommand):
    help = "Write audit events older than a date to a file, and remove them from the database."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--before", type=moment, required=True, metavar="DATE")
        parser.add_argument("--to", type=Path, required=True, metavar="FILE", help="Must not exist yet.")

    def handle(self, *, before: datetime, to: Path, **options: Any) -> None:
        try:
            done = archive(before=before, path=to)
        except keyring.KeyringError as error:
            raise CommandError(f"{error} {error.hint}") from None
        except ArchiveRefused as refused:
            raise CommandError(str(refused)) from None
        except OSError as error:
            raise CommandError(f"{to} cannot be written: {error.strerror}.") from None
        if not done.events:
            self.stdout.write("There is nothing so old.")
            return
        self.stdout.write(f"{done.events} events archived to {to}, SHA-256 {done.sha256}.")
