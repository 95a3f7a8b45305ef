"""``manage.py audit_verify``: does the audit trail hold? Names the first broken row of each chain."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from datetime import datetime
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from llm_credentials import keyring
from llm_credentials.audit.archived import fault_in
from llm_credentials.audit.ends import Ends, EndsUnfit, keep, kept
from llm_credentials.audit.verify import Report, check, verify
from llm_credentials.management.moments import moment


class Command(BaseCommand):
    help = "Check every chain of the audit trail. Exit code 1 if a row was changed, removed, moved or put in."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--from", dest="since", type=moment, metavar="DATE", help="Only from this day or time on.")
        parser.add_argument("--archive", type=Path, metavar="FILE", help="Check this archive in place of the database.")
        parser.add_argument("--ends", type=Path, metavar="FILE", help="Where they ended, as --keep-ends wrote it.")
        parser.add_argument(
            "--keep-ends",
            type=Path,
            metavar="FILE",
            help="If all holds, add where the chains end now.",
        )

    def handle(
        self,
        *,
        since: datetime | None,
        archive: Path | None,
        ends: Path | None,
        keep_ends: Path | None,
        **options: Any,
    ) -> None:
        try:
            if archive is not None:
                self._check_archive(archive)
                return
            known = self._kept(ends) if ends is not None else None
            report = check(known) if since is None else verify(since, known)
            self._tell(report)
            if keep_ends is not None:
                self._keep(keep_ends)
        except keyring.KeyringError as error:
            raise CommandError(f"{error} {error.hint}") from None

    def _tell(self, report: Report) -> None:
        for broken in report.broken:
            self.stdout.write(f"BROKEN  {broken}")
        if not report.guarded:
            self.stdout.write("BROKEN  the database does not refuse changes: its triggers are missing, off or changed")
        self.stdout.write(f"{report.events} events in {report.chains} chains checked.")
        if not report.holds:
            sys.exit(1)
        self.stdout.write("The audit trail holds.")

    def _kept(self, path: Path) -> Ends:
        try:
            return kept(path)
        except EndsUnfit as unfit:
            self.stdout.write(f"BROKEN  {path}: {unfit}")
            sys.exit(1)
        except OSError as error:
            raise CommandError(f"{path} cannot be read: {error.strerror}.") from None

    def _keep(self, path: Path) -> None:
        try:
            keep(path)
        except OSError as error:
            raise CommandError(f"{path} cannot be written: {error.strerror}.") from None

    def _check_archive(self, path: Path) -> None:
        try:
            fault = fault_in(path)
        except OSError as error:
            raise CommandError(f"{path} cannot be read: {error.strerror}.") from None
        if fault:
            self.stdout.write(f"BROKEN  {path}: {fault}")
            sys.exit(1)
        self.stdout.write("The archive holds.")
