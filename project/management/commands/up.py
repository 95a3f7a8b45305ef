from __future__ import annotations

import sys
from argparse import ArgumentParser
from contextlib import suppress
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, connections

from llm_credentials import canary
from project import env

LOST_RING = (
    "CREDENTIAL_KEYS is empty, but what this database holds is sealed. A new key would open nothing of it, so none was "
    "made. Put back what CREDENTIAL_KEYS held, from the backup of .env. If it is lost for good, set a new key under an "
    "id that was never used (docs/backup.md says how): every stored key must then be entered again."
)


class Command(BaseCommand):
    help = "Start the whole site on this machine: Valkey, sandbox provider, web server, worker. Ctrl-C stops it."
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--port", type=int, help="default: PORT, else 8000")
        parser.add_argument("--host", help="default: HOST, else 127.0.0.1")

    def handle(self, *args: Any, port: int | None, host: str | None, **options: Any) -> None:
        from project.supervisor import Supervisor

        _refuse_a_second_ring()
        if made := env.complete_env_file():
            self.say(f"Wrote {' and '.join(made)} to .env. Keep that file: stored API keys open with it alone.")
        port = env.whole("PORT", default=8000) if port is None else port
        host = host or env.text("HOST", "127.0.0.1")
        sys.exit(Supervisor(self.say, port=port, host=host).run())

    def say(self, text: str) -> None:
        with suppress(OSError):  # the terminal may be gone; children must still be stopped
            self.stdout.write(text)
            self.stdout.flush()


def _refuse_a_second_ring() -> None:
    """Call it before anything is written. Raises CommandError."""
    if env.secret("CREDENTIAL_KEYS"):
        return
    try:
        if canary.holds_sealed_rows():
            raise CommandError(LOST_RING)
    except DatabaseError as error:
        raise CommandError(
            "CREDENTIAL_KEYS is empty, and the database does not say whether it holds sealed keys "
            f"({type(error).__name__}): make it answer first. Nothing was written."
        ) from None
    finally:
        connections.close_all()
