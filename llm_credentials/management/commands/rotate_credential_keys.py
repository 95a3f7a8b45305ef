"""``manage.py rotate_credential_keys``: move every stored key to the first key of ``CREDENTIAL_KEYS``."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError

from llm_credentials import canary, keyring, rotation
from llm_credentials.audit import AuditUnavailable

BAR_WIDTH = 40


class Command(BaseCommand):
    help = (
        "Re-seal every stored key under the first key of CREDENTIAL_KEYS, while the site runs. "
        "Put the new key first and keep the old one behind it; afterwards this says whether the old one may go."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="Only say what would be done; nothing is written.")
        parser.add_argument("--batch", type=int, default=200, help="Rows in one transaction (default 200).")
        parser.add_argument(
            "--verify", action="store_true", help="Then open every row once and mark what does not open."
        )
        parser.add_argument(
            "--give-up-lost",
            action="store_true",
            help="Go on although rows are sealed under a key that is not on the ring; they are marked for re-entry.",
        )

    def handle(self, *, dry_run: bool, batch: int, verify: bool, give_up_lost: bool, **options: Any) -> None:
        if not 1 <= batch <= 10_000:
            raise CommandError("--batch is a whole number from 1 to 10000.")
        try:
            self._refuse_wrong_ring(give_up_lost)
            before = rotation.figures()
            if dry_run:
                self._report(before)
                waiting = sum(before.old.values())
                self.stdout.write(f"Nothing was written. {waiting} rows would be re-sealed.")
                return
            moved = rotation.rotate(batch=batch, tell=self._bar("Re-sealing", sum(before.old.values())))
            unreadable = rotation.verify(batch=batch, tell=self._bar("Verifying", before.total)) if verify else None
        except keyring.KeyringError as error:
            raise CommandError(f"{error} {error.hint}") from None
        except (OperationalError, AuditUnavailable):
            raise CommandError("The database is away or too busy. What is done is done: run this again.") from None
        self._report(rotation.figures())
        self.stdout.write(
            f"{moved.resealed} re-sealed, {moved.changed_meanwhile} replaced by their owners meanwhile, "
            f"{len(moved.unreadable)} that do not open."
        )
        if unreadable is not None:
            self.stdout.write(f"Verified: {unreadable} rows do not open.")

    def _refuse_wrong_ring(self, give_up_lost: bool) -> None:
        """A mistake in the setting must not mark everybody's keys as lost."""
        lost = canary.examine()
        if lost:
            raise CommandError(
                f"The key {sorted(lost)[0]!r} is not the one that this database was sealed with. {canary.LOST_HINT}"
            )
        stranded = canary.stranded_rows()
        if stranded and not give_up_lost:
            ids = ", ".join(repr(key_id) for key_id in sorted(stranded))
            raise CommandError(
                f"{sum(stranded.values())} rows are sealed under {ids}, which CREDENTIAL_KEYS does not hold. "
                "Put that key back, or pass --give-up-lost to have their owners enter them again."
            )

    def _report(self, figures: rotation.Figures) -> None:
        ring = keyring.ring()
        self.stdout.write(f"CURRENT     {figures.current:>8}  sealed under {ring.primary.id}")
        for key_id, rows in sorted(figures.old.items()):
            self.stdout.write(f"OLD         {rows:>8}  sealed under {key_id}")
        for key_id, rows in sorted(figures.unreadable.items()):
            self.stdout.write(f"UNREADABLE  {rows:>8}  {f'sealed under {key_id}' if key_id else 'not a sealed text'}")
        self.stdout.write(f"EMPTY       {figures.empty:>8}  without a key")
        for key_id, droppable in figures.droppable.items():
            may = "may be dropped from CREDENTIAL_KEYS" if droppable else "is still needed"
            self.stdout.write(f"The key {key_id} {may}.")

    def _bar(self, title: str, total: int) -> Callable[[int], None]:
        """On a terminal a bar, elsewhere nothing."""
        done, ended = 0, False

        def tell(rows: int) -> None:
            nonlocal done, ended
            done += rows
            if ended or not sys.stderr.isatty():
                return
            # Further passes take up rows that were written meanwhile: the bar is full by then.
            shown = min(done, total)
            filled = "#" * (BAR_WIDTH * shown // total if total else BAR_WIDTH)
            ended = shown == total
            self.stderr.write(f"\r{title} {filled:<{BAR_WIDTH}} {shown}/{total}", ending="\n" if ended else "")

        return tell
